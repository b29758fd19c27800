"""A folder of the home goes away under a running daemon: it pauses, writes nothing, and goes on."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.daemon.daemon import Daemon
from tests.harness import fluxdrop
from tests.spool.conftest import SPEC, Spool
from tests.spool.device import FlatColours
from tests.spool.disk import mounts


@dataclass
class Share:
    """A folder that can be taken away, and comes back as it was."""

    at: Path
    take_away: Callable[[], None]
    bring_back: Callable[[], None]

    def is_untouched(self) -> bool:
        """Whether what lies at its path while it is away is as empty as it was found."""
        try:
            return list(self.at.iterdir()) == []
        except OSError as error:
            return error.errno == errno.ENOTCONN


@pytest.fixture(params=["moved", "unmounted", "broken off"])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Share]:
    """A folder that is moved, and another made in its place; or one behind FUSE, which goes."""
    at, aside = tmp_path / "at", tmp_path / "aside"
    at.mkdir()
    if request.param == "moved":

        def move() -> None:
            at.rename(aside)
            at.mkdir()

        def move_back() -> None:
            at.rmdir()
            aside.rename(at)

        yield Share(at, move, move_back)
        return
    aside.mkdir()
    with ExitStack() as mounted:

        def mount() -> None:
            mounted.enter_context(mounts.passed_through(aside, at))

        def mount_again() -> None:
            mounts.unmount(at)
            mount()

        mount()
        if request.param == "unmounted":
            yield Share(at, lambda: mounts.unmount(at), mount)
        else:
            yield Share(at, lambda: mounts.break_off(at), mount_again)


def paused(spool: Spool) -> bool:
    assert spool.daemon is not None
    hold = spool.daemon.worker.hold
    return hold is not None and hold.reason == "Unwritable"


def go_on_for_a_while(spool: Spool) -> None:
    """Until the health file was due twice, and the intake and the writer have tried again."""
    daemon = spool.daemon
    assert daemon is not None
    for _ in range(2):
        daemon._health_due = 0.0
        daemon.intake.wake.set()
        daemon.step(0.3)
        spool.until(lambda: daemon.writer.waiting == 0)


def test_an_outbox_that_goes_away_is_waited_for_and_nothing_is_written_in_its_place(
    tmp_path: Path, share: Share
) -> None:
    """Seen red: jobs, receipts and `runner.json` landed below the mount point."""
    spool = Spool(tmp_path / "home", outbox=str(share.at), rescan_seconds=0.1)
    spool.start()
    spool.drop("before.yaml")
    assert spool.end("before")["state"] == "succeeded"
    share.take_away()
    spool.until(lambda: paused(spool))
    spool.drop("meanwhile.yaml")
    go_on_for_a_while(spool)
    assert share.is_untouched() and (spool.home.inbox / "meanwhile.yaml").exists()
    share.bring_back()
    assert spool.end("meanwhile")["state"] == "succeeded"
    assert spool.receipt("meanwhile.yaml")["outcome"] == "accepted"
    spool.stop()


def test_an_image_that_is_made_while_the_outbox_goes_away_is_made_again(
    tmp_path: Path, share: Share
) -> None:
    spool = Spool(tmp_path / "home", outbox=str(share.at), rescan_seconds=0.1)

    def on_start(task: object) -> None:
        if len(spool.device.started) == 2:
            share.take_away()

    spool.device.on_start = on_start
    spool.start()
    spool.drop("hero.yaml", SPEC.replace("seed: 7", "seeds: [1, 2, 3]"))
    spool.until(lambda: paused(spool) and spool.daemon.worker.idle)  # type: ignore[union-attr]
    go_on_for_a_while(spool)
    assert share.is_untouched()
    share.bring_back()
    status = spool.end("hero")
    assert (status["state"], status["images"]["done"], status["attempt"]) == ("succeeded", 3, 1)
    assert len(spool.device.started) > 3 and set(spool.device.started) == {
        ("hero", number) for number in (1, 2, 3)
    }
    spool.stop()


def test_an_inbox_that_is_unmounted_is_not_read_and_the_health_file_says_so(
    tmp_path: Path,
) -> None:
    behind, at = tmp_path / "behind", tmp_path / "at"
    behind.mkdir()
    spool = Spool(tmp_path / "home", inbox=str(at), rescan_seconds=0.1)
    with mounts.passed_through(behind, at):
        spool.start()
        (at / "runner.pause").touch()
        spool.until(lambda: spool.daemon.worker.hold is not None)  # type: ignore[union-attr]
        mounts.unmount(at)
        spool.until(lambda: paused(spool))
        (at / "lost.yaml").write_text(SPEC, encoding="utf-8")
        go_on_for_a_while(spool)
        # The file is written every two seconds, and the watch is looked after by the intake.
        spool.until(lambda: json.loads(spool.home.health.read_bytes())["watch"] == "polling")
        health = json.loads(spool.home.health.read_bytes())
        assert health["state"] == "paused"
        assert health["note"].startswith(f"{at} is not the folder that this runner began with")
        assert [file.name for file in at.iterdir()] == ["lost.yaml"]
        (at / "lost.yaml").unlink()
    with mounts.passed_through(behind, at):
        spool.until(lambda: not paused(spool))
        (at / "runner.pause").unlink()
        (behind / "found.yaml").write_text(SPEC, encoding="utf-8")
        assert spool.end("found")["state"] == "succeeded"
        spool.stop()
    assert not spool.status("lost")


def test_a_home_that_is_made_anew_at_the_old_path_is_left_to_its_own_runner(
    tmp_path: Path,
) -> None:
    """Seen red: the old runner took the specs of the new home, too."""
    old = Spool(tmp_path / "home", rescan_seconds=0.1)
    old.start()
    old.drop("w.yaml")
    old.end("w")
    moved = old.home.root.rename(tmp_path / "moved")
    new = Spool(tmp_path / "home")
    new.drop("x.yaml")
    before = sorted(new.home.root.rglob("*"))
    old.until(lambda: paused(old))
    go_on_for_a_while(old)
    assert sorted(new.home.root.rglob("*")) == before
    new.start()
    assert new.end("x")["state"] == "succeeded"
    new.stop()
    assert old.device.started == [("w", 1)]
    new.home.root.rename(tmp_path / "new")
    moved.rename(old.home.root)
    old.drop("y.yaml")
    assert old.end("y")["state"] == "succeeded"
    old.stop()


def test_a_runner_stops_while_its_whole_home_is_away(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", rescan_seconds=0.1)
    spool.start()
    spool.home.root.rename(tmp_path / "moved")
    spool.until(lambda: paused(spool))
    spool.stop()
    assert not spool.home.root.exists()
    again = Spool(tmp_path / "moved")
    again.start()
    again.drop("x.yaml")
    assert again.end("x")["state"] == "succeeded"
    again.stop()


def test_a_drain_whose_outbox_goes_away_ends_with_a_note_and_leaves_the_drops(
    tmp_path: Path, share: Share
) -> None:
    spool = Spool(tmp_path / "home", outbox=str(share.at))
    with Daemon(spool.home, FlatColours()) as daemon:
        share.take_away()
        spool.drop("x.yaml")
        outcome = daemon.drain()
    assert not outcome.all_well and str(share.at) in str(outcome.note)
    assert share.is_untouched() and (spool.home.inbox / "x.yaml").exists()


def test_neither_a_runner_nor_a_caller_begins_while_a_disk_of_the_home_is_not_mounted(
    home: Path, tmp_path: Path
) -> None:
    """Seen red: a start made the folders below the mount point, and worked there."""
    behind, at = tmp_path / "behind", tmp_path / "at"
    behind.mkdir()
    settings = {"inbox": f"{at}/in", "outbox": f"{at}/out"}
    (home / "fluxdrop.yaml").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "x.yaml").write_text(SPEC, encoding="utf-8")
    with mounts.passed_through(behind, at):
        assert fluxdrop("drain", home=home).code == 0
    for command in (("drain",), ("submit", str(tmp_path / "x.yaml")), ("pause",)):
        done = fluxdrop(*command, home=home)
        assert done.code == 1, done
        assert f"on the disk of {at}, where none is mounted now" in done.err
    assert list(at.iterdir()) == []
    with mounts.passed_through(behind, at):
        assert fluxdrop("submit", str(tmp_path / "x.yaml"), home=home).code == 0


def test_places_that_cannot_be_pinned_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "home")

    def refuse(*given: object, **named: object) -> None:
        raise OSError("cannot be looked at")

    with monkeypatch.context() as patch:
        patch.setattr("runner.places.Places.pin", refuse)
        with pytest.raises(OSError, match="cannot be looked at"):
            spool.start()
    spool.start()
    spool.stop()


def test_while_the_outbox_is_moved_away_from_a_runner_status_and_doctor_say_so_and_make_none(
    tmp_path: Path,
) -> None:
    """Seen red: "no fluxdrop home", and then "no runner is running; no jobs yet"."""
    spool = Spool(tmp_path / "home")
    spool.start()
    aside = spool.home.outbox.rename(tmp_path / "aside")
    for word in ("status", "doctor"):
        said = fluxdrop(word, "--home", str(spool.home.root))
        assert "a runner works here, but not in" in said.out and not spool.home.outbox.exists()
    aside.rename(spool.home.outbox)
    spool.drop("x.yaml")
    assert spool.end("x")["state"] == "succeeded"
    spool.stop()
