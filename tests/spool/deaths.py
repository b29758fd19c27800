"""The death of a daemon, as a kill would bring it, and the start after one."""

from __future__ import annotations

from tests.spool.conftest import Spool
from tests.spool.device import FlatColours


def die(spool: Spool) -> None:
    """End the daemon as a kill would: nothing is requeued."""
    daemon = spool.daemon
    assert daemon is not None
    spool.until(lambda: not daemon.writer.waiting)
    daemon.ask_to_stop()
    daemon.intake.wake.set()
    daemon._intake_thread.join()
    daemon.writer.close()
    daemon.ledger.close(clean=False)
    for lock in daemon._locks:
        lock.release()
    spool.daemon = None


def start_again(spool: Spool) -> None:
    """Start a daemon with a fresh device."""
    spool.device = FlatColours()
    spool.start()
