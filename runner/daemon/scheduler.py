"""The scheduler: which queued job runs next.

Highest priority first; within one priority, jobs that share the loaded model go together, oldest
first, until that model has held the device for `hold_minutes` while an older job needs another.
The queue itself is the ledger. It keeps when closed hours open, by the wall clock: after a start,
and whenever that clock was set, this is computed again.
"""

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
# A clock that is set moves against the monotonic one; between two looks at both little time passes.
_SET_SECONDS = 1.0


class Scheduler:
    """Chooses among the queued jobs of one ledger."""

    def __init__(self, spool: Spool) -> None:
        self._hold_seconds = spool.home.settings.hold_minutes * 60
        self._ledger = spool.ledger
        self._model: str | None = None
        self._held_since = 0.0
        self._between_clocks: float | None = None

    def next(self, moment: float, wall: float) -> Record | None:
        """The job to run next, or None. `moment` is monotonic, `wall` seconds since the epoch.

        A job whose hours turn out to be closed or wrong is put off or failed on the way.
        """
        self._follow_clock(moment, wall)
        while (record := self._choose(moment, wall)) is not None:
            opening = self._opening(record, wall)
            if opening is not None and opening <= wall:
                return record
            if opening is not None:
                self._ledger.put_off(record.seq, opening)
        return None

    def outranks(self, running: Record, moment: float, wall: float) -> bool:
        """Whether a queued job should run next instead of going on with the one that runs."""
        self._follow_clock(moment, wall)
        first = self._first(wall)
        if first is None or first.priority != running.priority:
            return first is not None and first.priority > running.priority
        if not self._has_held_long(moment):
            return False
        return self._ledger.ready_before(wall, running, self._model) is not None

    def started(self, model: str | None, moment: float) -> None:
        """Note that a job with this model begins to run."""
        if model != self._model:
            self._model, self._held_since = model, moment

    def seconds_to_opening(self, wall: float) -> float | None:
        """Seconds until the first job outside its hours may run; None where there is none."""
        closed = self._ledger.closed(wall, limit=1)
        return closed[0].ready_at - wall if closed else None

    def _follow_clock(self, moment: float, wall: float) -> None:
        """Compute again when closed hours open, where the wall clock was set since the last look.

        Not needed for those whose moment has come: `next` computes them before they run.
        """
        between = wall - moment
        if self._between_clocks is not None:
            if abs(between - self._between_clocks) < _SET_SECONDS:
                return
            log.info("the wall clock moved by %+.1f s", between - self._between_clocks)
        openings = {
            record.seq: opening
            for record in self._ledger.closed(wall)
            if (opening := self._opening(record, wall)) not in (None, record.ready_at)
        }
        if openings:
            with self._ledger.transaction():
                for seq, opening in openings.items():
                    self._ledger.put_off(seq, opening)
        self._between_clocks = between

    def _opening(self, record: Record, wall: float) -> float | None:
        """When the hours of a job open; None where they are wrong, which ends the job."""
        try:
            return ready_at(record.realised, wall)
        except Exception:
            log.exception("the hours of %s cannot be worked out", record.id)
            self._ledger.end(record.seq, _WRONG_HOURS)
            return None

    def _first(self, wall: float) -> Record | None:
        return next(iter(self._ledger.ready(wall, 1)), None)

    def _choose(self, moment: float, wall: float) -> Record | None:
        first = self._first(wall)
        if first is None or first.model == self._model or self._has_held_long(moment):
            return first
        return self._ledger.ready_with_model(wall, first.priority, self._model) or first

    def _has_held_long(self, moment: float) -> bool:
        return moment - self._held_since >= self._hold_seconds
