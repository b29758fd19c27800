"""The intake: one look at the inbox after another, and an answer to every drop.

One look: control files first, then the settled specs in natural order. A batch becomes jobs by one
commit of the ledger; only then are the folders, statuses and receipts written, and a file leaves
the inbox last, if it is still the very file that was read. Doing any of that twice changes nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable

from runner.job import FINAL, State
from runner.settings import Home
from runner.spool.answers import Answer, Answers
from runner.spool.clock import monotonic
from runner.spool.control import Controls
from runner.spool.effects import Disk
from runner.spool.entry import record_of
from runner.spool.judge import Catalogue, Verdict, judge
from runner.spool.ledger import Ledger
from runner.spool.names import (
    id_from_file,
    is_conflict_copy,
    is_spec,
    natural_order,
)
from runner.spool.outbox import Outbox
from runner.spool.record import Record
from runner.spool.settle import Drop, Settler
from runner.spool.waiting import InputWait
from runner.spool.watcher import Watcher

log = logging.getLogger(__name__)

_BATCH = 256
_MOST_DEATHS = 2
_POLLING_SECONDS = 1.0
_CONTROLS_SECONDS = 1.0


class Intake:
    """Turns what lies in the inbox into jobs."""

    def __init__(
        self, home: Home, ledger: Ledger, outbox: Outbox, disk: Disk, catalogue: Catalogue,
        *, on_change: Callable[[], None], on_cancel: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._home = home
        self._ledger = ledger
        self._outbox = outbox
        self._catalogue = catalogue
        self._on_change = on_change
        self.wake = threading.Event()
        self.watcher = Watcher(home.inbox, self.wake)
        self._settler = Settler(home.settings)
        self._waiting = InputWait(home, ledger, outbox, disk)
        self.controls = Controls(home, ledger, outbox, disk, self._waiting, on_cancel=on_cancel)
        self._answers = Answers(home, ledger, outbox, disk, self._waiting)
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
            except Exception:
                # A full disk or a vanished folder is a condition to wait out, not an end.
                log.exception("a look at the inbox failed; looking again")
                seconds = 1.0
            self.wake.wait(seconds)
        self.watcher.stop()

    def turn(self) -> float:
        """One look at the whole inbox; the seconds after which another is wanted."""
        moment = controls_at = monotonic()
        renamed_in = self.watcher.take_renamed_in()
        names = self._scan()
        changed = self.controls.obey(names, moment)
        rescan = self._home.settings.rescan_seconds
        wanted = [rescan if self.watcher.mode == "events" else min(rescan, _POLLING_SECONDS)]
        specs = sorted((name for name in names if is_spec(name)), key=natural_order)
        self._settler.keep_only(set(specs))
        batch: list[Drop] = []
        unsettled = 0
        for name in specs:
            # The moment of this very look: a long look is no silence of the file.
            looked = self._settler.look(
                self._home.inbox / name, monotonic(), renamed_in=name in renamed_in
            )
            if isinstance(looked, Drop):
                batch.append(looked)
            elif looked is not None:
                unsettled += 1
                wanted.append(looked)
            if len(batch) >= _BATCH:
                self.accept(batch)
                changed, batch = True, []
                if monotonic() - controls_at >= _CONTROLS_SECONDS:
                    # Cancels must not wait for the end of a long inbox.
                    self.controls.obey(self._controls_now(), monotonic())
                    controls_at = monotonic()
        if batch:
            self.accept(batch)
            changed = True
        self.unsettled = unsettled
        self.looks += 1
        changed |= self._waiting.look(moment)
        wanted.append(self._waiting.seconds_to_next_look)
        wanted.append(self.controls.seconds_to_next_look)
        if changed:
            self._on_change()
        return max(min(wanted), 0.01)

    def _scan(self) -> list[str]:
        with os.scandir(self._home.inbox) as entries:
            return [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]

    def _controls_now(self) -> Iterable[str]:
        return (name for name in self._scan() if not is_spec(name))

    def accept(self, drops: list[Drop]) -> None:
        """Make jobs of settled drops: one commit, then the answers, then the files leave."""
        hashes = {drop.sha256 for drop in drops}
        suspects = {sha: times for sha, times in self._ledger.judging().items() if sha in hashes}
        if suspects and len(drops) > 1:
            # One of these may have ended the last process: one by one, so that only it is charged.
            for drop in drops:
                self.accept([drop])
            return
        self._ledger.begin_judging(hashes)
        with self._ledger.transaction():
            answers = [self._enter(drop, suspects.get(drop.sha256, 0)) for drop in drops]
            self._ledger.judged(hashes)
        self._answers.give(answers)

    def _enter(self, drop: Drop, deaths: int) -> Answer:
        known = self._ledger.select("identity = ?", drop.identity, limit=1)
        if known:
            return Answer(drop, known[0])
        verdict = self._verdict(drop, deaths)
        same = self._same(drop, verdict)
        if same is not None:
            return Answer(drop, same, absorbed=True)
        job_id = verdict.explicit_id or self._free_id(id_from_file(drop.name))
        if verdict.explicit_id and self._is_taken(job_id):
            verdict = Verdict(
                reason="IdConflict",
                message=f"the id {job_id!r} belongs to another spec: choose another id, or move "
                f"outbox/{job_id} away",
            )
            job_id = self._free_id(f"{job_id[:70]}.conflict-{drop.sha256[:8]}")
        record = self._ledger.insert(record_of(drop, verdict, job_id))
        if verdict.composed:
            self._ledger.add_composed(record.seq, verdict.composed)
        if record.state == State.QUEUED and self.controls.awaits(record):
            self._ledger.move(record.seq, State.CANCELLED, **self.controls.cancelled_values())
            record = self._ledger.get(record.seq)
        return Answer(drop, record)

    def _verdict(self, drop: Drop, deaths: int) -> Verdict:
        if deaths >= _MOST_DEATHS:
            return Verdict(
                reason="CrashLoop",
                message=f"reading this spec ended the runner {deaths} times: change it",
            )
        if is_conflict_copy(drop.name):
            return Verdict(
                reason="SyncConflictCopy",
                message="a sync tool made this copy of a file that two sides changed: "
                "keep the one you want and drop it under its own name",
            )
        return judge(drop, self._home, self._catalogue)

    def _same(self, drop: Drop, verdict: Verdict) -> Record | None:
        """The job that this very drop already is: its own id and bytes, or a sync tool's echo."""
        if verdict.explicit_id:
            holder = self._holder(verdict.explicit_id)
            if holder is not None and holder.source_sha256 == drop.sha256:
                return holder
        if self._home.settings.synced_inbox:
            found = self._ledger.select(
                "source_name = ? AND source_sha256 = ? AND source_mtime_ns = ?",
                drop.name, drop.sha256, drop.mtime_ns, order="seq DESC", limit=1,
            )  # fmt: skip
            return found[0] if found else None
        return None

    def _free_id(self, wanted: str) -> str:
        candidate, number = wanted, 1
        while self._is_taken(candidate):
            number += 1
            candidate = f"{wanted}-{number}"
        return candidate

    def _is_taken(self, job_id: str) -> bool:
        """Whether a job holds this id, or a folder of that name is there that no job made."""
        return self._holder(job_id) is not None or self._outbox.folder(job_id).exists()

    def _holder(self, job_id: str) -> Record | None:
        """The job that holds an id; one that no longer holds it is forgotten here.

        A rejected job holds nothing, and a finished one whose folder was moved away lets go.
        """
        record = self._ledger.newest(job_id)
        if record is None:
            return None
        gone = not record.behind and not self._outbox.folder(record.id).is_dir()
        if record.state == State.REJECTED or (record.state in FINAL and gone):
            self._ledger.forget([record.seq])
            self._outbox.clear_job(record.id)
            return None
        return record
