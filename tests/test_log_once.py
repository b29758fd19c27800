"""A fault that recurs is logged once, until it has been gone for a while."""

from __future__ import annotations

import logging

import pytest

from runner.errors import DiskFull
from runner.log_once import LogOnce
from tests.fakes import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock by which faults are old."""
    made = FakeClock()
    monkeypatch.setattr("runner.log_once.monotonic", made)
    return made


def test_a_fault_and_its_end_are_logged_once_each(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = LogOnce("writing")
    log.recovered()
    for _ in range(3):
        log.failed(DiskFull("no room"))
    log.recovered()
    log.recovered()
    assert [record.message for record in caplog.records] == [
        "writing: no room; trying again until it works",
        "writing: it works again",
    ]


def test_faults_that_come_and_go_in_turn_are_logged_once_each(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red: one folder that cannot be written, beside others, filled the log for ever."""
    caplog.set_level(logging.INFO)
    log = LogOnce("writing")
    for _ in range(1000):
        log.failed(OSError(40, "a link"))
        log.failed(OSError(21, "a folder"))
        log.recovered()
        clock.now += 2.0
    assert len(caplog.records) == 3


def test_a_fault_that_comes_back_after_five_minutes_is_logged_again(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = LogOnce("writing")
    for _ in range(2):
        log.failed(ZeroDivisionError("oh"))
        log.recovered()
        clock.now += 301.0
    first, second = caplog.records
    assert first.exc_info and second.exc_info
