"""The parts of one open home that most of the spool and the daemon need, as one value."""

from dataclasses import dataclass

from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox
from runner.spool.store.queries import Run


@dataclass(frozen=True)
class Spool:
    """A home's settings and folders, its file operations, records, outbox and faults.

    `last` says how the process before this one ended.
    """

    home: Home
    disk: Disk
    ledger: Ledger
    outbox: Outbox
    faults: Faults
    last: Run
