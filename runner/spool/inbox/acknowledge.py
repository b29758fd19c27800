"""Acknowledges drops: folders and statuses, then receipts, then the files leave the inbox.

Everything is on the disk before a file leaves the inbox, and the ledger knows the file until it has
left for good. An acknowledgement that was interrupted, by the end of the process or by a temporary
fault, is repeated while the file is there and finished when it is not, with the same outcome. A
file that cannot be removed is over all the same: the ledger knows it until it is gone or changes.
"""

import errno
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.clock import monotonic
from runner.files import is_there, paths_in
from runner.job import State
from runner.spool.disk.disk import Disk
from runner.spool.disk.platform import signature_of
from runner.spool.inbox.settle import Drop, drop_at
from runner.spool.inbox.waiting import GATHER_SECONDS, InputWait
from runner.spool.store.names import LEND_NAME, is_control, numbered, stand_in, unique
from runner.spool.store.outbox import receipt
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# Put before the name of a file that is about to be removed. The file stays in its folder, because a
# name that leaves a watched folder delays the events after it for half a second.
TAKEN_PREFIX = ".taken-"
# eCryptfs allows 143 bytes in all.
_LONGEST_TAKEN = 120


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
        self._faults = spool.faults
        self._waiting = waiting
        self._all_cleared = False

    def acknowledge(self, acknowledgements: Sequence[Acknowledgement]) -> list[str]:
        """Acknowledge drops, whose records must be current; the names that have left the inbox."""
        until = monotonic() + GATHER_SECONDS
        new = (ack.record for ack in acknowledgements if not ack.absorbed)
        jobs = [self._with_inputs(record, until) for record in new]
        receipts = [
            receipt(ack.drop.name, ack.drop.sha256, ack.record.id, ack.outcome)
            for ack in acknowledgements
        ]
        self._outbox.write_jobs(jobs, receipts)
        for ack in acknowledgements:
            outcome = ack.record.end_reason or ack.outcome
            log.info("job %s from %s: %s", ack.record.id, ack.drop.name, outcome)
        return self.take_out([ack.drop for ack in acknowledgements], jobs)

    def take_out(self, drops: Sequence[Drop], jobs: Sequence[Record] = ()) -> list[str]:
        """Remove files that are answered or obeyed; the names of those that have left the inbox.

        `jobs` are those of them that are published. One that cannot be removed is added to the
        faults, and is over as well.
        """
        stuck: dict[str, str] = {}
        gone = []
        for drop in drops:
            file = self._inbox / drop.name
            try:
                self._remove(drop)
            except OSError as error:
                self._faults.add(file, error)
                stuck[drop.identity] = drop.name
            else:
                self._faults.forget(file)
                gone.append(drop.name)
        self._disk.sync_folder(self._inbox)
        # Only now: the ledger must still know a file whose removal a power loss undoes.
        with self._ledger.transaction(durable=False):
            self._ledger.published(jobs)
            self._ledger.answered((drop.identity for drop in drops), stuck)
        self._clear_rejected(sum(record.state == State.REJECTED for record in jobs))
        return gone

    def _clear_rejected(self, added: int) -> None:
        """Remove as many of the oldest folders of rejected jobs as came beyond those to keep."""
        kept = self._home.settings.rejected_kept
        # At first all: the setting may have been another one.
        limit, self._all_cleared = (added if self._all_cleared else -1), True
        for record in self._ledger.rejected(after=kept, limit=limit) if added else ():
            try:
                if not record.kept:
                    self._outbox.clear_job(record.id)
            except Exception as error:  # noqa: BLE001 these drops are answered, and not once more
                log.warning("job %s was rejected, and its folder stays: %s", record.id, error)

    def _with_inputs(self, record: Record, until: float) -> Record:
        """The record after copying those of its inputs that have arrived, if there is time."""
        if not record.inputs_missing or monotonic() > until:
            return record
        self._waiting.gather(record)
        return self._ledger.get(record.seq)

    def _remove(self, drop: Drop) -> None:
        """Remove a file from the inbox, unless it is no longer the file that was read."""
        taken = f"{self._inbox}/{_taken_name(drop.name)}"
        # Where this acknowledgement was interrupted; or it is another file, which must not be lost.
        was_there = is_there(taken)
        try:
            if not was_there:
                self._disk.rename(f"{self._inbox}/{drop.name}", taken)
            status = os.lstat(taken)
        except FileNotFoundError:
            return
        # Without the ctime, which a rename changes. Of most control files only the name counts: a
        # shell makes it first and writes into it then.
        known = 2 if is_control(drop.name) and drop.name != LEND_NAME else 4
        if signature_of(status)[:known] == drop.signature[:known]:
            self._disk.remove(taken)
        elif was_there:
            raise FileExistsError(errno.EEXIST, f"{taken} is still there", taken)
        else:
            _restore(Path(taken), drop.name, self._disk)


