"""Faults at run time: the job gets its reason, the threads live, and the next job runs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.daemon.daemon import Daemon
from runner.spool.disk.disk import Disk
from tests.spool.conftest import SPEC, Spool
from tests.spool.device import FlatColours
from tests.spool.faulty import FaultyDisk


@pytest.fixture
def spool_on(idle_spool: Spool) -> Callable[[Disk], Spool]:
    """Starts a spool on a disk."""

    def start(disk: Disk) -> Spool:
        idle_spool.start(disk)
        return idle_spool

    return start


def test_a_full_disk_fails_that_image_and_the_next_job_runs(
    spool_on: Callable[[Disk], Spool],
) -> None:
    disk = FaultyDisk("write", r"full-0001\.png", errno.ENOSPC)
    spool = spool_on(disk)
    spool.drop("full.yaml")
    status = spool.end("full")
    assert (status["state"], status["reason"]) == ("failed", "DiskFull")
    assert "no room left" in status["message"]
    spool.drop("next.yaml")
    assert spool.end("next")["state"] == "succeeded"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EIO])
def test_an_outbox_that_cannot_be_written_leaves_the_spec_in_the_inbox_until_it_can(
    spool_on: Callable[[Disk], Spool], number: int
) -> None:
    disk = FaultyDisk("write", r"outbox/hero/", number)
    spool = spool_on(disk)
    spool.drop("hero.yaml")
    spool.until(lambda: disk.failed >= 2)
    assert (spool.home.inbox / "hero.yaml").exists()
    disk.broken = False
    spool.gone("hero.yaml")
    assert spool.end("hero")["state"] in ("succeeded", "failed")
    assert not spool.home.job("hero-2").exists()


def test_what_has_settled_stays_settled_until_it_can_be_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "home", strict=True)
    disk = FaultyDisk("write", r"outbox/hero/", errno.EIO)
    spool.start(disk)
    assert spool.daemon is not None
    watcher = spool.daemon.intake.watcher
    spool.until(lambda: watcher.mode == "events")
    spool.drop("hero.yaml")
    spool.until(lambda: disk.failed >= 1)
    # With `strict`, a spec that is not known to be complete is refused in the end: from now on.
    monkeypatch.setattr("runner.spool.inbox.settle._STRICT_SECONDS", 0.0)
    spool.until(lambda: disk.failed >= 3)
    disk.broken = False
    assert spool.end("hero")["state"] == "succeeded"
    spool.stop()


def test_a_final_status_that_cannot_be_written_is_written_when_it_can(
    spool_on: Callable[[Disk], Spool],
) -> None:
    disk = FaultyDisk("rename", r"hero/status\.json", errno.EIO, broken=False)
    spool = spool_on(disk)
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.until(lambda: spool.device.task and spool.status("hero"))
    disk.broken = True
    spool.device.finish()
    spool.until(lambda: disk.failed >= 2)
    assert spool.status("hero")["state"] != "succeeded"
    disk.broken = False
    assert spool.end("hero")["state"] == "succeeded"


def test_a_job_that_was_put_back_says_so_when_it_can(spool_on: Callable[[Disk], Spool]) -> None:
    disk = FaultyDisk("rename", r"hero/status\.json", errno.EIO, broken=False)
    spool = spool_on(disk)
    spool.device.by_hand = True
    spool.drop("hero.yaml", SPEC.replace("seed: 7", "count: 2"))
    spool.until(lambda: spool.device.task and spool.status("hero")["state"] == "running")
    (spool.home.inbox / "runner.pause").touch()
    daemon = spool.daemon
    assert daemon is not None
    spool.until(lambda: daemon.worker.hold)
    disk.broken = True
    spool.device.finish()
    spool.until(lambda: disk.failed and daemon.worker.idle)
    disk.broken = False
    spool.until(lambda: spool.status("hero")["reason"] == "Paused")


def test_a_write_that_the_system_cuts_into_parts_is_whole_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
        Disk().replace(tmp_path / "file", b"a text longer than seven bytes")
    assert (tmp_path / "file").read_bytes() == b"a text longer than seven bytes"


def test_a_thumbnail_or_page_that_cannot_be_written_does_not_lose_the_picture(
    spool_on: Callable[[Disk], Spool],
) -> None:
    disk = FaultyDisk("write", r"index\.html", errno.EIO)
    spool = spool_on(disk)
    spool.drop("hero.yaml")
    status = spool.end("hero")
    assert status["state"] == "succeeded"
    assert spool.pictures("hero") == ["hero-0001.png"]
    assert any("contact sheet" in warning for warning in status["warnings"])


def test_an_end_that_could_not_be_published_is_published_when_the_runner_starts(
    spool_on: Callable[[Disk], Spool],
) -> None:
    disk = FaultyDisk("write", r"hero/(status|index)", errno.EIO, broken=False)
    spool = spool_on(disk)
    spool.device.on_start = lambda task: setattr(disk, "broken", True)
    spool.drop("hero.yaml")
    daemon = spool.daemon
    assert daemon is not None
    spool.until(lambda: daemon.ledger.behind())
    spool.stop()
    assert spool.status("hero")["state"] == "queued"
    with Daemon(spool.home, FlatColours()):
        # No turn of its loop: a drain may be over before the next look at what was left over.
        pass
    assert spool.status("hero")["state"] == "succeeded"
    assert (spool.home.job("hero") / "index.html").exists()


def test_a_health_file_that_cannot_be_written_stops_nothing(
    spool_on: Callable[[Disk], Spool],
) -> None:
    spool = spool_on(FaultyDisk("write", r"runner\.json", errno.ENOSPC))
    spool.drop("hero.yaml")
    assert spool.end("hero")["state"] == "succeeded"


def test_a_picture_that_cannot_be_decoded_by_the_engine_fails_with_its_reason(
    spool: Spool,
) -> None:
    spool.device.failing["hero", 1] = ("InputBad", "cat.png is not a picture: send a PNG")
    spool.drop("hero.yaml")
    status = spool.end("hero")
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert status["message"] == "cat.png is not a picture: send a PNG"


def test_an_input_larger_than_the_limit_is_refused_by_its_size_alone(spool: Spool) -> None:
    with (spool.home.inbox / "huge.png").open("wb") as file:
        file.truncate(300 * 1024 * 1024)
    spool.drop("edit.yaml", "kind: kontext\nmodel: tiny\nprompt: x\nimage: huge.png\nseed: 1\n")
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert "MiB" in status["message"]


def test_an_input_that_is_a_folder_or_a_fifo_is_refused_and_nothing_blocks(spool: Spool) -> None:
    (spool.home.inbox / "folder.png").mkdir()
    spool.drop("a.yaml", "kind: kontext\nmodel: tiny\nprompt: x\nimage: folder.png\nseed: 1\n")
    assert spool.end("a")["reason"] == "InputBad"
    if hasattr(os, "mkfifo"):
        os.mkfifo(spool.home.inbox / "pipe.png")
        spool.drop("b.yaml", "kind: kontext\nmodel: tiny\nprompt: x\nimage: pipe.png\nseed: 1\n")
        assert spool.end("b")["reason"] == "InputBad"


def test_a_spec_that_makes_the_judge_stumble_costs_only_itself(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(spec: object) -> int:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.inbox.assess.count", stumble)
        spool.drop("odd.yaml")
        status = spool.end("odd")
    assert (status["state"], status["reason"]) == ("rejected", "Internal")
    spool.drop("next.yaml", SPEC)
    assert spool.end("next")["state"] == "succeeded"
