"""A job while it runs: its images to come, those that slots have, and its progress."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from runner.daemon.tasks import Composed, InFlight
from runner.executor import Progressed
from runner.holds import Hold
from runner.job import Phase
from runner.spool.store.record import Record
from runner.wire import Progress

# A step may end just before the limit and the next one report just after it.
_HUNG_AFTER_TIMEOUTS = 2.0
_HUNG_AFTER_SECONDS = 30.0


@dataclass
class ActiveJob:
    """Mutable, owned by the worker.

    `numbers` are the images to come and `dispatches` what the slots have of it, by their names;
    images count from 1. `rendered` images took `seconds`, from which the time left is estimated. A
    process ended during each of the `suspects`; `last` is the image that a slot was given last.
    `failure` is why the job must end. `previewed` is the slot whose preview is shown. Of the
    `unasked` it is yet to be seen whether their pictures exist already: none, where they are not to
    be reused; of the `new` they did not, and what each of these asks for is its value. Where it
    `is_first` of its setup, that is not known before an image of it is made.
    """

    record: Record
    composed: Composed
    numbers: OrderedDict[int, None]
    dispatches: dict[str, Dispatch] = field(default_factory=dict)
    rendered: int = 0
    seconds: float = 0.0
    cancelled: bool = False
    failure: Hold | None = None
    last: dict[str, int] = field(default_factory=dict)
    suspects: frozenset[int] = frozenset()
    previewed: str | None = None
    unasked: deque[int] = field(default_factory=deque)
    new: dict[int, str] = field(default_factory=dict)
    is_first: bool = False

    @property
    def reuses(self) -> bool:
        """Whether pictures that exist already are copied."""
        return self.record.realised.get("reuse") is True

    @property
    def may_go_on(self) -> bool:
        """Whether an image of it is left for a slot."""
        return bool(self.numbers) and not self.cancelled and self.failure is None

    def give_back(self, numbers: Iterable[int]) -> None:
        """Put images back, which come first then, in their order."""
        for number in sorted(numbers, reverse=True):
            self.numbers[number] = None
            self.numbers.move_to_end(number, last=False)

    def is_alone(self, slot: str) -> bool:
        """Whether a slot's next image must wait until all before it are written.

        So that what ends the process next is known to be that image, or not to be.
        """
        return not self.suspects.isdisjoint((next(iter(self.numbers)), self.last.get(slot)))

    def progress(self, event: Progressed) -> Progress:
        """The job's progress at this event of one of its images."""
        in_flight = [each.images_left for each in self.dispatches.values()]
        left = len(self.numbers) + sum(in_flight)
        seconds = self.seconds / self.rendered * left / len(in_flight) if self.rendered else None
        return Progress(
            phase=str(event.phase),
            image=event.task.index,
            step=event.step,
            steps=event.steps,
            fraction=round((self.record.total - left) / self.record.total, 4),
            eta_seconds=None if seconds is None else round(seconds, 1),
        )


@dataclass
class Dispatch:
    """The images of a job that one slot has, by number; mutable, owned by the worker.

    `heard_at` is the awake clock's time of their last event, and `latest` what it said.
    """

    job: ActiveJob
    images: dict[int, InFlight]
    heard_at: float
    latest: Progressed | None = None

    @property
    def phase(self) -> Phase | None:
        return self.latest.phase if self.latest else None

    @property
    def images_left(self) -> float:
        """How many of its images are left to do, the one that was heard of in parts."""
        event = self.latest
        if event is None:
            return len(self.images)
        painted, done = 0.5 if event.task.upscale > 1 else 1.0, event.step / (event.steps or 1)
        parts = {Phase.DENOISING: painted * done, Phase.DECODING: painted, Phase.SAVING: 1.0}
        parts[Phase.UPSCALING] = painted + (1 - painted) * done
        return len(self.images) - parts.get(event.phase, 0.0)

    def is_hung(self, moment: float) -> bool:
        """Whether its images are silent far beyond their timeouts; never in loading."""
        limits = [image.task.timeout for image in self.images.values() if image.task.timeout]
        if not limits or self.phase in (None, Phase.LOADING):
            return False
        limit = max(_HUNG_AFTER_TIMEOUTS * max(limits), _HUNG_AFTER_SECONDS)
        return moment - self.heard_at > limit
