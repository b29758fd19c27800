"""Acknowledges drops: folders and statuses, then receipts, then the files leave the inbox.

Everything is on the disk before a file leaves the inbox, and the ledger knows the file until it has
left for good. An acknowledgement that was interrupted, by the end of the process or by a temporary
fault, is repeated while the file is there and finished when it is not, with the same outcome.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.job import State
from runner.spool.disk.disk import Disk
from runner.spool.disk.platform import signature_of
from runner.spool.inbox.settle import Drop, drop_at
from runner.spool.inbox.waiting import InputWait
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# Put before the name of a file that is about to be removed. The file stays in its folder, because a
# name that leaves a watched folder delays the events after it for half a second.
TAKEN_PREFIX = ".taken-"


@dataclass(frozen=True)
class Acknowledgement:
    """A drop and its job; that of an absorbed drop was there before."""

    drop: Drop
    record: Record
    absorbed: bool = False

    @property
    def outcome(self) -> str:
        """The outcome in the receipt."""
        if self.absorbed:
            return "absorbed"
        return "rejected" if self.record.state == State.REJECTED else "accepted"


class Acknowledger:
    """Acknowledges drops; safe to repeat."""

    def __init__(self, spool: Spool, waiting: InputWait) -> None:
        self._home = spool.home
        self._inbox = spool.home.inbox
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._disk = spool.disk
        self._waiting = waiting

    def acknowledge(self, acknowledgements: Sequence[Acknowledgement]) -> None:
        """Acknowledge a batch of drops, whose records must be current."""
        jobs = [self._with_inputs(ack.record) for ack in acknowledgements if not ack.absorbed]
        receipts = [
            self._outbox.receipt_file(ack.drop.name, ack.drop.sha256, ack.record.id, ack.outcome)
            for ack in acknowledgements
        ]
        self._outbox.write_jobs(jobs, receipts)
        for ack in acknowledgements:
            self._remove(ack.drop)
        self._disk.sync_folder(self._inbox)
        # Only now: the ledger must still know a file whose removal a power loss undoes.
        with self._ledger.transaction(durable=False):
            self._ledger.published(jobs)
            self._ledger.answered(ack.drop.identity for ack in acknowledgements)
        self._clear_rejected(sum(record.state == State.REJECTED for record in jobs))

    def _clear_rejected(self, added: int) -> None:
        """Remove as many of the oldest folders of rejected jobs as came beyond those to keep."""
        kept = self._home.settings.rejected_kept
        for record in self._ledger.rejected(after=kept, limit=added) if added else ():
            if not record.kept:
                self._outbox.clear_job(record.id)

    def _with_inputs(self, record: Record) -> Record:
        """The record after copying those of its inputs that have arrived."""
        if not record.inputs_missing:
            return record
        self._waiting.gather(record)
        return self._ledger.get(record.seq)

    def _remove(self, drop: Drop) -> None:
        """Remove a file from the inbox, unless it is no longer the file that was read."""
        taken = f"{self._inbox}/{TAKEN_PREFIX}{drop.name}"
        # Where this acknowledgement was interrupted; or it is another file, which must not be lost.
        was_there = os.path.lexists(taken)
        try:
            if not was_there:
                self._disk.rename(f"{self._inbox}/{drop.name}", taken)
            status = os.lstat(taken)
        except FileNotFoundError:
            return
        unknown = not drop.signature and not was_there
        # Without the ctime, which a rename changes.
        if unknown or signature_of(status)[:4] == drop.signature[:4]:
            self._disk.remove(taken)
        elif was_there:
            raise FileExistsError(errno.EEXIST, f"{taken} is still there", taken)
        else:
            _restore(Path(taken), self._disk)


def finish_acknowledgements(spool: Spool) -> None:
    """Finish acknowledgements that were interrupted after their files had left the inbox.

    A file or a job that raises is left as it is and added to the faults.
    """
    home, ledger, outbox, faults = spool.home, spool.ledger, spool.outbox, spool.faults
    pending = ledger.unanswered()
    _finish_removals(pending.keys(), spool)
    if pending:
        # As in `acknowledge`: no power loss may bring back a file that the ledger forgets.
        spool.disk.sync_folder(home.inbox)
    for identity, record in pending.items():
        folder = outbox.folder(record.id)
        with faults.isolated(folder):
            if faults.seconds_left(folder) or _lies_in(home.inbox, record, identity):
                # The next scan finds the file and acknowledges it.
                continue
            outcome = "rejected" if record.state == State.REJECTED else "accepted"
            receipt = outbox.receipt_file(
                record.source_name, record.source_sha256, record.id, outcome
            )
            behind = [] if record.is_shown else [record]
            outbox.write_jobs(behind, [receipt])
            with ledger.transaction(durable=False):
                ledger.published(behind)
                ledger.answered([identity])
            faults.forget(folder)


def _finish_removals(known: Collection[str], spool: Spool) -> None:
    """Remove each file that was about to be removed if its job is known, else rename it back."""
    inbox, disk, faults = spool.home.inbox, spool.disk, spool.faults
    for taken in inbox.glob(f"{TAKEN_PREFIX}*"):
        with faults.isolated(taken):
            if faults.seconds_left(taken):
                continue
            if drop_at(taken, taken.name.removeprefix(TAKEN_PREFIX)).identity in known:
                disk.remove(taken)
            else:
                _restore(taken, disk)


def _lies_in(inbox: Path, record: Record, identity: str) -> bool:
    """Whether the file that a job was made of is still there, not just another of its name."""
    for prefix in ("", TAKEN_PREFIX):
        try:
            drop = drop_at(inbox / f"{prefix}{record.source_name}", record.source_name)
        except FileNotFoundError:
            continue
        # The identity of a control file, or of what cannot be a spec, is without its bytes.
        if identity in (drop.identity, replace(drop, refused=("", "")).identity):
            return True
    return False


def _restore(taken: Path, disk: Disk) -> None:
    """Rename a file that must stay in the inbox to its own name there, or to a free one."""
    name = taken.name.removeprefix(TAKEN_PREFIX)
    stem, suffix = os.path.splitext(name)
    number = 1
    while not disk.rename_to_free(taken, taken.with_name(name)):
        number += 1
        name = f"{stem}-{number}{suffix}"
    log.info("%s came while another file of that name was being taken", name)
