"""The scheduler: of which job a slot makes the next image.

Highest priority first; within one priority, jobs that share the slot's loaded model go together,
oldest first, until that model has held the slot for `hold_minutes` while an older job needs
another. A slot goes on with its job, helps another that runs, or begins one of the queue, which is
the ledger. It keeps when closed hours open, by the wall clock: after a start, and whenever that
clock was set, this is computed again.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from runner.clock import ready_at
from runner.holds import Hold
from runner.job import State
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

_WRONG_HOURS = Hold(
    "Internal",
    "its hours cannot be worked out: mend `not_before` and `window`, drop it again",
)
# A clock that is set moves against the monotonic one; between two looks at both little time passes.
_SET_SECONDS = 1.0


@dataclass(frozen=True)
class _Loaded:
    """The model of a slot's last job, and since when, by the monotonic clock."""

    model: str | None
    since: float


class Scheduler:
    """Chooses among the queued jobs of one ledger."""

    def __init__(self, spool: Spool) -> None:
        self._home = spool.home
        self._ledger = spool.ledger
        self._loaded: dict[str, _Loaded] = {}
        self._between_clocks: float | None = None

    def next(
        self,
        slot: str,
        own: Record | None,
        running: Sequence[Record],
        moment: float,
        wall: float,
    ) -> Record | None:
        """The job whose image a slot makes next, one of `running` or a queued one; None for none.

        `running` have images to come; `own` is the one of them that the slot worked on last.
        `moment` is monotonic, `wall` seconds since the epoch. A queued job whose hours turn out to
        be closed or wrong is put off or failed on the way.
        """
        self._follow_clock(moment, wall)
        loaded = self._loaded.get(slot, _Loaded(None, 0.0))
        held_long = moment - loaded.since >= self._home.settings.hold_minutes * 60
        while (record := self._choose(loaded.model, held_long, own, running, wall)) is not None:
            if record.state == State.RUNNING:
                return record
            opening = self._opening(record, wall)
            if opening is not None and opening <= wall:
                return record
            if opening is not None:
                self._ledger.put_off(record.seq, opening)
        return None

    def started(self, slot: str, model: str | None, moment: float) -> None:
        """Note that a slot begins an image of a job with this model."""
        loaded = self._loaded.get(slot)
        if loaded is None or model != loaded.model:
            self._loaded[slot] = _Loaded(model, moment)

    def lost(self, slot: str) -> None:
        """Note that what a slot had loaded is gone."""
        self._loaded.pop(slot, None)

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
            log.exception("job %s: its hours cannot be worked out", record.id)
            self._ledger.end(record.seq, _WRONG_HOURS)
            return None

    def _choose(
        self,
        model: str | None,
        held_long: bool,
        own: Record | None,
        running: Sequence[Record],
        wall: float,
    ) -> Record | None:
        first = next(iter(self._ledger.ready(wall, 1)), None)
        able = [*running, *([first] if first is not None else [])]
        if not able:
            return None
        priority = max(record.priority for record in able)
        if own is not None and own.priority == priority:
            if not (held_long and self._ledger.ready_before(wall, own, model)):
                return own
            able = [record for record in able if record.seq != own.seq]
        able = [record for record in able if record.priority == priority]
        if not held_long:
            alike = [record for record in able if record.model == model]
            if first in able and first not in alike:
                waits = self._ledger.ready_with_model(wall, priority, model)
                alike += [waits] if waits is not None else []
            able = alike or able
        return min(able, key=lambda record: record.seq)
