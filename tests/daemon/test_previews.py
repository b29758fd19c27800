"""The preview of a picture while it is made: one file beside the status, and what it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.gallery.rebuild import rebuild
from runner.gallery.store import FOLDER, Gallery
from runner.retention import survey
from runner.spool.disk.disk import Disk, StrPath
from runner.wire import PREVIEW
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours, SeveralSlots

SHOWN = SPEC + "preview: true\n"
TWO = SHOWN.replace("seed: 7", "seeds: [1, 2]")


@pytest.fixture
def by_hand(idle_spool: Spool) -> Spool:
    """A started spool whose device answers when it is told to."""
    idle_spool.device.by_hand = True
    idle_spool.start()
    return idle_spool


def preview(spool: Spool, job: str = "hero") -> Path:
    return spool.home.job(job) / PREVIEW


def until_shown(spool: Spool, content: bytes, job: str = "hero") -> None:
    file = preview(spool, job)
    spool.until(lambda: file.exists() and file.read_bytes() == content)


def show(spool: Spool, text: str = SHOWN) -> None:
    """Drop a job and wait until the preview of its first image is shown."""
    spool.drop("hero.yaml", text)
    spool.until(lambda: spool.device.task)
    spool.device.step(3)
    until_shown(spool, b"1: 3")


def test_the_newest_preview_stands_beside_the_status_until_the_picture_is_there(
    by_hand: Spool,
) -> None:
    show(by_hand, TWO)
    by_hand.device.step(4)
    until_shown(by_hand, b"1: 4")
    by_hand.device.finish()
    by_hand.until(lambda: by_hand.device.task and by_hand.device.task.index == 2)
    by_hand.until(lambda: (by_hand.home.job("hero") / "hero-0001.json").exists())
    by_hand.until(lambda: not preview(by_hand).exists())
    by_hand.device.step(1)
    until_shown(by_hand, b"2: 1")
    by_hand.device.finish()
    assert by_hand.end("hero")["state"] == "succeeded"
    assert not preview(by_hand).exists()


def cancelled(spool: Spool) -> None:
    (spool.home.inbox / "hero.cancel").touch()
    assert spool.end("hero")["state"] == "cancelled"


def failed(spool: Spool) -> None:
    spool.device.failing["hero", 1] = ("OutOfMemory", "no memory left")
    spool.device.finish()
    assert spool.end("hero")["state"] == "failed"


def stopped(spool: Spool) -> None:
    spool.stop()
    assert spool.status("hero")["state"] == "queued"


@pytest.mark.parametrize("over", [cancelled, failed, stopped])
def test_it_is_gone_however_its_image_ends(by_hand: Spool, over: Callable[[Spool], None]) -> None:
    show(by_hand)
    over(by_hand)
    assert not preview(by_hand).exists()


@pytest.mark.parametrize("then", ["", "hero.cancel"])
def test_one_that_a_kill_left_is_gone_after_the_start(by_hand: Spool, then: str) -> None:
    show(by_hand)
    die(by_hand)
    assert preview(by_hand).exists()
    if then:
        (by_hand.home.inbox / then).touch()
    start_again(by_hand)
    assert not preview(by_hand).exists()
    by_hand.until(lambda: by_hand.is_over("hero"))
    assert not preview(by_hand).exists()


class Watching(Disk):
    """Keeps what is done to previews, and refuses it where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.refuses = False

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if PREVIEW in (os.path.basename(path), os.path.basename(details.get("target", ""))):
            self.seen.append(f"{operation} {os.path.basename(path)}".partition(" .")[0])
            if self.refuses:
                raise OSError(5, "refused")
        super().before(operation, path, **details)


