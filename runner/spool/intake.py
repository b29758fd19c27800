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

from runner.job import State
from runner.settings import Home
from runner.spool.answers import Answer, Answers, finish_answers
from runner.spool.clock import monotonic, timestamp
from runner.spool.complaint import Complaint
from runner.spool.control import Controls
from runner.spool.effects import Disk
from runner.spool.entry import record_of
from runner.spool.faults import Faults
from runner.spool.ids import Ids
from runner.spool.judge import Catalogue, Verdict, judge, unplanned
from runner.spool.ledger import Ledger
from runner.spool.names import id_from_file, is_conflict_copy, is_spec, natural_order
from runner.spool.outbox import Outbox
from runner.spool.planning import Aside, Planning, may_compose
from runner.spool.platform import length_of
from runner.spool.record import CANCELLED, Record
from runner.spool.settle import Drop, Settler
from runner.spool.waiting import InputWait
from runner.spool.watcher import Watcher

log = logging.getLogger(__name__)

# A batch costs a few syncs however large it is; its specs are held in memory.
_BATCH = 512
_BATCH_BYTES = 8 << 20
_POLLING_SECONDS = 1.0
_CONTROLS_SECONDS = 1.0
_AGAIN_SECONDS = 1.0
# What its receipt is written under, aside, is some 30 bytes longer; file systems take 255.
_LONGEST_NAME = 223
_BROKEN = Verdict(
    reason="Internal", message="fluxdrop could not take this spec (a bug): see the runner's log"
)
_UNPLANNED = "cancelled before it was planned: drop the spec again to run it"


