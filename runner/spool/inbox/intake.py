"""The intake scans the inbox again and again, and makes a job of every drop.

A scan obeys control files first, then takes the settled specs in natural order, but first those
that a cancel waits for. A batch becomes jobs by one commit of the ledger; only then are the
folders, statuses and receipts written, and a file leaves the inbox last, if it is still the file
that was read. All of it is safe to repeat.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from runner.clock import monotonic
from runner.errors import PlaceAway
from runner.files import is_there
from runner.log_once import LogOnce
from runner.spool.inbox.acknowledge import Acknowledgement, Acknowledger, finish_acknowledgements
from runner.spool.inbox.assess import Assessment, Catalogue, assess, uncomposed
from runner.spool.inbox.compose_pool import ComposePool, PendingDrop, may_compose
from runner.spool.inbox.control import Controls
from runner.spool.inbox.entry import record_of
from runner.spool.inbox.ids import Ids
from runner.spool.inbox.inputs import TABLE
from runner.spool.inbox.settle import Drop, Settler
from runner.spool.inbox.waiting import InputWait
from runner.spool.inbox.watcher import Watcher
from runner.spool.store.names import (
    id_from_file,
    is_conflict_copy,
    is_control,
    is_spec,
    natural_order,
)
from runner.spool.store.spool import Spool
from runner.stop_signals import StopRequest

log = logging.getLogger(__name__)

# A batch costs a few syncs however large it is; its specs are held in memory.
_BATCH = 512
_BATCH_BYTES = 8 << 20
_POLLING_SECONDS = 1.0
_CONTROLS_SECONDS = 0.5
_AGAIN_SECONDS = 1.0
_BROKEN = Assessment(
    reason="Internal", message="fluxdrop could not take this spec (a bug): see the runner's log"
)


class Intake:
    """Makes jobs of the files in the inbox; `run` is the loop of its thread."""

    def __init__(
        self, spool: Spool, catalogue: Catalogue,
        *, on_change: Callable[[], None], on_cancel: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._spool = spool
        self._home = home = spool.home
        self._inbox = home.inbox
        self._ledger = spool.ledger
        self._catalogue = catalogue
        self.faults = spool.faults
        self._on_change = on_change
        self.wake = threading.Event()
        self.watcher = Watcher(home.inbox, self.wake)
        self._settler = Settler(home.settings)
        self._waiting = InputWait(spool)
        self._ids = Ids(spool)
        self._acknowledger = Acknowledger(spool, self._waiting)
        self.controls = Controls(
            spool, catalogue, self._waiting, self._ids, self._acknowledger, on_cancel=on_cancel
        )
        self._compose_pool = ComposePool(home, catalogue, self.wake)
        # By name, the specs that wait for their tables.
        self._held: dict[str, tuple[Drop, Assessment]] = {}
        self._log_once = LogOnce("scanning the inbox")
        self._interrupted = False
        self._shown_until = 0.0
        self._suspects = spool.ledger.suspects()
        self.unsettled = 0
        self.waiting_files: dict[str, str] = {}
        self.scans = 0

    @property
    def waits_for_inputs(self) -> bool:
        """Whether jobs wait for input images, which a job may just have made."""
        return self._waiting.any_waiting

    def run(self, stop: StopRequest) -> None:
        """Scan, wait until woken or until a file may have settled, and scan again."""
        while not stop.is_set():
            self._home.threads.moved("intake")
            self.wake.clear()
            try:
                self._require_places()
                self.watcher.tend(monotonic())
                seconds = self.scan()
                self._log_once.recovered()
            except Exception as error:  # noqa: BLE001 the thread must live
                # A full disk or a vanished folder is waited out.
                self._log_once.failed(error)
                self._interrupted = True
                seconds = _AGAIN_SECONDS
            self.wake.wait(seconds)
        self.watcher.stop()
        self._compose_pool.keep_only(set())

    def _require_places(self) -> None:
        """Raise PlaceAway where a folder of the home is away: what lies there is not looked at."""
        away = self._home.places.away()
        if away is not None:
            # An unmounted folder is watched in vain, also once it is back.
            self.watcher.stop()
            raise PlaceAway(away)

    def scan(self) -> float:
        """Scan the whole inbox once; return the seconds after which to scan it again."""
        moment = monotonic()
        if self._interrupted or self.faults:
            finish_acknowledgements(self._spool)
        renamed_in = self.watcher.take_renamed_in()
        names = self._list_inbox()
        # Where a file at fault was taken away, the next scan finishes its acknowledgement.
        self._interrupted = self.faults.forget_gone()
        specs = sorted((name for name in names if is_spec(name)), key=natural_order)
        self._compose_pool.keep_only(set(specs))
        self._settler.keep_only(set(specs))
        self._settler.settings = self._home.settings
        self._held = {name: self._held[name] for name in self._held.keys() & specs}
        changed = self._obey(names)
        rescan = self._home.settings.rescan_seconds
        waits = [rescan if self.watcher.mode == "events" else min(rescan, _POLLING_SECONDS)]
        if self._interrupted:
            waits.append(_AGAIN_SECONDS)
        batch: list[Drop] = []
        size, unsettled = 0, set()
        for name in self._in_turn(specs, batch):
            result = None
            if name is not None:
                with self.faults.isolated(self._inbox / name):
                    result = self._check(name, renamed_in=name in renamed_in)
            if isinstance(result, Drop):
                batch.append(result)
                size += result.size
            elif result is not None:
                unsettled.add(name)
                waits.append(result)
            if batch and (name is None or len(batch) >= _BATCH or size >= _BATCH_BYTES):
                self.accept(batch)
                changed, size = True, 0
                batch.clear()
        self.unsettled = len(unsettled | self._held.keys()) + len(self._compose_pool)
        self.waiting_files = self._settler.waiting()
        if self._held:
            waits.append(_CONTROLS_SECONDS)
        self.scans += 1
        changed |= self._waiting.gather_all()
        if moment >= self._shown_until:
            self._shown_until = moment + rescan
            self._spool.outbox.show_queued_again()
        waits.append(self.faults.seconds_to_next_try)
        waits.append(self._waiting.seconds_to_next_check)
        waits.append(self.controls.seconds_to_next_check)
        if changed:
            self._on_change()
        return max(min(waits), 0.01)

    def _in_turn(self, specs: Sequence[str], batch: Sequence[Drop]) -> Iterator[str | None]:
        """The names of specs in their order, and before it of those that a cancel waits for.

        None ends a batch. Between batches control files are obeyed: a cancel must not wait for the
        end of a long inbox, nor for its spec's turn there.
        """
        yield from (*self.controls.awaited(), None)
        obeyed_at = monotonic()
        for name in specs:
            yield name
            if not batch and monotonic() - obeyed_at >= _CONTROLS_SECONDS:
                self.obey()
                yield from (*self.controls.awaited(), None)
                obeyed_at = monotonic()
        yield None

    def _check(self, name: str, *, renamed_in: bool) -> Drop | float | None:
        """A drop that is settled or was assessed in the pool, the seconds to wait, or None."""
        file = self._inbox / name
        if self.faults.seconds_left(file):
            return None
        pending = self._compose_pool.find(file)
        if pending and pending.assessment and pending.assessment.awaits:
            # Its table has gone again: it is held from the next look on.
            self._compose_pool.forget([name])
        elif pending is not None:
            # The pool wakes the intake when it has been assessed.
            return pending.drop if pending.assessment else None
        # The time now: with that of the scan's start, a long scan would count as time unchanged.
        now = monotonic()
        result = self._settler.check(file, now, renamed_in=renamed_in)
        drop, assessment = self._held.get(name, (None, _BROKEN))
        if drop is None or not isinstance(result, Drop) or result.signature != drop.signature:
            return result
        if self._is_cancelled(drop, assessment) or not self._lacks_table(assessment):
            del self._held[name]
            return result
        return self._settler.hold(drop, assessment.realised[TABLE], now)

    def _lacks_table(self, assessment: Assessment) -> bool:
        table = assessment.realised.get(TABLE)
        return table is not None and not self._waiting.is_settled(table)

    def _list_inbox(self) -> list[str]:
        """The names of the files in the inbox; a folder with a file's name is at fault."""
        names = []
        with os.scandir(self._inbox) as entries:
            for entry in entries:
                try:
                    if not entry.is_dir(follow_symlinks=False):
                        names.append(entry.name)
                    elif is_spec(entry.name) or is_control(entry.name):
                        raise IsADirectoryError(errno.EISDIR, "a folder")
                except OSError as error:
                    if not self.faults.seconds_left(self._inbox / entry.name):
                        self.faults.add(self._inbox / entry.name, error)
        return names

    def obey(self) -> None:
        """Obey the control files that lie in the inbox now."""
        self._obey(self._list_inbox())

    def _obey(self, names: list[str]) -> bool:
        """Obey the control files, for pending drops too; whether anything changed."""
        composing = len(self._compose_pool) > 0 or len(self._held) > 0
        changed = self.controls.obey(names, monotonic(), composing=composing)
        for pending in self._compose_pool:
            if self._is_cancelled(pending.drop, pending.uncomposed):
                self._compose_pool.cancel(pending)
        return changed

    def _is_cancelled(self, drop: Drop, assessment: Assessment) -> bool:
        job_id = assessment.explicit_id or id_from_file(drop.name)
        return self.controls.awaits(drop.name, job_id)

    def accept(self, drops: Sequence[Drop]) -> None:
        """Make jobs of settled drops; where one raises, only that one is rejected or skipped."""
        self.faults.all_or_each(drops, self._accept, self._accept_failed)

    def _accept_failed(self, drop: Drop, error: Exception) -> None:
        self._compose_pool.forget([drop.name])
        with self.faults.isolated(self._inbox / drop.name):
            if isinstance(error, OSError):
                # It may be temporary, and is not the spec's fault.
                raise error
            log.error("%r cannot be taken", drop.name, exc_info=error)
            self._accept([drop], _BROKEN)

    def _accept(self, drops: Sequence[Drop], refusal: Assessment | None = None) -> None:
        """Make jobs of drops: one commit, then the acknowledgements."""
        suspects = self._suspects
        if stuck := self._ledger.stuck():
            # Only their removal is tried again.
            over = [drop for drop in drops if drop.identity in stuck]
            if over:
                self._settler.forget(self._acknowledger.take_out(over))
            drops = [drop for drop in drops if drop.identity not in stuck]
        known = self._ledger.with_identities([drop.identity for drop in drops])
        fresh = [drop for drop in drops if drop.identity not in known]
        hashes = {drop.sha256 for drop in fresh if drop.data} - suspects
        self._ledger.mark_suspects(hashes)
        assessments = {
            d.name: refusal or self._assessment(d, suspect=d.sha256 in suspects) for d in fresh
        }
        acknowledgements, new = [], []
        with self._ledger.transaction():
            for drop in drops:
                assessment = assessments.get(drop.name)
                if assessment is None:
                    acknowledgements.append(Acknowledgement(drop, known[drop.identity]))
                elif assessment.uncomposed and not self._is_cancelled(drop, assessment):
                    if self._lacks_table(assessment):
                        self._held[drop.name] = drop, assessment
                    elif self._compose_pool.of(drop) is None:
                        # Its place in the order is that of its arrival, not of its assessment.
                        new.append(PendingDrop(drop, assessment, self._ledger.reserve()))
                else:
                    acknowledgements.append(self._enter(drop, assessment))
            hashes.update(ack.drop.sha256 for ack in acknowledgements)
            self._ledger.clear_suspects(hashes)
        suspects -= hashes
        for pending in new:
            with self.faults.isolated(self._inbox / pending.drop.name):
                self._compose_pool.begin(pending)
        if acknowledgements:
            # One that stays in the inbox stays settled.
            self._settler.forget(self._acknowledger.acknowledge(acknowledgements))
        self._compose_pool.forget([ack.drop.name for ack in acknowledgements])

    def _enter(self, drop: Drop, assessment: Assessment) -> Acknowledgement:
        wanted = assessment.explicit_id
        holder = self._ids.holder(wanted) if wanted else None
        existing = holder if holder and holder.source_sha256 == drop.sha256 else None
        if existing is None and self._home.settings.synced_inbox:
            existing = self._ledger.newest_of_content(drop.name, drop.sha256, drop.mtime_ns)
        if existing is not None:
            # Of the same id and bytes, or delivered again by a sync tool.
            return Acknowledgement(drop, existing, absorbed=True)
        job_id = wanted or self._ids.free(id_from_file(drop.name))
        if wanted and not self._ids.take(wanted):
            # The holder's id may be written in another case.
            folder = f"outbox/{holder.id if holder else wanted}"
            assessment = Assessment(
                reason="IdConflict",
                message=f"the id {wanted!r} belongs to another spec: choose another id, or move "
                f"{folder} away",
            )
            job_id = self._ids.free(f"{job_id[:70]}.conflict-{drop.sha256[:8]}")
        pending = self._compose_pool.of(drop)
        seq = pending.seq if pending else 0
        record = record_of(drop, assessment, job_id, seq)
        composed = (*assessment.composed, *assessment.left_out)
        record = self._ledger.accept(record, drop.identity, composed)
        if assessment.uncomposed or self.controls.awaits(record.id, record.source_name):
            self._ledger.cancel(record.seq)
            record = self._ledger.get(record.seq)
        return Acknowledgement(drop, record)

    def _assessment(self, drop: Drop, *, suspect: bool) -> Assessment:
        """The assessment of a drop, `uncomposed` where it is to be made in another process.

        A `suspect` was being read when a process ended, and may end the next one too.
        """
        synced = self._home.settings.synced_inbox
        if is_conflict_copy(drop.name, self._has_come, synced=synced):
            return Assessment(
                reason="SyncConflictCopy",
                message="a sync tool made this copy of a file that two sides changed: "
                "keep the one you want and drop it under its own name",
            )
        pending = self._compose_pool.of(drop)
        if pending is not None and pending.assessment is not None:
            return pending.assessment
        if suspect and drop.data:
            return Assessment(uncomposed=True)
        if drop.refused:
            return Assessment(reason=drop.refused[0], message=drop.refused[1])
        before = uncomposed(drop.data, drop.name, self._home) if may_compose(drop) else None
        found = before or assess(drop.data, drop.name, self._home, self._catalogue)
        return replace(found, uncomposed=True) if found.awaits else found

    def _has_come(self, name: str) -> bool:
        """Whether a file of this name lies in the inbox, or has become a job."""
        return is_there(self._inbox / name) or self._ledger.newest_of_file(name) is not None
