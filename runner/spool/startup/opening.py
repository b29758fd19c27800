"""Opens a home: opens or rebuilds the ledger, then recovers from how the last process ended.

Either everything is up to date afterwards or nothing is open; safe to repeat.
"""

from runner.clock import now, timestamp
from runner.errors import JobFailed
from runner.files import is_folder
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

_MOVE = "move this folder away, then drop its spec again"
_SEARCH = "a folder in the outbox may go on saying that it is queued: move it away, drop its spec"
_NAMED_SECONDS = 7 * 86_400.0


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
        outbox, last = Outbox(home, ledger, disk, faults), ledger.last_run()
        spool = Spool(home, disk, ledger, outbox, faults, last)
        name_quarantined(spool)
        if not ledger.latest(1):
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


def name_quarantined(spool: Spool) -> None:
    """Name the jobs that are kept out of the ledger; forget those whose folder is gone.

    One whose id cannot be read has no folder that is known: it is named for a week.
    """
    if spool.home.places.away():
        # It is not known what lies in the outbox.
        return
    week_ago = timestamp(now() - _NAMED_SECONDS)
    for job_id, why, at in spool.ledger.quarantined():
        is_known = is_safe_id(job_id)
        folder = spool.outbox.folder(job_id if is_known else stand_in(job_id))
        with spool.faults.isolated(folder):
            if not is_folder(folder) if is_known else at < week_ago:
                spool.ledger.forget_quarantined(job_id)
                spool.faults.forget(folder)
            elif folder not in spool.faults:
                advice = f"it is not run: {_MOVE if is_known else _SEARCH}"
                raise JobFailed(f"{why}; {advice}")
