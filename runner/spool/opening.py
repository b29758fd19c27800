"""Opening a home: the ledger, made again where it is gone, and all that the last process left.

Either everything is up to date afterwards or nothing is open; doing it again changes nothing.
"""

from __future__ import annotations

from runner.settings import Home
from runner.spool.effects import Disk
from runner.spool.faults import Faults
from runner.spool.judge import Catalogue
from runner.spool.ledger import Ledger
from runner.spool.outbox import Outbox
from runner.spool.rebuild import rebuild, set_damaged_aside
from runner.spool.recovery import recover


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
        if not ledger.select("1 = 1", limit=1):
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
