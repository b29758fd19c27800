"""A job while it has a slot: its images in flight and to come, and its progress."""

from collections import deque
from dataclasses import dataclass, field

from runner.daemon.tasks import Composed, InFlight
from runner.executor import Progressed
from runner.job import Phase
from runner.spool.store.record import Record
from runner.wire import Progress

# A step may end just before the limit and the next one report just after it.
_HUNG_AFTER_TIMEOUTS = 2.0
_HUNG_AFTER_SECONDS = 30.0


@dataclass
class ActiveJob:
    """Mutable, owned by the worker.

    `numbers` are the images to come, `in_flight` those that the slot has, by number; they count
    from 1. `rendered` images took `seconds`, from which the time left is estimated. `heard_at` is
    the awake clock's time of the last event of an image in flight, and `phase` its phase. A process
    ended during each of the `suspects`; `last` is the image that was started last.
    """

    record: Record
    composed: Composed
    numbers: deque[int]
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    rendered: int = 0
    seconds: float = 0.0
    cancelled: bool = False
    last: int = 0
    heard_at: float = 0.0
    phase: Phase | None = None
    suspects: frozenset[int] = frozenset()

    @property
    def is_alone(self) -> bool:
        """Whether the next image must wait until all before it are written.

        So that what ends the process next is known to be that image, or not to be.
        """
        return not self.suspects.isdisjoint((self.numbers[0], self.last))

    def progress(self, event: Progressed) -> Progress:
        """The job's progress at this event of one of its images."""
        part = event.step / event.steps if event.phase == Phase.DENOISING and event.steps else 0.0
        part = 1.0 if event.phase in (Phase.DECODING, Phase.SAVING) else part
        total = self.record.total
        left = len(self.numbers) + len(self.in_flight) - part
        return Progress(
            phase=str(event.phase),
            image=event.task.index,
            step=event.step,
            steps=event.steps,
            fraction=round((total - left) / total, 4),
            eta_seconds=round(self.seconds / self.rendered * left, 1) if self.rendered else None,
        )

    def is_hung(self, moment: float) -> bool:
        """Whether the images in flight are silent far beyond their timeouts; never in loading."""
        limits = [image.task.timeout for image in self.in_flight.values() if image.task.timeout]
        if not limits or self.phase in (None, Phase.LOADING):
            return False
        limit = max(_HUNG_AFTER_TIMEOUTS * max(limits), _HUNG_AFTER_SECONDS)
        return moment - self.heard_at > limit
