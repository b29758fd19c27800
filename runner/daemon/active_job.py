"""A job while it has a slot: which of its images are over, in flight and to come."""

from __future__ import annotations

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
    """Mutable, owned by the worker; numbers of images count from 1.

    `over` are the images that ended, `numbers` those to come, `in_flight` those that the slot has.
    `rendered` and `seconds` are what the time left is estimated from. `heard_at` is the monotonic
    moment of the last event of an image in flight.
    """

    record: Record
    over: set[int]
    numbers: deque[int]
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    rendered: int = 0
    seconds: float = 0.0
    cancelled: bool = False
    composed: Composed = ()
    heard_at: float = 0.0
    phase: Phase = Phase.LOADING

    def progress(self, event: Progressed) -> Progress:
        """The job's progress when its image reports this."""
        part = event.step / event.steps if event.steps else 0.0
        part = 1.0 if event.phase in (Phase.DECODING, Phase.SAVING) else part
        total = self.record.total
        left = total - len(self.over) - part
        each = self.seconds / self.rendered if self.rendered else None
        return Progress(
            phase=str(event.phase),
            image=event.task.index,
            step=event.step,
            steps=event.steps,
            fraction=round((total - left) / total, 4),
            eta_seconds=None if each is None else round(each * left, 1),
        )

    def is_hung(self, moment: float) -> bool:
        """Whether what is in flight is silent far beyond its timeout; loading does not count."""
        limits = [each.task.timeout for each in self.in_flight.values() if each.task.timeout]
        if not limits or self.phase == Phase.LOADING:
            return False
        patience = max(_HUNG_AFTER_TIMEOUTS * max(limits), _HUNG_AFTER_SECONDS)
        return moment - self.heard_at > patience
