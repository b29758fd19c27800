"""Control files: cancel a job, run a finished one again, pause.

Their names say everything; their content is never read, and they need no settling. A cancel is
removed only once it is recorded, so a restart in between obeys it again, which changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from runner.clock import timestamp
from runner.errors import DiskFull
from runner.holds import WAITING_FOR_INPUT
from runner.job import FINAL_STATES, State
from runner.log_once import LogOnce
from runner.spool.disk.platform import signature_of
from runner.spool.inbox.ids import Ids
from runner.spool.inbox.inputs import reading_copies
from runner.spool.inbox.settle import Drop
from runner.spool.inbox.waiting import InputWait
from runner.spool.store.names import (
    CANCEL_SUFFIX,
    PAUSE_NAME,
    RETRY_SUFFIX,
    id_from_file,
    is_spec,
    key_of,
)
from runner.spool.store.record import CANCELLED, Record
from runner.spool.store.spool import Spool

# Sync tools deliver out of order: a cancel may come before its spec.
_UNKNOWN_SECONDS = 60.0
_RETRIED = {State.SUCCEEDED, State.FAILED, State.CANCELLED}


class Controls:
    """Obeys the control files of one inbox."""

    def __init__(
        self, spool: Spool, waiting: InputWait, ids: Ids, *, on_cancel: Callable[[int], None]
    ) -> None:
        self._home = spool.home
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._disk = spool.disk
        self._faults = spool.faults
        self._waiting = waiting
        self._ids = ids
        self._on_cancel = on_cancel
        self._log_once = LogOnce("obeying a control file")
        self._unknown_since: dict[str, float] = {}
        self._specs: set[str] = set()
        self.paused = False
        self.seconds_to_next_look = _UNKNOWN_SECONDS

    def obey(self, names: Iterable[str], moment: float, *, planning: bool = False) -> bool:
        """Obey the control files among `names`, what the inbox holds; whether anything changed.

        While specs are in `planning`, a cancel whose job is not known may be meant for one of them.
        """
        present = {name for name in names if not name.startswith(".")}
        paused = PAUSE_NAME in present
        changed = paused != self.paused
        self.paused = paused
        controls = sorted(n for n in present if n.lower().endswith((CANCEL_SUFFIX, RETRY_SUFFIX)))
        self._specs = {n for n in present if is_spec(n)} if controls else set()
        for name in self._unknown_since.keys() - set(controls):
            del self._unknown_since[name]
        early = False
        for name in controls:
            file, obeyed = self._home.inbox / name, False
            if self._faults.seconds_left(file):
                continue
            try:
                with self._faults.apart(file):
                    obeyed = self._obey_one(name, moment, planning)
                self._log_once.recovered()
            except (OSError, DiskFull) as error:
                # One file must not keep the others, or the specs, from being looked at.
                self._log_once.failed(error)
            changed |= obeyed
            early |= not obeyed
        self.seconds_to_next_look = 1.0 if early else _UNKNOWN_SECONDS
        return changed

    def _obey_one(self, name: str, moment: float, planning: bool) -> bool:
        target = name[: name.rindex(".")]
        record = self._find(target)
        if record is None:
            self._wait_for_spec(name, moment, coming=planning or target in self._specs)
            return False
        if name.lower().endswith(CANCEL_SUFFIX):
            self._cancel(record)
        elif record.state in FINAL_STATES:
            self._retry(name, record)
        else:
            # Asked for too early: it is obeyed when the job is over.
            return False
        self._remove(name)
        return True

    def awaits(self, *names: str) -> bool:
        """Whether a cancel came before the spec that goes by these names, its id and its file's."""
        if not self._unknown_since:
            return False
        waiting = {key_of(name) for name in self._unknown_since}
        return any(key_of(f"{name}{CANCEL_SUFFIX}") in waiting for name in names)

    def _find(self, target: str) -> Record | None:
        record = self._ledger.newest(target)
        if record is None:
            record = self._ledger.newest_of_file(target)
        if record is not None and record.identity is None:
            # The newest drop of that file is still in the inbox, or one that takes a free id.
            newer = target in self._specs and record.source_name == target
            if newer or (record.state == State.REJECTED and self._is_coming(target)):
                return None
        return record

    def _is_coming(self, job_id: str) -> bool:
        return any(key_of(id_from_file(name)) == key_of(job_id) for name in self._specs)

    def _cancel(self, record: Record) -> None:
        with self._ledger.transaction():
            state = self._ledger.get(record.seq).state
            if state == State.QUEUED:
                self._ledger.move(record.seq, State.CANCELLED, **CANCELLED, finished_at=timestamp())
            elif state == State.RUNNING:
                self._ledger.update(record.seq, cancelled=1)
        if state == State.QUEUED and record.started_at is None:
            self._outbox.write_status(record.seq, durable=True)
        elif state in (State.QUEUED, State.RUNNING):
            # It may have pictures: it ends with its page, like any that has begun.
            self._on_cancel(record.seq)

    def _retry(self, name: str, record: Record) -> None:
        """Run a finished job again: its bytes, its seeds, and its own copies of the inputs."""
        identity = _identity(self._home.inbox / name)
        known = self._ledger.with_identities([identity]).get(identity)
        if not known and (record.state not in _RETRIED or not record.total):
            receipt = self._outbox.receipt_file(name, record.source_sha256, record.id, "rejected")
            self._outbox.write_jobs([], [receipt])
            return
        again = known or self._insert_again(name, record, identity)
        self._outbox.make_folder(again)
        self._waiting.gather(again)
        receipt = self._outbox.receipt_file(name, again.source_sha256, again.id, "accepted")
        now = self._ledger.get(again.seq)
        self._outbox.write_jobs([now], [receipt])
        self._ledger.published([now])

    def _insert_again(self, name: str, record: Record, identity: str) -> Record:
        with self._ledger.transaction():
            again = self._ledger.insert(self._again(name, record, identity))
            self._ledger.add_composed(again.seq, self._ledger.composed(record.seq))
        return again

    def _again(self, name: str, record: Record, identity: str) -> Record:
        return replace(
            record,
            seq=0,
            id=self._ids.free(record.id, first=2),
            state=State.QUEUED,
            reason=WAITING_FOR_INPUT if record.inputs else None,
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

    def _wait_for_spec(self, name: str, moment: float, *, coming: bool) -> None:
        since = self._unknown_since.setdefault(name, moment)
        if moment - since >= _UNKNOWN_SECONDS and not coming:
            del self._unknown_since[name]
            self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove an obeyed file for good before forgetting that it was obeyed."""
        self._unknown_since.pop(name, None)
        identity = _identity(self._home.inbox / name)
        self._disk.remove(self._home.inbox / name)
        self._disk.sync_folder(self._home.inbox)
        for record in self._ledger.with_identities([identity]).values():
            self._ledger.note(record.seq, identity=None)


def _identity(path: Path) -> str:
    """Tells this very control file from a later one of its name."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return ""
    return Drop(path.name, b"", signature_of(status), ("", "")).identity
