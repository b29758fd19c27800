"""The answers to a batch of drops: folders and statuses, then receipts, then the files leave.

Everything is on the disk before a file leaves the inbox, and the ledger knows the file until it has
left for good. Cut short anywhere, by the end of the process or by a fault that passes, they are
given again while the file is there and finished when it is not: the same answers stand.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.holds import WAITING_FOR_INPUT
from runner.job import State
from runner.spool.disk.disk import Disk
from runner.spool.inbox.settle import Drop, drop_at
from runner.spool.inbox.waiting import InputWait
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# A file on its way out keeps its name behind this; it stays in its folder, because a name that
# leaves a watched folder holds up the events behind it for half a second.
TAKEN_PREFIX = ".taken-"


@dataclass(frozen=True)
class Acknowledgement:
    """What one drop came to; an absorbed one is answered with the job that stands."""

    drop: Drop
    record: Record
    absorbed: bool = False

    @property
    def outcome(self) -> str:
        """The word for the receipt."""
        if self.absorbed:
            return "absorbed"
        return "rejected" if self.record.state == State.REJECTED else "accepted"


class Acknowledger:
    """Gives answers; safe to do twice."""

    def __init__(self, spool: Spool, waiting: InputWait) -> None:
        self._inbox = spool.home.inbox
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._disk = spool.disk
        self._waiting = waiting

    def give(self, answers: Sequence[Acknowledgement]) -> None:
        """Answer a batch of drops, whose records are those that the ledger has now."""
        jobs = [self._gathered(answer.record) for answer in answers if not answer.absorbed]
        receipts = [
            self._outbox.receipt_file(
                answer.drop.name, answer.drop.sha256, answer.record.id, answer.outcome
            )
            for answer in answers
        ]
        self._outbox.write_jobs(jobs, receipts)
        for answer in answers:
            self._leave(answer.drop)
        self._disk.sync_folder(self._inbox)
        # Only now: a removal that a power loss undoes must find its file known.
        self._ledger.published(jobs, answered=True)

    def _gathered(self, record: Record) -> Record:
        """The record once the inputs that are there have been copied."""
        if record.state != State.QUEUED or record.reason != WAITING_FOR_INPUT:
            return record
        self._waiting.gather(record)
        return self._ledger.get(record.seq)

    def _leave(self, drop: Drop) -> None:
        """Take a file out of the inbox, unless it is no longer the file that was read."""
        taken = f"{self._inbox}/{TAKEN_PREFIX}{drop.name}"
        # As it is when this very answer was cut short; or it is a file that nobody may lose.
        was_there = os.path.lexists(taken)
        try:
            if not was_there:
                self._disk.rename(f"{self._inbox}/{drop.name}", taken)
            status = os.lstat(taken)
        except FileNotFoundError:
            return
        unknown = not drop.signature and not was_there
        if unknown or file_identity(status) == drop.signature[:4]:
            self._disk.remove(taken)
        elif was_there:
            raise FileExistsError(errno.EEXIST, f"{taken} is still there", taken)
        else:
            give_back(Path(taken), self._disk)


def finish_acknowledgements(spool: Spool) -> None:
    """Finish the answers that were cut short after their files had left the inbox.

    A file or a job that raises is left as it is and added to the faults.
    """
    home, ledger, outbox, faults = spool.home, spool.ledger, spool.outbox, spool.faults
    pending = ledger.unanswered()
    _let_go({str(record.identity) for record in pending}, spool)
    for record in pending:
        folder = outbox.folder(record.id)
        with faults.apart(folder):
            if faults.seconds_left(folder) or _lies_in(home.inbox, record):
                # The next look finds it, and knows it.
                continue
            outcome = "rejected" if record.state == State.REJECTED else "accepted"
            receipt = outbox.receipt_file(
                record.source_name, record.source_sha256, record.id, outcome
            )
            behind = [record] if record.behind else []
            outbox.write_jobs(behind, [receipt])
            ledger.published(behind)
            ledger.note(record.seq, identity=None)
            faults.forget(folder)


def _let_go(known: set[str], spool: Spool) -> None:
    """Settle what was on its way out: gone if its job is known, else back to its name."""
    inbox, disk, faults = spool.home.inbox, spool.disk, spool.faults
    for taken in inbox.glob(f"{TAKEN_PREFIX}*"):
        with faults.apart(taken):
            if faults.seconds_left(taken):
                continue
            if drop_at(taken, taken.name.removeprefix(TAKEN_PREFIX)).identity in known:
                disk.remove(taken)
                # As in `give`: one that a power loss brings back must be known.
                disk.sync_folder(inbox)
            else:
                give_back(taken, disk)


def _lies_in(inbox: Path, record: Record) -> bool:
    """Whether the very file that a job was made of is still there: not another of its name."""
    for prefix in ("", TAKEN_PREFIX):
        try:
            drop = drop_at(inbox / f"{prefix}{record.source_name}", record.source_name)
        except FileNotFoundError:
            continue
        # Of control files, and of what cannot be a spec, the bytes are no part.
        if record.identity in (drop.identity, replace(drop, refused=("", "")).identity):
            return True
    return False


def file_identity(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another one under its name, and stays when it is renamed."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def give_back(taken: Path, disk: Disk) -> None:
    """Put a file that was not the one meant back into the inbox, under a free name."""
    name = taken.name.removeprefix(TAKEN_PREFIX)
    stem, suffix = os.path.splitext(name)
    number = 1
    while not disk.give_back(taken, taken.with_name(name)):
        number += 1
        name = f"{stem}-{number}{suffix}"
    log.info("%s came while another file of that name was being taken", name)
