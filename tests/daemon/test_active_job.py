"""When a job that has a slot counts as hung."""

from __future__ import annotations

import pytest

from runner.job import Phase
from tests.spool.conftest import SPEC, Spool


@pytest.mark.parametrize(("timeout", "silence"), [(100, 200.0), (1, 30.0)])
def test_an_image_hangs_after_a_silence_of_two_timeouts_but_never_within_half_a_minute(
    spool: Spool, timeout: int, silence: float
) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", SPEC + f"timeout: {timeout}\n")
    spool.until(lambda: spool.device.task)
    assert spool.daemon is not None
    job = spool.daemon.worker.dispatches["gpu0"]
    assert not job.is_hung(job.heard_at + 1e6), "loading takes as long as it takes"
    spool.device.step()
    spool.until(lambda: job.phase == Phase.DENOISING)
    assert not job.is_hung(job.heard_at + silence - 0.1)
    assert job.is_hung(job.heard_at + silence + 0.1)