def finish_acknowledgements(spool: Spool) -> None:
    """Finish acknowledgements that were interrupted after their files had left the inbox.

    A file or a job that raises is left as it is and added to the faults.
    """
    home, ledger, outbox, faults = spool.home, spool.ledger, spool.outbox, spool.faults
    pending, stuck = ledger.unanswered(), ledger.stuck()
    known = {identity: record.source_name for identity, record in pending.items()} | stuck
    _finish_removals(known, spool)
    for identity, name in stuck.items():
        file = home.inbox / name
        with faults.isolated(file):
            if not faults.seconds_left(file) and not _lies_in(home.inbox, name, identity):
                ledger.answered([identity])
    if pending:
        # As in `acknowledge`: no power loss may bring back a file that the ledger forgets.
        spool.disk.sync_folder(home.inbox)
    for identity, record in pending.items():
        folder = outbox.folder(record.id)
        with faults.isolated(folder):
            if faults.seconds_left(folder) or _lies_in(home.inbox, record.source_name, identity):
                # The next scan finds the file and acknowledges it.
                continue
            outcome = "rejected" if record.state == State.REJECTED else "accepted"
            answer = receipt(record.source_name, record.source_sha256, record.id, outcome)
            behind = [] if record.is_shown else [record]
            outbox.write_jobs(behind, [answer])
            with ledger.transaction(durable=False):
                ledger.published(behind)
                ledger.answered([identity])
            faults.forget(folder)


def _finish_removals(known: Mapping[str, str], spool: Spool) -> None:
    """Remove each file that was about to be removed if it is known, else rename it back.

    `known` has the names of files whose jobs are recorded, by identity.
    """
    inbox, disk, faults = spool.home.inbox, spool.disk, spool.faults
    names = {_taken_name(name): name for name in known.values()}
    for taken in paths_in(inbox, f"{TAKEN_PREFIX}*"):
        with faults.isolated(taken):
            if faults.seconds_left(taken):
                continue
            name = names.get(taken.name, taken.name.removeprefix(TAKEN_PREFIX))
            if known.keys() & _identities_at(taken, name):
                disk.remove(taken)
            else:
                _restore(taken, name, disk)


def _taken_name(name: str) -> str:
    """The name of a file on its way out: its own behind a prefix, unless that is too long."""
    if len(os.fsencode(name)) > _LONGEST_TAKEN:
        name = stand_in(name) + os.path.splitext(name)[1][:10]
    return f"{TAKEN_PREFIX}{name}"


def _lies_in(inbox: Path, name: str, identity: str) -> bool:
    """Whether this very file is still there, not just another of its name."""
    places = (inbox / name, inbox / _taken_name(name))
    return any(identity in _identities_at(place, name) for place in places)


def _identities_at(file: Path, name: str) -> set[str]:
    """The identities that a file may be known by, as one of that name; none where it is gone."""
    try:
        drop = drop_at(file, name)
    except FileNotFoundError:
        return set()
    # That of a control file, or of what cannot be a spec, is without its bytes.
    return {drop.identity, replace(drop, refused=("", "")).identity}


def _restore(taken: Path, name: str, disk: Disk) -> None:
    """Rename a file that must stay in the inbox to its own name there, or to a free one."""
    stem, suffix = os.path.splitext(name)
    # A control file must not come to mean the job of another id; so long that it cannot get the
    # second name, it means none.
    own = [name, f"{unique(stem)}{suffix}"] if is_control(name) else []
    names = itertools.chain(own, numbered(name))
    next(n for n in names if disk.rename_to_free(taken, taken.with_name(n)))
    log.info("%s came while another file of that name was being taken", name)
