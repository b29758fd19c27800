"""A full disk: nothing that was done is lost, what cannot be recorded does not begin, and the
queue goes on by itself once there is room."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import holds
from runner.cli.init import make_home
from runner.daemon.daemon import Daemon
from runner.errors import LedgerUnusable
from tests.cli.test_live import started
from tests.harness import PATIENCE, eventually, fluxdrop
from tests.spool.conftest import SPEC, Spool
from tests.spool.device import FlatColours
from tests.spool.faulty import FaultyDisk
from tests.spool.inbox.test_inputs import png

BULK = SPEC.replace("seed: 7", "seeds: {start: 1, count: 4}")


@pytest.fixture
def no_ledger(idle_spool: Spool, monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    """A disk whose ledger can be kept from being written, under a started spool."""
    monkeypatch.setattr("runner.daemon.recording._AGAIN_SECONDS", 0.02)
    disk = FaultyDisk("commit", "ledger", errno.ENOSPC, broken=False)
    idle_spool.start(disk)
    return disk


def test_an_image_made_while_the_ledger_cannot_be_written_is_counted_when_it_can(
    idle_spool: Spool, no_ledger: FaultyDisk
) -> None:
    spool = idle_spool
    spool.device.on_start = lambda task: setattr(no_ledger, "broken", True)
    spool.drop("hero.yaml")
    spool.until(lambda: no_ledger.failed >= 3)
    assert spool.status("hero")["state"] != "succeeded"
    no_ledger.broken = False
    status = spool.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 1)
    assert spool.device.started == [("hero", 1)]


def test_a_job_that_cannot_be_recorded_does_not_begin_until_it_can(
    idle_spool: Spool, no_ledger: FaultyDisk
) -> None:
    spool = idle_spool
    (spool.home.inbox / "runner.pause").touch()
    spool.drop("hero.yaml")
    assert spool.receipt("hero.yaml")["outcome"] == "accepted"
    no_ledger.broken = True
    (spool.home.inbox / "runner.pause").unlink()
    spool.until(lambda: no_ledger.failed >= 3)
    assert spool.device.started == []
    no_ledger.broken = False
    status = spool.end("hero")
    assert (status["state"], status["attempt"]) == ("succeeded", 1)


def test_a_runner_stops_while_the_ledger_cannot_be_written_and_the_next_one_knows_the_picture(
    idle_spool: Spool, no_ledger: FaultyDisk
) -> None:
    spool = idle_spool
    spool.device.on_start = lambda task: setattr(no_ledger, "broken", True)
    spool.drop("hero.yaml")
    spool.until(lambda: no_ledger.failed >= 1)
    spool.stop()
    made = spool.device.started
    spool.restart()
    assert spool.end("hero")["images"]["done"] == 1
    assert made == [("hero", 1)] and spool.device.started == []


def test_a_picture_whose_sidecar_finds_no_room_is_taken_back(idle_spool: Spool) -> None:
    spool = idle_spool
    spool.start(FaultyDisk("rename", r"hero-0001\.json", errno.ENOSPC))
    spool.drop("hero.yaml")
    status = spool.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "DiskFull")
    assert spool.pictures("hero") == []
    assert not list((spool.home.job("hero") / "thumbs").iterdir())


def test_an_image_that_cannot_be_saved_for_a_bug_fails_and_is_not_forgotten(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*args: object, **kwargs: object) -> bytes:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("runner.daemon.saving.encode", stumble)
    spool.drop("hero.yaml")
    status = spool.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "Internal")
    assert "ZeroDivisionError" in status["message"]


def test_an_answer_cut_short_once_its_file_has_left_is_finished_without_a_restart(
    idle_spool: Spool,
) -> None:
    spool = idle_spool
    disk = FaultyDisk("sync_folder", "inbox", errno.ENOSPC)
    spool.start(disk)
    spool.drop("hero.yaml")
    spool.until(lambda: disk.failed)
    assert not (spool.home.inbox / "hero.yaml").exists()
    disk.broken = False
    assert spool.end("hero")["state"] == "succeeded"


def test_an_answer_cut_short_is_finished_though_another_file_has_its_name(
    idle_spool: Spool,
) -> None:
    spool = idle_spool
    disk = FaultyDisk("sync_folder", "inbox", errno.ENOSPC)

    def drop_another() -> None:
        disk.broken = False
        spool.drop("hero.yaml", SPEC + "steps: 3\n")

    disk.on_failure = drop_another
    spool.start(disk)
    spool.drop("hero.yaml")
    assert [each["state"] for each in spool.over("hero", "hero-2")] == ["succeeded", "succeeded"]


def test_an_input_that_finds_no_room_is_copied_when_there_is_some(idle_spool: Spool) -> None:
    spool = idle_spool
    disk = FaultyDisk("write", r"edit/inputs/", errno.ENOSPC)
    spool.start(disk)
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.drop("edit.yaml", SPEC.replace("text2img", "kontext") + "image: cat.png\n")
    spool.until(lambda: "no room left" in (spool.status("edit").get("message") or ""))
    assert spool.status("edit")["reason"] == "WaitingForInput"
    disk.broken = False
    assert spool.end("edit")["state"] == "succeeded"


def test_a_nearly_full_disk_puts_the_job_back_and_it_goes_on_when_there_is_room(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", BULK)
    spool.until(lambda: spool.device.task)
    with monkeypatch.context() as patch:
        patch.setattr(holds, "LEAST_FREE_BYTES", 1 << 62)
        assert spool.daemon is not None
        spool.daemon.step(0.0)
        spool.device.finish()
        status = spool.until(lambda: (s := spool.status("hero"))["reason"] == "DiskFull" and s)
        assert (status["state"], status["images"]["done"]) == ("queued", 1)
        assert "free some" in status["message"]
        health = spool.until(lambda: (h := _health(spool))["note"] and h)
        assert health["state"] == "paused" and str(spool.home.outbox) in health["note"]
    spool.device.by_hand = False
    status = spool.end("hero")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 4)
    assert [number for _, number in spool.device.started] == [1, 2, 3, 4]


def test_a_drain_on_a_nearly_full_disk_leaves_and_says_why(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "LEAST_FREE_BYTES", 1 << 62)
    idle_spool.drop("hero.yaml")
    with Daemon(idle_spool.home, FlatColours()) as daemon:
        outcome = daemon.drain()
    assert not outcome.all_well and "free some" in str(outcome.note)
    assert idle_spool.status("hero")["state"] == "queued"


def test_a_ledger_that_cannot_be_opened_now_is_not_taken_for_a_damaged_one(spool: Spool) -> None:
    spool.drop("hero.yaml")
    spool.end("hero")
    spool.stop()
    in_the_way = spool.home.data / "ledger.sqlite-wal"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    with pytest.raises(LedgerUnusable, match=r"ledger\.sqlite cannot be used now"):
        Daemon(spool.home, FlatColours()).open()
    in_the_way.rmdir()
    assert not list(spool.home.data.glob("*.damaged-*"))
    spool.restart()
    assert spool.daemon is not None
    assert spool.daemon.ledger.counts()["succeeded"] == 1


def test_a_runner_that_could_not_start_on_a_full_disk_can_be_started_when_there_is_room(
    spool: Spool,
) -> None:
    spool.drop("hero.yaml")
    spool.end("hero")
    spool.stop()
    disk = FaultyDisk("commit", "ledger", errno.ENOSPC)
    with pytest.raises(LedgerUnusable, match="make room on its disk"):
        Daemon(spool.home, FlatColours(), disk=disk).open()
    with Daemon(spool.home, FlatColours()) as daemon:
        assert daemon.ledger.counts()["succeeded"] == 1


def _health(spool: Spool) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(spool.home.health.read_bytes())
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB, where this user may have one."""
    if sys.platform != "linux" or not shutil.which("mount"):
        pytest.skip("a disk of a few megabytes can be had on Linux only")
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may not mount a disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("image", [1, 2, 5, 8, 11])
def test_a_disk_that_is_really_full_for_a_while_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, image: int
) -> None:
    monkeypatch.setattr(holds, "LEAST_FREE_BYTES", 0)
    monkeypatch.setattr("runner.daemon.recording._AGAIN_SECONDS", 0.02)
    spool = Spool(small_disk / "home")
    spool.device.on_start = lambda task: (
        _fill(small_disk / "ballast") if len(spool.device.started) == image else None
    )
    spool.start()
    for name in "abcd":
        spool.drop(f"{name}.yaml", SPEC.replace("seed: 7", "count: 3"))
    spool.until((small_disk / "ballast").exists)
    for _ in range(20):
        spool.until(lambda: True)
        assert spool.daemon is not None
        spool.daemon.step(0.05)
    (small_disk / "ballast").unlink()
    for status in spool.over(*"abcd"):
        done = status["images"]["done"]
        if status["state"] == "failed":
            assert status["reason"] == "DiskFull"
            assert done + status["images"]["failed"] == 3
        else:
            assert (status["state"], done) == ("succeeded", 3)
        assert len(spool.pictures(status["id"])) == len(status["outputs"]) == done
    spool.stop()


