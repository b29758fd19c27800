"""Enlarged pictures in the outbox: their sizes, the small one beside them, and what it is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner import reading
from runner.gallery.metadata import read
from runner.gallery.rebuild import rebuild, row_of
from runner.gallery.store import FOLDER, Gallery
from runner.spool.disk.disk import Disk, StrPath
from tests.daemon.columns import daemon_of
from tests.spool.conftest import SPEC, Spool
from tests.spool.deaths import die, start_again
from tests.spool.device import FlatColours

LARGE = SPEC + "upscale: 2\nkeep_original: true\n"
FOUR = LARGE.replace("seed: 7", "seeds: {start: 1, count: 4}")


def sidecar(spool: Spool, name: str) -> dict[str, Any]:
    folder = spool.home.job(name.rpartition("-")[0])
    value: dict[str, Any] = json.loads((folder / f"{name}.json").read_bytes())
    return value


def without_run(value: dict[str, Any]) -> dict[str, Any]:
    """A sidecar without what is another for every run."""
    result = {k: v for k, v in value["result"].items() if k not in ("created_at", "seconds")}
    return {**value, "result": result}


def test_a_sidecar_has_the_size_before_and_its_result_the_files(spool: Spool) -> None:
    """Seen red: with the picture's own size as the spec's, the sidecar asked for twice as much."""
    spool.drop("hero.yaml", LARGE.replace("upscale: 2", "upscale: 4"))
    output = spool.end("hero")["outputs"][0]
    made = sidecar(spool, "hero-0001")
    assert (made["width"], made["height"], made["upscale"]) == (64, 64, 4)
    assert (made["result"]["width"], made["result"]["height"]) == (256, 256)
    assert (output["width"], output["height"]) == (256, 256)
    folder = spool.home.job("hero")
    with Image.open(folder / "hero-0001.png") as picture:
        assert picture.size == (256, 256)
    with Image.open(folder / "hero-0001.original.png") as picture:
        assert picture.size == (64, 64)


def test_a_size_as_a_float_is_a_whole_number_and_the_small_picture_is_named(spool: Spool) -> None:
    """Seen red: the sidecar said 2.0, and the status named the large picture only."""
    spool.drop("hero.yaml", LARGE.replace("upscale: 2", "upscale: 2.0"))
    (output,) = spool.end("hero")["outputs"]
    assert json.dumps(sidecar(spool, "hero-0001")["upscale"]) == "2"
    assert output["original"] == "hero-0001.original.png"


def test_a_small_picture_that_is_not_kept_is_not_waited_for(spool: Spool) -> None:
    """Seen red: its absence was told when the other job had ended."""
    spool.device.by_hand = True
    spool.drop("hero.yaml", SPEC + "upscale: 2\n")
    spool.until(lambda: spool.device.task)
    edit = "kind: kontext\nmodel: tiny\nprompt: a star\n"
    spool.drop("edit.yaml", f"{edit}image: outbox/hero/hero-0001.original.png\n")
    ended = spool.end("edit")
    assert ended["reason"] == "InputMissing"
    assert ended["message"].endswith("will not be made: hero has no `keep_original`")


def test_a_dropped_sidecar_makes_the_same_again(spool: Spool) -> None:
    spool.drop("hero.yaml", LARGE)
    spool.end("hero")
    first = sidecar(spool, "hero-0001")
    spool.drop("again.json", json.dumps(first))
    spool.end("again")
    second = sidecar(spool, "again-0001")
    text = json.dumps(without_run(second)).replace("again", "hero")
    same = {"sha256", "original"}  # the pictures name their job
    left = [
        {**made, "result": {k: v for k, v in made["result"].items() if k not in same}}
        for made in (without_run(first), without_run(json.loads(text)))
    ]
    assert left[0] == left[1]
    assert first["result"]["width"] == second["result"]["width"] == 128


def test_only_where_it_is_asked_for_is_the_small_picture_kept(spool: Spool) -> None:
    spool.drop("hero.yaml", SPEC + "upscale: 2\n")
    assert spool.end("hero")["images"]["done"] == 1
    assert not (spool.home.job("hero") / "hero-0001.original.png").exists()
    assert "original" not in sidecar(spool, "hero-0001")["result"]


def test_the_small_picture_has_the_spec_that_makes_it_alone(spool: Spool) -> None:
    spool.drop("hero.yaml", LARGE + "format: jpeg\nquality: 70\nmetadata: full\n")
    spool.end("hero")
    folder = spool.home.job("hero")
    inside = read(folder / "hero-0001.original.png")
    assert not {"upscale", "keep_original", "format", "quality"} & inside.keys()
    assert inside["result"]["file"] == "hero-0001.original.png"
    assert (inside["width"], inside["result"]["width"]) == (64, 64)
    known = sidecar(spool, "hero-0001")["result"]
    assert known["file"] == "hero-0001.jpg"
    assert known["original"]["file"] == "hero-0001.original.png"
    spool.drop("small.json", json.dumps(inside))
    assert spool.end("small")["outputs"][0]["width"] == 64


def test_metadata_that_are_not_wanted_are_not_in_the_small_picture_either(spool: Spool) -> None:
    spool.drop("hero.yaml", LARGE + "metadata: none\n")
    spool.end("hero")
    with Image.open(spool.home.job("hero") / "hero-0001.original.png") as picture:
        assert not picture.info


class Ordered(Disk):
    """Keeps the names of the job's files in the order in which they appear."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "rename":
            self.names.append(os.path.basename(path))


