"""Opening a home: the ledger, made again where it is gone, and all that the last process left.

Either everything is up to date afterwards or nothing is open; doing it again changes nothing.
"""

from __future__ import annotations

from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.inbox.assess import Catalogue
from runner.spool.inbox.faults import Faults
from runner.spool.startup.rebuild import rebuild, set_damaged_aside
from runner.spool.startup.recovery import recover
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox


def open_spool(home: Home, disk: Disk, catalogue: Catalogue) -> tuple[Ledger, Outbox, Faults]:
    """The ledger and the outbox of a home, in agreement but for what is set aside.

    Raises LedgerUnusable, DiskFull or OSError where a disk does not do its part.
    """
    file = home.data / "ledger.sqlite"
    set_damaged_aside(file, disk)
    ledger = Ledger(file, disk)
    faults = Faults(home)
    try:
        outbox = Outbox(home, ledger, disk)
        if ledger.is_empty():
            # New, or its making was cut short.
            rebuild(home, ledger, outbox, disk, catalogue)
        disk.make_folder(home.drops)
        disk.make_folder(home.inbox / ".tmp")
        recover(home, ledger, outbox, disk, faults)
    except BaseException:
        # The next one must take nothing for settled.
        ledger.close(clean=False)
        raise
    return ledger, outbox, faults
