"""A device that is lost or hangs ends the process, and the next one goes on with the job."""

from __future__ import annotations

import pytest

from runner import exit_codes
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import start_again

BULK = SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}")


def test_a_lost_device_ends_the_process_with_the_attempt_charged_and_the_job_goes_on(
    spool: Spool,
) -> None:
    spool.device.failing["hero", 2] = ("DeviceLost", "the GPU is gone")
    spool.drop("hero.yaml", BULK)
    assert spool.daemon is not None
    worker = spool.daemon.worker
    spool.until(lambda: worker.exit_code)
    assert worker.exit_code == exit_codes.DEVICE_LOST
    spool.stop()
    assert spool.status("hero")["state"] == "running"
    start_again(spool)
    status = spool.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 2)
    assert spool.device.started == [("hero", 2), ("hero", 3), ("hero", 4)]


def test_an_image_that_hangs_beyond_its_timeout_is_charged_and_ends_the_process(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.daemon.active_job._HUNG_AFTER_SECONDS", 0.1)
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK + "timeout: 0.1\n")
    spool.until(lambda: spool.device.task)
    spool.device.step()
    assert spool.daemon is not None
    worker = spool.daemon.worker
    spool.until(lambda: worker.exit_code)
    assert worker.exit_code == exit_codes.HUNG
    spool.stop()
    start_again(spool)
    assert spool.daemon.ledger.charged(1) == {1}
    assert spool.end("hero")["state"] == "succeeded"
