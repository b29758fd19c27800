"""The daemon's tests use the spool's homes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.spool.conftest import Spool, idle_spool, packed, spool

__all__ = ["idle_spool", "packed", "spool", "told"]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Spool]:
    """A home whose daemon the test starts itself, and where each end is told once.

    Once the test is over, the ledger must have one event of each job that has ended, and none of
    any other.
    """
    made = Spool(tmp_path / "home", rescan_seconds=0.1)
    yield made
    made.stop()
    with closing(sqlite3.connect(made.home.data / "ledger.sqlite")) as connection:
        told = [n for (n,) in connection.execute("SELECT seq FROM event WHERE type = 'ended'")]
        jobs = connection.execute("SELECT seq, finished_at IS NOT NULL FROM job").fetchall()
    assert len(told) == len(set(told))
    assert {seq for seq, ended in jobs if ended} <= set(told)
    assert not {seq for seq, ended in jobs if not ended} & set(told)
