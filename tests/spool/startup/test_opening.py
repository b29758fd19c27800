"""Opening a home: what is named until it is put right."""

from __future__ import annotations

from runner.spool.startup.opening import name_quarantined
from tests.spool.conftest import Spool


def test_while_the_outbox_is_away_no_job_in_quarantine_is_taken_for_moved_away(
    spool: Spool,
) -> None:
    """Seen red: it was forgotten for good, and named no more once the disk was back."""
    daemon = spool.daemon
    assert daemon is not None
    daemon.ledger.quarantine("odd", "it cannot be read")
    (spool.home.job("odd")).mkdir()
    name_quarantined(daemon.spool)
    aside = spool.home.outbox.rename(spool.home.root / "aside")
    name_quarantined(daemon.spool)
    aside.rename(spool.home.outbox)
    name_quarantined(daemon.spool)
    assert [fault["file"] for fault in daemon.faults.listed()] == ["outbox/odd"]
    spool.home.job("odd").rmdir()
    name_quarantined(daemon.spool)
    assert not daemon.faults and not daemon.ledger.quarantined()
