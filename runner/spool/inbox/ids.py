"""The ids of one home: which job holds one, and which are free.

The record and the folder of a job that no longer holds its id are removed here, and nothing else.
"""

from runner.files import is_folder, is_there
from runner.job import State
from runner.spool.store.names import holds_no_id, key_of
from runner.spool.store.outbox import Outbox
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

# An id has at most 100 characters, and seven of them may be the number.
_LONGEST_STEM = 92


def is_away(record: Record, outbox: Outbox) -> bool:
    """Whether the folder of a finished job was moved away, which frees its id."""
    return record.is_final and record.is_shown and not is_folder(outbox.folder(record.id))


def has_left(record: Record, outbox: Outbox) -> bool:
    """Whether a job no longer holds its id: the next drop of that id gets it."""
    return holds_no_id(record.state, record.total) or is_away(record, outbox)


class Ids:
    """The ids in use, by the ledger and by the folders in the outbox."""

    def __init__(self, spool: Spool) -> None:
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        # By stem, the number given last. Those below it are not tried again: a thousand files of
        # which each becomes `job` would look at half a million ids.
        self._given: dict[str, int] = {}

    def free(self, wanted: str, *, first: int = 1) -> str:
        """The wanted id if it is free (and `first` is 1), else one with a number from 2 on."""
        if first == 1 and self._take_unnamed(wanted):
            return wanted
        stem = wanted[:_LONGEST_STEM]
        key = key_of(stem)
        number = self._ledger.unused_number(stem, self._given.get(key, 2))
        while not self._take_unnamed(f"{stem}-{number}"):
            number = self._ledger.unused_number(stem, number + 1)
        self._given[key] = number
        return f"{stem}-{number}"

    def _take_unnamed(self, job_id: str) -> bool:
        """Make an id free for a drop without one; whether that drop may get it."""
        record = self._ledger.newest(job_id)
        # A rejected job of the same batch, that is not answered yet, would lose its answer.
        if record is not None and record.state == State.REJECTED and not record.is_shown:
            return False
        return self.take(job_id)

    def take(self, job_id: str) -> bool:
        """Make an id free, unless a job holds it or the outbox has another folder of that name.

        A job that no longer holds it is removed, as by `holder`. Returns whether the id is free.
        """
        return self.holder(job_id) is None and not is_there(self._outbox.folder(job_id))

    def holder(self, job_id: str) -> Record | None:
        """The job that holds an id; one that no longer holds it is removed.

        Rejected jobs hold no id, nor do those cancelled before they were composed, nor finished
        ones whose folder was moved away.
        """
        record = self._ledger.newest(job_id)
        if record is not None and has_left(record, self._outbox):
            self._ledger.forget(record.seq)
            if holds_no_id(record.state, record.total):
                self._outbox.clear_job(record.id)
            return None
        return record
