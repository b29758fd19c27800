"""The spool of one open home, as its parts hand it to each other."""

from __future__ import annotations

from dataclasses import dataclass

from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox


@dataclass(frozen=True)
class Spool:
    """A home's settings and folders, its file operations, records, outbox and faults."""

    home: Home
    disk: Disk
    ledger: Ledger
    outbox: Outbox
    faults: Faults
