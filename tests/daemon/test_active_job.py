"""When a job that has a slot counts as hung, and how much of it is done."""

from __future__ import annotations

from typing import Any

import pytest

from runner.daemon.active_job import Dispatch
from runner.engine.registry import realise
from runner.executor import Progressed
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


@pytest.mark.parametrize(
    ("times", "done"), [(1, [0.5, 1, 1, 1, 1]), (4, [0.25, 0.5, 0.5, 0.75, 1])]
)
def test_a_picture_that_is_being_enlarged_is_not_done(times: int, done: list[float]) -> None:
    """Seen red: from its first tile on it counted as whole."""
    spec = {"kind": "text2img", "prompt": "a star", "seed": 1, "upscale": times}
    task = realise(spec, job="j", index=1, inputs={})
    nothing: Any = None
    job = Dispatch(nothing, {1: nothing}, 0.0)
    assert job.images_left == 1
    events = [
        (Phase.DENOISING, 2, 4), (Phase.DECODING, 0, 0),
        (Phase.UPSCALING, 0, 8), (Phase.UPSCALING, 4, 8), (Phase.SAVING, 0, 0),
    ]  # fmt: skip
    for event, part in zip(events, done, strict=True):
        job.latest = Progressed("gpu0", task, *event)
        assert 1 - job.images_left == part