@pytest.mark.parametrize("count", [1, 3])
def test_an_outbox_that_turns_read_only_costs_no_job_an_image(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(holds, "LEAST_FREE_BYTES", 0)
    spool = Spool(tmp_path / "home", outbox=str(small_disk))
    spool.device.by_hand = True
    spool.start()
    for name in "abc":
        spool.drop(f"{name}.yaml", SPEC.replace("seed: 7", f"count: {count}"))
        spool.until(lambda name=name: spool.device.task and spool.status(name))
    daemon = spool.daemon
    assert daemon is not None
    # Nothing may be open for writing in this very moment.
    spool.until(lambda: _remounted(small_disk, "ro"))
    spool.until(lambda: daemon.worker.hold)
    spool.device.finish()
    spool.until(lambda: daemon.worker.idle)
    spool.until(lambda: not daemon.writer.waiting)
    assert spool.device.started == [("a", 1)]
    assert _remounted(small_disk, "rw")
    spool.device.by_hand = False
    for status in spool.over(*"abc"):
        assert (status["state"], status["images"]["done"]) == ("succeeded", count)
        assert status["attempt"] == 1
    assert spool.device.started[:2] == [("a", 1), ("a", 1)]
    spool.stop()


def test_a_start_on_an_outbox_that_is_read_only_waits_and_status_doctor_and_drain_say_why(
    small_disk: Path, tmp_path: Path
) -> None:
    """Seen red: each start ended with a traceback of a file that could not be swept away."""
    home, said = tmp_path / "home", tmp_path / "said"
    make_home(home)
    (home / "fluxdrop.yaml").write_text(f"outbox: {json.dumps(str(small_disk))}\n", "utf-8")
    (small_disk / ".place-abcdefgh.writing").touch()
    assert _remounted(small_disk, "ro")
    why = f"{small_disk} cannot be written: make it writable again"
    for ends in ("while it waits", "once it runs"):
        with started("run", home=home, output=said) as process:
            eventually(lambda: why in said.read_text("utf-8"), "what it waits for")
            if ends == "once it runs":
                assert why in fluxdrop("status", home=home).out
                assert why in fluxdrop("doctor", home=home).out
                drained = fluxdrop("drain", home=home)
                assert drained.code == 1 and drained.err.count("\n") == 1 and why in drained.err
                assert _remounted(small_disk, "rw")
                eventually((small_disk / "runner.json").exists, "the health file")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        text = said.read_text("utf-8")
        assert text.count(why) == 1 and "Traceback" not in text and "starting it again" not in text


def _remounted(disk: Path, how: str) -> bool:
    done = subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], capture_output=True)
    return done.returncode == 0


def _fill(file: Path) -> None:
    """Write until not one byte more fits."""
    with file.open("ab", buffering=0) as ballast:
        for size in (1 << 20, 4096, 64, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
