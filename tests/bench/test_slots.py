"""The benchmark of slots measures what it says: every picture is made, saved or counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import slots
from tests.bench.turns import Contestant, take_turns


@pytest.mark.parametrize("saved", [True, False])
def test_stub_slots_make_every_picture_of_the_job(tmp_path: Path, saved: bool) -> None:
    given = {"root": tmp_path / "home", "slots": 3, "images": 12, "saved": saved}
    said = take_turns({"": Contestant(f"{slots.__name__}:dispatch", given)}, 60.0)[""].said
    pictures = list((tmp_path / "home" / "outbox" / "night").glob("night-*.png"))
    assert len(pictures) == (12 if saved else 0)
    assert said["made_rate"] >= said["saved_rate"] > 0


def test_slots_that_sleep_have_processes_of_their_own(tmp_path: Path) -> None:
    given = {"root": tmp_path / "home", "slots": 2, "images": 4}
    said = take_turns({"": Contestant(f"{slots.__name__}:sleeping", given)}, 60.0)[""].said
    # Two at a time, of which each sleeps for 0.2 s.
    assert 0 < said["made_rate"] < 4 / 0.3
