"""The long runs, short: so that they work when they are asked for, and find what they look for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.soak.month import Month, in_zone
from tests.soak.stream import Light, Stream

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no tzset, no SIGKILL")

_NIGHTS = ((2, 14), (2, 15), (3, 21), (3, 22), (3, 23), (3, 24), (3, 25))
_HOURS = ((12, 25), (22, 55), (1, 25), (2, 25), (3, 25))


def test_a_month_with_two_changes_of_the_clock_loses_nothing(tmp_path: Path) -> None:
    """Seen red: with `_shown(...)` in UTC, images began outside their hours."""
    at = sorted(datetime(2026, *day, *hour, tzinfo=UTC) for day in _NIGHTS for hour in _HOURS)
    with in_zone():
        month = Month(tmp_path / "home", 60, at)
        assert month.play() == []
    assert len(month.days) > 3


def test_a_stream_beside_stops_and_odd_files_loses_nothing(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "home", 3.0, seed=1, make=Light)
    assert stream.play() == []
