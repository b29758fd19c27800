"""Control files: cancel a job, run a finished one again, pause.

Their names say everything; their content is never read, and they need no settling. A cancel is
removed only once it is recorded, so a restart in between obeys it again, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from runner.job import FINAL, State
from runner.settings import Home
from runner.spool.clock import timestamp
from runner.spool.effects import Disk
from runner.spool.ledger import Ledger, Record
from runner.spool.names import CANCEL_SUFFIX, PAUSE_NAME, RETRY_SUFFIX, key_of
from runner.spool.outbox import Outbox
from runner.spool.waiting import WAITING

# Sync tools deliver out of order: a cancel may come before its spec.
_UNKNOWN_SECONDS = 60.0
_RETRIED = {State.SUCCEEDED, State.FAILED, State.CANCELLED}


class Controls:
    """Obeys the control files of one inbox."""

    def __init__(
        self, home: Home, ledger: Ledger, outbox: Outbox, disk: Disk,
        *, on_cancel: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._home = home
        self._ledger = ledger
        self._outbox = outbox
        self._disk = disk
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
        for name in controls:
            target = name[: name.rindex(".")]
            record = self._find(target)
            if record is None:
                self._wait_for_spec(name, moment)
                continue
            if name.lower().endswith(CANCEL_SUFFIX):
                self._cancel(record)
            else:
                self._retry(name, record)
            self._remove(name)
            changed = True
        self.seconds_to_next_look = 1.0 if self._unknown_since else _UNKNOWN_SECONDS
        return changed

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
        if record.state not in _RETRIED or record.state not in FINAL:
            return
        new_id = self._next_id(record.id)
        again = self._ledger.insert(
            replace(
                record,
                id=new_id,
                state=State.QUEUED,
                reason=WAITING if record.inputs else None,
                message=None,
                source_name=name,
                attempt=0,
                revision=1,
                cancelled=False,
                behind=True,
                identity=None,
                errors=[],
                accepted_at=timestamp(),
                started_at=None,
                finished_at=None,
                inputs={},
            )
        )
        self._outbox.make_folder(again)
        for copy in record.inputs.values():
            data = (self._outbox.folder(record.id) / "inputs" / copy).read_bytes()
            self._disk.make_folder(self._outbox.folder(new_id) / "inputs")
            self._disk.replace(self._outbox.folder(new_id) / "inputs" / copy, data, durable=True)
        if record.inputs:
            self._ledger.update(again.seq, inputs=dict(record.inputs), reason=None)
        receipt = self._outbox.receipt_file(name, again.source_sha256, again.id, "accepted")
        self._outbox.write_jobs([again], [receipt])

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
        self._unknown_since.pop(name, None)
        path = self._home.inbox / name
        if path.is_dir() and not path.is_symlink():
            self._disk.remove_tree(path)
        else:
            self._disk.remove(path)
