"""The scheduler: which queued job runs next.

Highest priority first; within one priority, jobs that share the loaded model go together, oldest
first, until that model has held the device for `hold_minutes` while an older job needs another.
The queue itself is the ledger.
"""

from __future__ import annotations

import logging

from runner.clock import ready_at
from runner.holds import Hold
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

_WRONG_HOURS = Hold(
    "Internal",
    "its hours cannot be worked out: mend `not_before` and `window`, drop it again",
)


class Scheduler:
    """Chooses among the queued jobs of one ledger."""

    def __init__(self, spool: Spool) -> None:
        self._hold_seconds = spool.home.settings.hold_minutes * 60
        self._ledger = spool.ledger
        self._model: str | None = None
        self._held_since = 0.0

    def next(self, moment: float, wall: float) -> Record | None:
        """The job to run next, or None. `moment` is monotonic, `wall` seconds since the epoch.

        A job whose hours turn out to be closed or wrong is put off or failed on the way.
        """
        while True:
            record = self._choose(moment, wall)
            if record is None:
                return None
            try:
                opening = ready_at(record.realised, wall)
            except Exception:
                log.exception("the hours of %s cannot be worked out", record.id)
                self._ledger.end(record.seq, _WRONG_HOURS)
                continue
            if opening <= wall:
                return record
            self._ledger.put_off(record.seq, opening)

    def outranks(self, running: Record, moment: float, wall: float) -> bool:
        """Whether a queued job should run next instead of going on with the one that runs."""
        top = self._ledger.highest_ready_priority(wall)
        if top is None or top < running.priority:
            return False
        if top > running.priority:
            return True
        if not self._has_held_long(moment):
            return False
        return self._ledger.ready_before(wall, running, self._model) is not None

    def started(self, model: str | None, moment: float) -> None:
        """Note that a job with this model begins to run."""
        if model != self._model:
            self._model, self._held_since = model, moment

    def seconds_to_opening(self, wall: float) -> float | None:
        """Seconds until the first job outside its hours may run; None where there is none."""
        closed = self._ledger.next_to_open(wall)
        return closed.ready_at - wall if closed else None

    def _choose(self, moment: float, wall: float) -> Record | None:
        first = next(iter(self._ledger.ready(wall, 1)), None)
        if first is None or first.model == self._model or self._has_held_long(moment):
            return first
        return self._ledger.ready_with_model(wall, first.priority, self._model) or first

    def _has_held_long(self, moment: float) -> bool:
        return moment - self._held_since >= self._hold_seconds