def test_the_small_picture_is_there_before_the_image_counts(idle_spool: Spool) -> None:
    disk = Ordered()
    idle_spool.start(disk)
    idle_spool.drop("hero.yaml", LARGE)
    idle_spool.end("hero")
    mine = [name for name in disk.names if name.startswith("hero-0001")]
    assert mine.index("hero-0001.original.png") < mine.index("hero-0001.json")


class Refusing(Disk):
    """Refuses to give one file its name."""

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "rename" and os.path.basename(path) == "hero-0001.json":
            raise OSError(errno.EINVAL, "no sidecar")


def test_of_an_image_that_cannot_be_written_no_file_stays(idle_spool: Spool) -> None:
    """Seen red: with the small one left out of what is taken back."""
    idle_spool.start(Refusing())
    idle_spool.drop("hero.yaml", LARGE)
    folder = idle_spool.home.job("hero")
    idle_spool.until(lambda: len(started(idle_spool)) > 0)
    idle_spool.until(lambda: daemon_of(idle_spool).ledger.newest("hero").put_back is not None)
    assert [name for name in os.listdir(folder) if name.startswith("hero-")] == []


def started(spool: Spool) -> list[tuple[str, int]]:
    return spool.device.started


def killed_in_the_second(spool: Spool) -> Path:
    """End in the second of four images; the folder of the job."""
    spool.device.by_hand = True
    spool.drop("hero.yaml", FOUR)
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    spool.until(lambda: len(daemon_of(spool).ledger.images(1)) == 1)
    die(spool)
    return spool.home.job("hero")


@pytest.mark.parametrize("forgot", [False, True])
def test_a_recovery_keeps_the_small_picture_of_an_image_that_counts(
    spool: Spool, forgot: bool
) -> None:
    """Seen red: it was removed as a picture without a sidecar."""
    folder = killed_in_the_second(spool)
    if forgot:
        with sqlite3.connect(spool.home.data / "ledger.sqlite") as connection:
            connection.execute("DELETE FROM image")
    before = (folder / "hero-0001.original.png").read_bytes()
    start_again(spool)
    assert spool.end("hero")["images"]["done"] == 4
    assert spool.device.started == [("hero", 2), ("hero", 3), ("hero", 4)]
    assert (folder / "hero-0001.original.png").read_bytes() == before
    assert not [name for name in os.listdir(folder) if name.startswith("kept-")]


def test_a_recovery_removes_the_small_picture_of_an_image_that_was_being_written(
    spool: Spool,
) -> None:
    folder = killed_in_the_second(spool)
    shutil.copy(folder / "hero-0001.original.png", folder / "hero-0002.original.png")
    (folder / "hero-0003.original.png").write_bytes(b"half")
    spool.device = FlatColours(by_hand=True)
    spool.start()
    spool.until(lambda: spool.device.task)
    assert sorted(folder.glob("*.original.png")) == [folder / "hero-0001.original.png"]


def test_a_recovery_keeps_the_small_picture_with_an_image_that_counts_no_longer(
    spool: Spool,
) -> None:
    """Seen red: the image was kept aside, and the picture that it was made of was not."""
    folder = killed_in_the_second(spool)
    (folder / "hero-0001.png").write_bytes(b"overwritten")
    start_again(spool)
    spool.end("hero")
    kept = {name for name in os.listdir(folder) if name.startswith("kept-")}
    assert kept == {f"kept-hero-0001{end}" for end in (".png", ".json", ".original.png")}


def test_a_ledger_made_anew_counts_no_small_picture(spool: Spool) -> None:
    spool.drop("hero.yaml", FOUR)
    spool.end("hero")
    spool.stop()
    for file in spool.home.data.glob("ledger.sqlite*"):
        file.unlink()
    spool.start()
    assert daemon_of(spool).ledger.newest("hero").done == 4
    status = reading.status(spool.home.job("hero") / "status.json")
    assert status is not None and status["images"]["done"] == 4
    assert len([*spool.home.job("hero").glob("*.original.png")]) == 4


def test_the_gallery_has_the_large_pictures_with_their_size_and_no_small_one(
    spool: Spool, tmp_path: Path
) -> None:
    spool.drop("hero.yaml", FOUR)
    spool.end("hero")
    row = row_of(sidecar(spool, "hero-0001"))
    assert (row["file"], row["width"], row["height"]) == (
        "outbox/hero/hero-0001.png", 128, 128
    )  # fmt: skip
    spool.stop()
    gallery = Gallery(tmp_path / FOLDER, writing=True)
    assert rebuild(gallery, spool.home.outbox) == 4
    gallery.close()
    page = (spool.home.job("hero") / "index.html").read_text("utf-8")
    assert "hero-0001.png" in page and 'src="thumbs/hero-0001.original' not in page


def test_a_job_may_read_the_small_picture_that_another_will_make(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml", LARGE)
    spool.until(lambda: spool.device.task)
    chained = SPEC.replace("text2img", "kontext")
    spool.drop("next.yaml", chained + "image: outbox/hero/hero-0001.original.png\n")
    spool.until(lambda: spool.status("next").get("reason") == "WaitingForInput")
    spool.device.by_hand = False
    spool.device.finish()
    assert spool.end("next")["images"]["done"] == 1
    copy = next((spool.home.job("next") / "inputs").iterdir())
    with Image.open(copy) as picture:
        assert picture.size == (64, 64)
