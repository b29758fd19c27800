"""The intake: one look at the inbox after another, and an answer to every drop.

One look: control files first, then the settled specs in natural order. A batch becomes jobs by one
commit of the ledger; only then are the folders, statuses and receipts written, and a file leaves
the inbox last, if it is still the very file that was read. Doing any of that twice changes nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence

from runner.clock import monotonic, timestamp
from runner.job import State
from runner.log_once import LogOnce
from runner.spool.disk.platform import length_of
from runner.spool.inbox.acknowledge import Acknowledgement, Acknowledger, finish_acknowledgements
from runner.spool.inbox.assess import Assessment, Catalogue, assess, uncomposed
from runner.spool.inbox.compose_pool import ComposePool, PendingDrop, may_compose
from runner.spool.inbox.control import Controls
from runner.spool.inbox.entry import record_of
from runner.spool.inbox.ids import Ids
from runner.spool.inbox.settle import Drop, Settler
from runner.spool.inbox.waiting import InputWait
from runner.spool.inbox.watcher import Watcher
from runner.spool.store.names import id_from_file, is_conflict_copy, is_spec, natural_order
from runner.spool.store.record import CANCELLED, Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# A batch costs a few syncs however large it is; its specs are held in memory.
_BATCH = 512
_BATCH_BYTES = 8 << 20
_POLLING_SECONDS = 1.0
_CONTROLS_SECONDS = 1.0
_AGAIN_SECONDS = 1.0
# What its receipt is written under, aside, is some 30 bytes longer; file systems take 255.
_LONGEST_NAME = 223
_BROKEN = Assessment(
    reason="Internal", message="fluxdrop could not take this spec (a bug): see the runner's log"
)
_UNCOMPOSED = "cancelled before it was planned: drop the spec again to run it"


class Intake:
    """Turns what lies in the inbox into jobs."""

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
        self.controls = Controls(spool, self._waiting, self._ids, on_cancel=on_cancel)
        self._acknowledger = Acknowledger(spool, self._waiting)
        self._compose_pool = ComposePool(home, catalogue, self.wake)
        self._log_once = LogOnce("looking at the inbox")
        self._cut_short = False
        self._suspects = spool.ledger.suspects()
        self.unsettled = 0
        self.scans = 0

    @property
    def waits_for_inputs(self) -> bool:
        """Whether jobs wait for pictures that a finished image may be."""
        return self._waiting.any_waiting

    def run(self, stop: threading.Event) -> None:
        """Look, wait until woken or until a file may have settled, and look again."""
        while not stop.is_set():
            self.wake.clear()
            try:
                self.watcher.tend(monotonic())
                seconds = self.scan()
                self._log_once.recovered()
            except Exception as error:  # noqa: BLE001 the thread must live
                # A full disk or a vanished folder is a condition to wait out, not an end.
                self._log_once.failed(error)
                self._cut_short = True
                seconds = _AGAIN_SECONDS
            self.wake.wait(seconds)
        self.watcher.stop()
        self._compose_pool.close()

    def scan(self) -> float:
        """One look at the whole inbox; the seconds after which another is wanted."""
        moment = controls_at = monotonic()
        if self._cut_short or self.faults.told():
            finish_acknowledgements(self._spool)
        renamed_in = self.watcher.take_renamed_in()
        names = self._list_inbox()
        # The answer to a file at fault that was taken away is finished at the next scan.
        self._cut_short = self.faults.forget_gone()
        specs = sorted((name for name in names if is_spec(name)), key=natural_order)
        there = set(specs)
        self._compose_pool.keep_only(there)
        self._settler.keep_only(there)
        changed = self._obey(names)
        rescan = self._home.settings.rescan_seconds
        wanted = [rescan if self.watcher.mode == "events" else min(rescan, _POLLING_SECONDS)]
        if self._cut_short:
            wanted.append(_AGAIN_SECONDS)
        batch: list[Drop] = []
        size = unsettled = 0
        for name in specs:
            looked = None
            with self.faults.apart(self._inbox / name):
                looked = self._look(name, renamed_in=name in renamed_in)
            if isinstance(looked, Drop):
                batch.append(looked)
                size += looked.size
            elif looked is not None:
                unsettled += 1
                wanted.append(looked)
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                self.accept(batch)
                changed, batch, size = True, [], 0
                if monotonic() - controls_at >= _CONTROLS_SECONDS:
                    # Cancels must not wait for the end of a long inbox.
                    self.obey()
                    controls_at = monotonic()
        if batch:
            self.accept(batch)
            changed = True
        self.unsettled = unsettled + len(self._compose_pool)
        self.scans += 1
        changed |= self._waiting.look(moment)
        wanted.append(self.faults.seconds_to_next_try)
        wanted.append(self._waiting.seconds_to_next_look)
        wanted.append(self.controls.seconds_to_next_look)
        if changed:
            self._on_change()
        return max(min(wanted), 0.01)

    def _look(self, name: str, *, renamed_in: bool) -> Drop | float | None:
        """A drop that can be judged or is, the seconds to wait for one, or None."""
        file = self._inbox / name
        if self.faults.seconds_left(file):
            return None
        if length_of(name) > _LONGEST_NAME:
            raise OSError(errno.ENAMETOOLONG, f"a name has at most {_LONGEST_NAME} bytes")
        aside = self._compose_pool.find(file)
        if aside is not None:
            # Whoever plans it wakes the intake.
            return aside.drop if aside.verdict else None
        # The moment of this very look: a long look is no silence of the file.
        return self._settler.look(file, monotonic(), renamed_in=renamed_in)

    def _list_inbox(self) -> list[str]:
        with os.scandir(self._inbox) as entries:
            return [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]

    def obey(self) -> None:
        """Obey the control files that lie in the inbox now."""
        self._obey(self._list_inbox())

    def _obey(self, names: list[str]) -> bool:
        """Obey the control files, for what is being planned too; whether anything changed."""
        changed = self.controls.obey(names, monotonic(), planning=len(self._compose_pool) > 0)
        for aside in self._compose_pool:
            if self._is_cancelled(aside.drop, aside.uncomposed):
                self._compose_pool.cancel(aside)
        return changed

    def _is_cancelled(self, drop: Drop, verdict: Assessment) -> bool:
        job_id = verdict.explicit_id or id_from_file(drop.name)
        return self.controls.awaits(drop.name, job_id)

    def accept(self, drops: Sequence[Drop]) -> None:
        """Make jobs of settled drops; one that raises is rejected, or set aside, alone."""
        self.faults.all_or_each(drops, self._accept, self._stumble)

    def _stumble(self, drop: Drop, error: Exception) -> None:
        self._compose_pool.forget([drop.name])
        with self.faults.apart(self._inbox / drop.name):
            if isinstance(error, OSError):
                # It may pass, and says nothing against the spec.
                raise error
            log.error("%r cannot be taken", drop.name, exc_info=error)
            self._accept([drop], _BROKEN)

    def _accept(self, drops: Sequence[Drop], refusal: Assessment | None = None) -> None:
        """Make jobs of drops: one commit, then the answers, then the files leave."""
        suspects = self._suspects
        known = self._ledger.with_identities([drop.identity for drop in drops])
        fresh = [drop for drop in drops if drop.identity not in known]
        hashes = {drop.sha256 for drop in fresh if drop.data} - suspects
        self._ledger.mark_suspects(hashes)
        verdicts = {
            d.name: refusal or self._assessment(d, suspect=d.sha256 in suspects) for d in fresh
        }
        answers, asides = [], []
        with self._ledger.transaction():
            for drop in drops:
                verdict = verdicts.get(drop.name)
                if verdict is None:
                    answers.append(Acknowledgement(drop, known[drop.identity]))
                elif verdict.uncomposed and not self._is_cancelled(drop, verdict):
                    if self._compose_pool.of(drop) is None:
                        # Its place in the order is that of its coming, whatever comes meanwhile.
                        asides.append(PendingDrop(drop, verdict, self._ledger.reserve()))
                else:
                    answers.append(self._enter(drop, verdict))
            hashes.update(answer.drop.sha256 for answer in answers)
            self._ledger.clear_suspects(hashes)
        suspects -= hashes
        for aside in asides:
            with self.faults.apart(self._inbox / aside.drop.name):
                self._compose_pool.begin(aside)
        if answers:
            self._acknowledger.give(answers)
        answered = [answer.drop.name for answer in answers]
        self._settler.forget(answered)
        self._compose_pool.forget(answered)
        for name in answered:
            self.faults.forget(self._inbox / name)

    def _enter(self, drop: Drop, verdict: Assessment) -> Acknowledgement:
        same = self._same(drop, verdict)
        if same is not None:
            return Acknowledgement(drop, same, absorbed=True)
        job_id = verdict.explicit_id or self._ids.free(id_from_file(drop.name))
        if verdict.explicit_id and self._ids.is_taken(job_id):
            verdict = Assessment(
                reason="IdConflict",
                message=f"the id {job_id!r} belongs to another spec: choose another id, or move "
                f"outbox/{job_id} away",
            )
            job_id = self._ids.free(f"{job_id[:70]}.conflict-{drop.sha256[:8]}")
        aside = self._compose_pool.of(drop)
        seq = aside.seq if aside else 0
        record = self._ledger.insert(record_of(drop, verdict, job_id, seq))
        if verdict.composed:
            self._ledger.add_composed(record.seq, verdict.composed)
        cancelled = verdict.uncomposed or self.controls.awaits(record.id, record.source_name)
        if record.state == State.QUEUED and cancelled:
            values = {**CANCELLED, "finished_at": timestamp()}
            if verdict.uncomposed:
                values["message"] = _UNCOMPOSED
            self._ledger.move(record.seq, State.CANCELLED, **values)
            record = self._ledger.get(record.seq)
        return Acknowledgement(drop, record)

    def _assessment(self, drop: Drop, *, suspect: bool) -> Assessment:
        """The verdict on a drop, or that it is still to be planned or judged aside.

        A `suspect` was being read when a process ended: it may do that once more, but not here.
        """
        if is_conflict_copy(drop.name):
            return Assessment(
                reason="SyncConflictCopy",
                message="a sync tool made this copy of a file that two sides changed: "
                "keep the one you want and drop it under its own name",
            )
        aside = self._compose_pool.of(drop)
        if aside is not None and aside.verdict is not None:
            return aside.verdict
        if suspect and drop.data:
            return Assessment(uncomposed=True)
        before = uncomposed(drop, self._home) if may_compose(drop) else None
        return before or assess(drop, self._home, self._catalogue)

    def _same(self, drop: Drop, verdict: Assessment) -> Record | None:
        """The job that this very drop already is: its own id and bytes, or a sync tool's echo."""
        if verdict.explicit_id:
            holder = self._ids.holder(verdict.explicit_id)
            if holder is not None and holder.source_sha256 == drop.sha256:
                return holder
        if self._home.settings.synced_inbox:
            return self._ledger.newest_of_content(drop.name, drop.sha256, drop.mtime_ns)
        return None
