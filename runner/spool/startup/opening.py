"""Opens a home: opens or rebuilds the ledger, then recovers from how the last process ended.

Either everything is up to date afterwards or nothing is open; safe to repeat.
"""

from __future__ import annotations

from runner.errors import JobFailed
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.inbox.assess import Catalogue
from runner.spool.startup.rebuild import rebuild, set_damaged_aside
from runner.spool.startup.recovery import recover
from runner.spool.store.ledger import Ledger
from runner.spool.store.names import is_safe_id, stand_in
from runner.spool.store.outbox import Outbox
from runner.spool.store.spool import Spool


def open_spool(home: Home, disk: Disk, catalogue: Catalogue) -> Spool:
    """The spool of a home, its ledger and outbox in agreement but for jobs at fault.

    Raises LedgerNewer; LedgerUnusable, DiskFull or OSError where a disk is full or cannot be
    written.
    """
    disk.shared = (str(home.inbox), str(home.outbox))
    file = home.data / "ledger.sqlite"
    set_damaged_aside(file, disk)
    ledger = Ledger(file, disk)
    try:
        faults = Faults(home)
        spool = Spool(home, disk, ledger, Outbox(home, ledger, disk, faults), faults)
        _name_quarantined(spool)
        if ledger.is_empty():
            # New, or its rebuild was interrupted.
            rebuild(spool, catalogue)
        disk.make_folder(home.drops)
        disk.make_folder(home.inbox / ".tmp")
        recover(spool)
    except BaseException:
        # The next start must recover in full.
        ledger.close(clean=False)
        raise
    return spool


def _name_quarantined(spool: Spool) -> None:
    """Name the jobs that are kept out of the ledger, now and when one is; forget those removed."""

    def name(job_id: str, why: str) -> None:
        folder = job_id if is_safe_id(job_id) else stand_in(job_id)
        advice = "it is not run: drop its spec again, and move this folder away"
        spool.faults.add(spool.outbox.folder(folder), JobFailed(f"{why}; {advice}"))

    for job_id, why in spool.ledger.quarantined().items():
        if is_safe_id(job_id) and not spool.outbox.folder(job_id).is_dir():
            spool.ledger.release(job_id)
        else:
            name(job_id, why)
    spool.ledger.on_quarantine = name
