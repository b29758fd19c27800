"""A home that any earlier version left, killed in mid work, is opened and its jobs go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.spool.conftest import Spool

HOMES = sorted(file.parent.parent for file in Path(__file__).parent.glob("homes/*/data/*.sqlite"))
FINAL = ("done", "fails", "bad", "gone")


@pytest.fixture(params=HOMES, ids=lambda home: home.name)
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    """A copy of the home, not yet started."""
    shutil.copytree(request.param, tmp_path / "home")
    made = Spool(tmp_path / "home")
    yield made
    made.stop()


def test_what_was_over_keeps_its_status_byte_for_byte_and_the_rest_goes_on(left: Spool) -> None:
    before = {job: (left.home.job(job) / "status.json").read_bytes() for job in FINAL}
    Image.new("RGB", (64, 64), "red").save(left.home.inbox / "late.png")
    left.start()
    cut, waits, composed, *others = left.over("cut", "waits", "pack", "next", "stopped")
    assert (cut["state"], cut["attempt"], cut["images"]["done"]) == ("succeeded", 2, 4)
    assert (composed["state"], composed["images"]["done"]) == ("succeeded", 2)
    assert [status["state"] for status in (waits, *others)] == ["succeeded"] * 3
    assert ("cut", 1) not in left.device.started
    later = left.status("later")
    assert (later["state"], later["reason"]) == ("queued", "OutsideWindow")
    after = {job: (left.home.job(job) / "status.json").read_bytes() for job in FINAL}
    assert after == before
