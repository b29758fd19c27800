"""The ids of one home: who holds one, and which is free.

An id that is let go is forgotten here, with what its job left; nothing else is ever removed.
"""

from __future__ import annotations

from runner.job import FINAL_STATES, State
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool


class Ids:
    """The ids that jobs have, by the ledger and by the folders in the outbox."""

    def __init__(self, spool: Spool) -> None:
        self._ledger = spool.ledger
        self._outbox = spool.outbox

    def free(self, wanted: str, *, first: int = 1) -> str:
        """The wanted id if it is free (and `first` is 1), else the first free one with a number."""
        number = first
        candidate = wanted if first == 1 else f"{wanted}-{first}"
        while self.is_taken(candidate):
            number += 1
            candidate = f"{wanted}-{number}"
        return candidate

    def is_taken(self, job_id: str) -> bool:
        """Whether a job holds this id, or a folder of that name is there that no job made."""
        return self.holder(job_id) is not None or self._outbox.folder(job_id).exists()

    def holder(self, job_id: str) -> Record | None:
        """The job that holds an id; one that no longer holds it is forgotten here.

        A rejected job holds nothing, nor does one that was cancelled before it was planned, and a
        finished one whose folder was moved away lets go.
        """
        record = self._ledger.newest(job_id)
        if record is None:
            return None
        gone = not record.behind and not self._outbox.folder(record.id).is_dir()
        never_planned = record.state == State.CANCELLED and not record.total
        if (
            record.state == State.REJECTED
            or never_planned
            or (record.state in FINAL_STATES and gone)
        ):
            self._ledger.forget([record.seq])
            self._outbox.clear_job(record.id)
            return None
        return record
