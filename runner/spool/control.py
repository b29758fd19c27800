"""Control files: cancel a job, run a finished one again, pause.

Their names say everything; their content is never read, and they need no settling. A cancel is
removed only once it is recorded, so a restart in between obeys it again, which changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from runner.job import FINAL, State
from runner.settings import Home
from runner.spool.clock import timestamp
from runner.spool.effects import Disk
from runner.spool.inputs import reading_copies, signature_of
from runner.spool.ledger import Ledger
from runner.spool.names import CANCEL_SUFFIX, PAUSE_NAME, RETRY_SUFFIX, key_of
from runner.spool.outbox import Outbox
from runner.spool.record import Record
from runner.spool.settle import Drop
from runner.spool.waiting import WAITING, InputWait

log = logging.getLogger(__name__)

# Sync tools deliver out of order: a cancel may come before its spec.
_UNKNOWN_SECONDS = 60.0
_RETRIED = {State.SUCCEEDED, State.FAILED, State.CANCELLED}


class Controls:
    """Obeys the control files of one inbox."""

    def __init__(
        self, home: Home, ledger: Ledger, outbox: Outbox, disk: Disk,
        waiting: InputWait, *, on_cancel: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._home = home
        self._ledger = ledger
        self._outbox = outbox
        self._disk = disk
        self._waiting = waiting
        self._on_cancel = on_cancel
        self._unknown_since: dict[str, float] = {}
        self.paused = False
        self.seconds_to_next_look = _UNKNOWN_SECONDS

    def obey(self, names: Iterable[str], moment: float) -> bool:
        """Obey every control file among `names`; whether anything changed."""
        present = [name for name in names if not name.startswith(".")]
        paused = PAUSE_NAME in present
        changed = paused != self.paused
        self.paused = paused
        controls = [n for n in present if n.lower().endswith((CANCEL_SUFFIX, RETRY_SUFFIX))]
        for name in self._unknown_since.keys() - set(controls):
            del self._unknown_since[name]
        early = False
        for name in controls:
            try:
                obeyed = self._obey_one(name, moment)
            except OSError:
                # One file must not keep the others, or the specs, from being looked at.
                log.exception("%s could not be obeyed; it will be tried again", name)
                obeyed = False
            changed |= obeyed
            early |= not obeyed
        self.seconds_to_next_look = 1.0 if early else _UNKNOWN_SECONDS
        return changed

    def _obey_one(self, name: str, moment: float) -> bool:
        record = self._find(name[: name.rindex(".")])
        if record is None:
            self._wait_for_spec(name, moment)
            return False
        if name.lower().endswith(CANCEL_SUFFIX):
            self._cancel(record)
        elif record.state in FINAL:
            self._retry(name, record)
        else:
            # Asked for too early: it is obeyed when the job is over.
            return False
        self._remove(name)
        return True

    def awaits(self, record: Record) -> bool:
        """Whether a cancel came before this spec."""
        names = (f"{record.id}{CANCEL_SUFFIX}", f"{record.source_name}{CANCEL_SUFFIX}")
        waiting = {key_of(name) for name in self._unknown_since}
        return any(key_of(name) in waiting for name in names)

    @staticmethod
    def cancelled_values() -> dict[str, object]:
        """What a job's record says once it is cancelled."""
        return {
            "cancelled": 1,
            "reason": "Cancelled",
            "message": "cancelled by a file in the inbox",
            "finished_at": timestamp(),
        }

    def _find(self, target: str) -> Record | None:
        record = self._ledger.newest(target)
        if record is None:
            found = self._ledger.select("source_name = ?", target, order="seq DESC", limit=1)
            record = found[0] if found else None
        return record

    def _cancel(self, record: Record) -> None:
        with self._ledger.transaction():
            state = self._ledger.get(record.seq).state
            if state == State.QUEUED:
                self._ledger.move(record.seq, State.CANCELLED, **self.cancelled_values())
            elif state == State.RUNNING:
                self._ledger.update(record.seq, cancelled=1)
        if state == State.QUEUED:
            self._outbox.write_status(record.seq, durable=True)
        elif state == State.RUNNING:
            self._on_cancel(record.seq)

    def _retry(self, name: str, record: Record) -> None:
        """Run a finished job again: its bytes, its seeds, and its own copies of the inputs."""
        identity = _identity(self._home.inbox / name)
        known = self._ledger.select("identity = ?", identity, limit=1)
        if record.state not in _RETRIED and not known:
            return
        again = known[0] if known else self._insert_again(name, record, identity)
        self._outbox.make_folder(again)
        self._waiting.gather(again)
        receipt = self._outbox.receipt_file(name, again.source_sha256, again.id, "accepted")
        self._outbox.write_jobs([again], [receipt])

    def _insert_again(self, name: str, record: Record, identity: str) -> Record:
        with self._ledger.transaction():
            again = self._ledger.insert(self._again(name, record, identity))
            self._ledger.add_composed(again.seq, self._ledger.composed(record.seq))
        return again

    def _again(self, name: str, record: Record, identity: str) -> Record:
        return replace(
            record,
            id=self._next_id(record.id),
            state=State.QUEUED,
            reason=WAITING if record.inputs else None,
            message=None,
            source_name=name,
            realised=reading_copies(record.realised, record.id, record.inputs),
            inputs={},
            attempt=0,
            revision=1,
            cancelled=False,
            behind=True,
            identity=identity,
            errors=[],
            accepted_at=timestamp(),
            started_at=None,
            finished_at=None,
        )

    def _next_id(self, job_id: str) -> str:
        number = 2
        while (
            self._ledger.newest(f"{job_id}-{number}")
            or self._outbox.folder(f"{job_id}-{number}").exists()
        ):
            number += 1
        return f"{job_id}-{number}"

    def _wait_for_spec(self, name: str, moment: float) -> None:
        if moment - self._unknown_since.setdefault(name, moment) >= _UNKNOWN_SECONDS:
            del self._unknown_since[name]
            self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove an obeyed file for good before forgetting that it was obeyed."""
        self._unknown_since.pop(name, None)
        identity = _identity(self._home.inbox / name)
        self._disk.remove(self._home.inbox / name)
        self._disk.sync_folder(self._home.inbox)
        for record in self._ledger.select("identity = ?", identity):
            self._ledger.note(record.seq, identity=None)


def _identity(path: Path) -> str:
    """Tells this very control file from a later one of its name."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return ""
    return Drop(path.name, b"", signature_of(status), ("", "")).identity
