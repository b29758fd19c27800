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
    for _ in range(2):
        for _ in range(3):
            log.failed(DiskFull("no room"))
        log.recovered()
        clock.now += 61.0
        log.recovered()
        log.recovered()
    told = ["writing: no room; trying again until it works", "writing: it works again"]
    assert [record.message for record in caplog.records] == told * 2


def test_what_fails_and_works_in_turn_is_logged_once_and_never_said_to_work(
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
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_a_mistake_of_ours_is_logged_with_its_traceback(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = LogOnce("writing")
    for error in (ZeroDivisionError("oh"), DiskFull("no room")):
        log.failed(error)
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]