def test_it_is_replaced_by_a_rename_and_only_where_it_is_asked_for(idle_spool: Spool) -> None:
    disk = Watching()
    idle_spool.start(disk)
    idle_spool.drop("hero.yaml", SPEC)
    idle_spool.end("hero")
    assert disk.seen == []
    idle_spool.device.by_hand = True
    idle_spool.drop("next.yaml", SHOWN)
    idle_spool.until(lambda: idle_spool.device.task)
    idle_spool.device.step()
    until_shown(idle_spool, b"1: 1", "next")
    idle_spool.device.finish()
    idle_spool.end("next")
    assert disk.seen == ["write", "sync", f"rename {PREVIEW}", f"remove {PREVIEW}"]


def test_a_preview_that_cannot_be_written_costs_nothing_else(idle_spool: Spool) -> None:
    disk = Watching()
    disk.refuses = True
    idle_spool.start(disk)
    idle_spool.drop("hero.yaml", TWO)
    status = idle_spool.end("hero")
    assert (status["state"], status["images"]["done"], status["warnings"]) == ("succeeded", 2, [])
    assert disk.seen


def test_the_setting_is_the_default_and_the_sidecar_has_the_field(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", preview=True)
    spool.start()
    spool.drop("hero.yaml", SPEC)
    spool.drop("off.yaml", SPEC + "preview: false\n")
    spool.over("hero", "off")
    spool.stop()
    for job, wanted in (("hero", True), ("off", False)):
        sidecar = json.loads((spool.home.job(job) / f"{job}-0001.json").read_bytes())
        assert sidecar["preview"] is wanted


def test_the_page_of_a_job_with_one_picture_shows_it_while_the_job_runs(by_hand: Spool) -> None:
    show(by_hand)
    page = by_hand.home.job("hero") / "index.html"
    by_hand.until(page.exists)
    assert f'<img data-preview src="{PREVIEW}"' in page.read_text("utf-8")
    by_hand.device.finish()
    by_hand.end("hero")
    assert "<img data-preview" not in page.read_text("utf-8")


def test_it_is_no_picture_of_the_job(by_hand: Spool, tmp_path: Path) -> None:
    show(by_hand, TWO)
    assert by_hand.status("hero")["outputs"] == []
    gallery = Gallery(tmp_path / FOLDER, writing=True)
    assert rebuild(gallery, by_hand.home.outbox) == 0
    gallery.close()
    assert not any(survey(by_hand.home, {}, print))
    by_hand.device.finish()
    by_hand.until(lambda: by_hand.device.task and by_hand.device.task.index == 2)
    by_hand.device.finish()
    assert [each["file"] for each in by_hand.end("hero")["outputs"]] == by_hand.pictures("hero")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "home")
    spool.device = SeveralSlots("a", "b")  # type: ignore[assignment]
    spool.start()
    yield spool
    spool.stop()


def test_of_two_in_flight_the_first_is_shown_to_its_end(two: Spool) -> None:
    slots: Any = two.device
    two.drop("hero.yaml", TWO)
    two.until(lambda: len(slots.at_work) == 2)
    slots["a"].step(3)
    until_shown(two, b"1: 3")
    slots["b"].step(9)
    two.until(lambda: (two.status("hero").get("progress") or {}).get("step") == 9)
    assert preview(two).read_bytes() == b"1: 3"
    slots["a"].step(4)
    until_shown(two, b"1: 4")
    slots.lose("a", charged=False)
    two.until(lambda: not preview(two).exists())
    slots["b"].step(10)
    until_shown(two, b"2: 10")
    slots["b"].finish()
    two.until(lambda: not preview(two).exists())
    two.until(lambda: slots.at_work)
    slots.by_themselves()
    assert two.end("hero")["state"] == "succeeded"
    assert not preview(two).exists()


def test_a_recovery_of_a_job_without_previews_looks_for_none(by_hand: Spool) -> None:
    by_hand.drop("hero.yaml", SPEC)
    by_hand.until(lambda: by_hand.device.task)
    die(by_hand)
    by_hand.device, disk = FlatColours(), Watching()
    by_hand.start(disk)
    by_hand.end("hero")
    assert disk.seen == []