class Intake:
    """Turns what lies in the inbox into jobs."""

    def __init__(
        self, home: Home, ledger: Ledger, outbox: Outbox, disk: Disk, catalogue: Catalogue,
        faults: Faults, *, on_change: Callable[[], None], on_cancel: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._home = home
        self._inbox = home.inbox
        self._ledger = ledger
        self._outbox = outbox
        self._disk = disk
        self._catalogue = catalogue
        self.faults = faults
        self._on_change = on_change
        self.wake = threading.Event()
        self.watcher = Watcher(home.inbox, self.wake)
        self._settler = Settler(home.settings)
        self._waiting = InputWait(home, ledger, outbox, disk, faults)
        self.controls = Controls(
            home, ledger, outbox, disk, self._waiting, faults, on_cancel=on_cancel
        )
        self._answers = Answers(home, ledger, outbox, disk, self._waiting)
        self._planning = Planning(home, catalogue, self.wake)
        self._complaint = Complaint(log, "looking at the inbox")
        self._cut_short = False
        self._ids = Ids(ledger, outbox)
        self._suspects = ledger.judging()
        self.unsettled = 0
        self.looks = 0

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
                seconds = self.turn()
                self._complaint.over()
            except Exception as error:  # noqa: BLE001 the thread must live
                # A full disk or a vanished folder is a condition to wait out, not an end.
                self._complaint.about(error)
                self._cut_short = True
                seconds = _AGAIN_SECONDS
            self.wake.wait(seconds)
        self.watcher.stop()
        self._planning.close()

    def turn(self) -> float:
        """One look at the whole inbox; the seconds after which another is wanted."""
        moment = controls_at = monotonic()
        if self._cut_short or self.faults.told():
            finish_answers(self._home, self._ledger, self._outbox, self._disk, self.faults)
        renamed_in = self.watcher.take_renamed_in()
        names = self._scan()
        # The answer to a file at fault that somebody took away is finished at the next look.
        self._cut_short = self.faults.forget_gone()
        specs = sorted((name for name in names if is_spec(name)), key=natural_order)
        there = set(specs)
        self._planning.keep_only(there)
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
        self.unsettled = unsettled + len(self._planning)
        self.looks += 1
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
        aside = self._planning.find(file)
        if aside is not None:
            # Whoever plans it wakes the intake.
            return aside.drop if aside.verdict else None
        # The moment of this very look: a long look is no silence of the file.
        return self._settler.look(file, monotonic(), renamed_in=renamed_in)

    def _scan(self) -> list[str]:
        with os.scandir(self._inbox) as entries:
            return [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]

    def obey(self) -> None:
        """Obey the control files that lie in the inbox now."""
        self._obey(self._scan())

    def _obey(self, names: list[str]) -> bool:
        """Obey the control files, for what is being planned too; whether anything changed."""
        changed = self.controls.obey(names, monotonic(), planning=len(self._planning) > 0)
        for aside in self._planning:
            if self._is_cancelled(aside.drop, aside.unplanned):
                self._planning.cancel(aside)
        return changed

    def _is_cancelled(self, drop: Drop, verdict: Verdict) -> bool:
        job_id = verdict.explicit_id or id_from_file(drop.name)
        return self.controls.awaits(drop.name, job_id)

    def accept(self, drops: Sequence[Drop]) -> None:
        """Make jobs of settled drops; one that raises is rejected, or set aside, alone."""
        self.faults.all_or_each(drops, self._accept, self._stumble)

    def _stumble(self, drop: Drop, error: Exception) -> None:
        self._planning.forget([drop.name])
        with self.faults.apart(self._inbox / drop.name):
            if isinstance(error, OSError):
                # It may pass, and says nothing against the spec.
                raise error
            log.error("%r cannot be taken", drop.name, exc_info=error)
            self._accept([drop], _BROKEN)

    def _accept(self, drops: Sequence[Drop], refusal: Verdict | None = None) -> None:
        """Make jobs of drops: one commit, then the answers, then the files leave."""
        suspects = self._suspects
        known = self._ledger.with_identities([drop.identity for drop in drops])
        fresh = [drop for drop in drops if drop.identity not in known]
        hashes = {drop.sha256 for drop in fresh if drop.data} - suspects
        self._ledger.begin_judging(hashes)
        verdicts = {
            d.name: refusal or self._verdict(d, suspect=d.sha256 in suspects) for d in fresh
        }
        answers, asides = [], []
        with self._ledger.transaction():
            for drop in drops:
                verdict = verdicts.get(drop.name)
                if verdict is None:
                    answers.append(Answer(drop, known[drop.identity]))
                elif verdict.unplanned and not self._is_cancelled(drop, verdict):
                    if self._planning.of(drop) is None:
                        # Its place in the order is that of its coming, whatever comes meanwhile.
                        asides.append(Aside(drop, verdict, self._ledger.reserve()))
                else:
                    answers.append(self._enter(drop, verdict))
            hashes.update(answer.drop.sha256 for answer in answers)
            self._ledger.judged(hashes)
        suspects -= hashes
        for aside in asides:
            with self.faults.apart(self._inbox / aside.drop.name):
                self._planning.begin(aside)
        if answers:
            self._answers.give(answers)
        answered = [answer.drop.name for answer in answers]
        self._settler.forget(answered)
        self._planning.forget(answered)
        for name in answered:
            self.faults.forget(self._inbox / name)

    def _enter(self, drop: Drop, verdict: Verdict) -> Answer:
        same = self._same(drop, verdict)
        if same is not None:
            return Answer(drop, same, absorbed=True)
        job_id = verdict.explicit_id or self._ids.free(id_from_file(drop.name))
        if verdict.explicit_id and self._ids.is_taken(job_id):
            verdict = Verdict(
                reason="IdConflict",
                message=f"the id {job_id!r} belongs to another spec: choose another id, or move "
                f"outbox/{job_id} away",
            )
            job_id = self._ids.free(f"{job_id[:70]}.conflict-{drop.sha256[:8]}")
        aside = self._planning.of(drop)
        seq = aside.seq if aside else 0
        record = self._ledger.insert(record_of(drop, verdict, job_id, seq))
        if verdict.composed:
            self._ledger.add_composed(record.seq, verdict.composed)
        cancelled = verdict.unplanned or self.controls.awaits(record.id, record.source_name)
        if record.state == State.QUEUED and cancelled:
            values = {**CANCELLED, "finished_at": timestamp()}
            if verdict.unplanned:
                values["message"] = _UNPLANNED
            self._ledger.move(record.seq, State.CANCELLED, **values)
            record = self._ledger.get(record.seq)
        return Answer(drop, record)

    def _verdict(self, drop: Drop, *, suspect: bool) -> Verdict:
        """The verdict on a drop, or that it is still to be planned or judged aside.

        A `suspect` was being read when a process ended: it may do that once more, but not here.
        """
        if is_conflict_copy(drop.name):
            return Verdict(
                reason="SyncConflictCopy",
                message="a sync tool made this copy of a file that two sides changed: "
                "keep the one you want and drop it under its own name",
            )
        aside = self._planning.of(drop)
        if aside is not None and aside.verdict is not None:
            return aside.verdict
        if suspect and drop.data:
            return Verdict(unplanned=True)
        before = unplanned(drop, self._home) if may_compose(drop) else None
        return before or judge(drop, self._home, self._catalogue)

    def _same(self, drop: Drop, verdict: Verdict) -> Record | None:
        """The job that this very drop already is: its own id and bytes, or a sync tool's echo."""
        if verdict.explicit_id:
            holder = self._ids.holder(verdict.explicit_id)
            if holder is not None and holder.source_sha256 == drop.sha256:
                return holder
        if self._home.settings.synced_inbox:
            found = self._ledger.select(
                "source_name = ? AND source_sha256 = ? AND source_mtime_ns = ?",
                drop.name, drop.sha256, drop.mtime_ns, order="seq DESC", limit=1,
            )  # fmt: skip
            return found[0] if found else None
        return None
