"""Naive writers: no half-written spec is ever run. See `tests/spool/zoo.py`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from runner.settings import Settings
from runner.spool.disk.platform import can_probe_writers
from runner.spool.inbox.intake import _BATCH, Intake
from runner.spool.inbox.settle import Drop
from tests.spool.conftest import SPEC, Spool
from tests.spool.disk import mounts
from tests.spool.takers import OnClose, Runner, SizeStable, StrictRunner
from tests.spool.writers import FORMS, WRITERS, Writer, spec
from tests.spool.zoo import Visit, here, play

_HOLES = [writer for writer in WRITERS if writer.hole]
_HONEST = [writer for writer in here() if not writer.hole]


@pytest.fixture(autouse=True)
def _probed(tmp_path: Path) -> None:
    if not can_probe_writers(tmp_path) or not Path("/proc/uptime").exists():
        pytest.skip("this system cannot say who has a file open for writing, or has no /proc")


def _named(*names: str) -> list[Writer]:
    found = [writer for writer in WRITERS if writer.name in names]
    assert len(found) == len(names)
    return found


def test_no_naive_writer_gets_a_truncated_spec_run(tmp_path: Path) -> None:
    crowd = [(writer, form) for writer in _HONEST for form in FORMS]
    with Runner(tmp_path / "home") as runner:
        visits = play(runner, crowd, tmp_path / "aside")
    counted = [visit for visit in visits if visit.counts]
    assert [visit for visit in counted if visit.truncated] == []
    assert [visit for visit in counted if not visit.whole] == []
    # A busy machine lengthens pauses; what is left must still be a zoo.
    assert len(counted) > len(visits) / 2, [visit for visit in visits if not visit.counts]
    sidecars = [taken.sidecar for taken in runner.taken if taken.data in map(spec, FORMS)]
    assert len(sidecars) > len(counted)
    for sidecar in sidecars:
        assert sidecar is not None
        assert (sidecar["steps"], sidecar["tags"]) == (13, ["night"])
        assert sidecar["prompt"].endswith("woodcut")


def test_strict_closes_the_hole_of_a_pause_longer_than_the_settling_time(tmp_path: Path) -> None:
    crowd = [(_HOLES[0], form) for form in ("marked", "json")]
    with StrictRunner(tmp_path / "home") as runner:
        visits = play(runner, crowd, tmp_path / "aside")
    assert [(visit.truncated, visit.whole) for visit in visits] == [(False, True)] * len(crowd)
    # The pauses were there: without `strict` each of these could have been taken too early.
    assert min(visit.pause for visit in visits) > Settings().settle_seconds


def test_the_zoo_shows_what_size_and_close_alone_get_wrong(tmp_path: Path) -> None:
    crowd = _named(
        "stalls in mid-file, holding it open",
        "python: open, append, close, wait 0.2 s",
        "written elsewhere, renamed in",
    )
    found: dict[type, dict[str, Visit]] = {}
    for kind in (SizeStable, OnClose):
        with kind(tmp_path / kind.__name__) as taker:
            aside = tmp_path / f"{kind.__name__} aside"
            visits = play(taker, [(writer, "plain") for writer in crowd], aside)
            found[kind] = {visit.writer.name.split()[0].rstrip(":"): visit for visit in visits}
    assert found[SizeStable]["stalls"].truncated
    assert found[OnClose]["python"].truncated
    assert not found[OnClose]["written"].whole


def test_a_writer_that_renames_its_file_in_and_goes_on_is_taken_whole(spool: Spool) -> None:
    target = spool.home.inbox / "x.yaml"
    aside = spool.home.inbox / ".tmp" / "x"
    assert spool.daemon is not None
    intake = spool.daemon.intake
    spool.until(lambda: intake.watcher.mode == "events")
    aside.parent.mkdir(exist_ok=True)
    with aside.open("w", encoding="utf-8") as file:
        file.write(SPEC)
        file.flush()
        aside.rename(target)
        seen = intake.scans
        spool.until(lambda: intake.scans > seen + 3 or not target.exists())
        file.write("x_late: 3\n")
    assert spool.end("x").get("x_late") == 3


def test_a_spec_that_is_written_slowly_behind_fuse_is_taken_whole(tmp_path: Path) -> None:
    """Seen red: it ran without its last lines, and was removed under its writer."""
    behind, at = tmp_path / "behind", tmp_path / "at"
    behind.mkdir()
    with mounts.passed_through(behind, at):
        spool = Spool(tmp_path / "home", inbox=str(at), settle_seconds_unknown=2.0)

        def write() -> None:
            with (behind / "x.yaml").open("w", encoding="utf-8") as file:
                for line in (*SPEC.splitlines(), "count: 3", "x_last: true"):
                    file.write(f"{line}\n")
                    file.flush()
                    time.sleep(0.3)

        writer = threading.Thread(target=write)
        spool.start()
        writer.start()
        status = spool.end("x")
        writer.join()
        spool.stop()
    assert status.get("x_last") is True and status["images"]["done"] == 3


def test_a_long_look_at_the_inbox_is_no_silence_of_a_file_that_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "home", settle_seconds=1.0)
    accept, far = Intake.accept, threading.Event()
    late = spool.home.inbox / "zz.yaml"

    def slowly(intake: Intake, drops: list[Drop]) -> None:
        accept(intake, drops)
        if drops[0].name == "0.yaml":
            writer.start()
            assert far.wait(10)

    def append() -> None:
        # A pause is a tenth of the settling time; the whole takes twice as long.
        for number in range(20):
            with late.open("a", encoding="utf-8") as file:
                file.write(f"x_{number}: {number}\n")
            if number == 12:
                far.set()
            time.sleep(0.1)

    monkeypatch.setattr(Intake, "accept", slowly)
    writer = threading.Thread(target=append)
    late.write_text(SPEC, encoding="utf-8")
    for number in range(_BATCH):
        spool.drop(f"{number}.yaml", "kind: none\n...\n")
    spool.start()
    status = spool.end("zz")
    writer.join()
    spool.stop()
    assert [status.get(f"x_{number}") for number in range(20)] == list(range(20))
