"""Pictures that a home has made already are copied, and never one that is not what it was."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from composer.plan import ORIGIN
from runner.daemon import reuse
from runner.gallery.store import FOLDER, Gallery
from runner.spool.disk import disk as disks
from runner.spool.disk.disk import Disk, StrPath
from tests.daemon.test_interruptions import die
from tests.spool.conftest import Spool
from tests.spool.device import FlatColours

PROMPT = "kind: text2img\nmodel: tiny\nprompt: a red circle on a blue background\n"
MANY = PROMPT + "seeds: {start: 5, count: 4}\n"
AGAIN = MANY + "reuse: true\n"
LARGE = "upscale: 2\nkeep_original: true\n"


def sidecar(spool: Spool, stem: str) -> dict[str, Any]:
    file = spool.home.job(stem.rpartition("-")[0]) / f"{stem}.json"
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def run(spool: Spool, name: str, text: str, reused: int, made: int) -> dict[str, Any]:
    """Run a job that must succeed, with so many images copied and so many made; its status."""
    before = len(spool.device.started)
    spool.drop(f"{name}.yaml", text)
    status = spool.end(name)
    assert status["state"] == "succeeded", status
    counted = status["images"]
    new = len(spool.device.started) - before
    assert (counted["reused"], counted["done"], new) == (reused, reused + made, made), status
    return status


def files(spool: Spool, job: str, *endings: str) -> dict[str, bytes]:
    """A job's pictures by what follows the job's name."""
    folder = spool.home.job(job)
    paths = (path for path in folder.rglob(f"{job}-*") if path.name.endswith(endings))
    return {path.name.removeprefix(job): path.read_bytes() for path in paths}


def index_again(spool: Spool, pictures: int) -> None:
    """Restart without the gallery's index, and wait until it is made anew from the sidecars."""
    spool.stop()
    shutil.rmtree(spool.home.data / FOLDER)
    spool.device = FlatColours()
    spool.start()
    spool.until(lambda: len(Gallery(spool.home.data / FOLDER)) == pictures)


@pytest.mark.parametrize("more", ["", LARGE, "format: jpeg\nquality: 70\n"])
def test_an_image_that_exists_is_copied_byte_for_byte(spool: Spool, more: str) -> None:
    run(spool, "one", MANY + more, 0, 4)
    run(spool, "two", AGAIN + more + "tags: [mine]\nx_row: 3\n", 4, 0)
    endings = (".png", ".jpg", ".webp")
    assert files(spool, "two", *endings) == files(spool, "one", *endings)
    assert len(files(spool, "one", *endings)) == (12 if more == LARGE else 8)
    for n in range(1, 5):
        first, copy = sidecar(spool, f"one-000{n}"), sidecar(spool, f"two-000{n}")
        source = copy["result"].pop("reused_from")
        assert source == {"job": "one", "file": first["result"]["file"]}
        assert (copy.pop("tags"), copy.pop("x_row")) == (["mine"], 3)
        assert copy["result"]["created_at"] > first["result"]["created_at"]
        first["result"]["created_at"] = copy["result"]["created_at"]
        assert copy == json.loads(json.dumps(first).replace('"one', '"two'))
    spool.stop()
    gallery = Gallery(spool.home.data / FOLDER)
    assert [gallery.get(f"two-000{n}") is not None for n in range(1, 5)] == [True] * 4


def test_only_what_is_new_is_made(spool: Spool) -> None:
    run(spool, "one", MANY, 0, 4)
    run(spool, "two", AGAIN.replace("count: 4", "count: 6"), 4, 2)
    assert spool.device.started[4:] == [("two", 5), ("two", 6)]
    run(spool, "three", MANY, 0, 4)


def test_what_is_asked_for_twice_is_made_once_within_a_job_and_at_the_seam_of_two(
    spool: Spool,
) -> None:
    """Seen red: 12 and 4 made."""
    spool.stop()
    rows = "".join(f"a red circle,{5 + n // 4}\n" for n in range(12))
    (spool.home.inbox / "rows.csv").write_text(f"prompt,seed\n{rows}")
    spool.drop("one.yaml", "kind: text2img\nmodel: tiny\ntable: rows.csv\nreuse: true\n")
    spool.drop("two.yaml", "kind: text2img\nmodel: tiny\ntable: rows.csv\nreuse: true\n")
    spool.start()
    counts = (spool.end(job)["images"] for job in ("one", "two"))
    assert sorted((each["done"], each["reused"]) for each in counts) == [(12, 9), (12, 12)]
    assert len(spool.device.started) == 3


def test_what_was_awaited_and_failed_is_made_by_the_next_that_asks_for_it(spool: Spool) -> None:
    spool.device.failing["one", 1] = ("Internal", "no")
    (spool.home.inbox / "rows.csv").write_text("prompt,seed\n" + "a red circle,5\n" * 3)
    spool.drop("one.yaml", "kind: text2img\nmodel: tiny\ntable: rows.csv\nreuse: true\n")
    counted = spool.end("one")["images"]
    assert (counted["done"], counted["failed"], counted["reused"]) == (2, 1, 1)


def test_a_copy_is_as_good_as_what_it_was_copied_from(spool: Spool) -> None:
    """Seen red: with the keys of the first left out of the sidecar of the second."""
    run(spool, "one", MANY, 0, 4)
    run(spool, "two", AGAIN, 4, 0)
    assert sidecar(spool, "two-0001")["result"]["reused_from"]["job"] == "one"
    shutil.rmtree(spool.home.job("one"))
    index_again(spool, pictures=4)
    run(spool, "three", AGAIN, 4, 0)
    assert sidecar(spool, "three-0001")["result"]["reused_from"]["job"] == "two"


def test_a_copy_of_a_tables_picture_has_nothing_of_that_table(spool: Spool) -> None:
    """Seen red: with `table` and `table_sha256`, and no row."""
    (spool.home.inbox / "rows.csv").write_text("prompt,seed\na red circle,5\na red circle,6\n")
    run(spool, "one", "kind: text2img\nmodel: tiny\ntable: rows.csv\n", 0, 2)
    assert sidecar(spool, "one-0001")["result"].keys() >= {"table", "table_sha256", "row"}
    plain = "kind: text2img\nmodel: tiny\nprompt: a red circle\nseed: 5\nreuse: true\n"
    run(spool, "two", plain, 1, 0)
    assert sidecar(spool, "two-0001")["result"].keys().isdisjoint(ORIGIN)


def test_no_copy_is_another_name_of_the_same_file(spool: Spool) -> None:
    run(spool, "one", PROMPT + "seed: 1\n", 0, 1)
    run(spool, "two", PROMPT + "seed: 1\nreuse: true\n", 1, 0)
    assert (spool.home.job("two") / "two-0001.png").stat().st_nlink == 1


@pytest.mark.parametrize("what", ["picture", "sidecar", "original", "gone"])
def test_what_was_changed_or_is_gone_is_made_again(spool: Spool, what: str) -> None:
    """Seen red for each: with the hash, the keys, or the original's hash not looked at."""
    run(spool, "one", MANY + LARGE, 0, 4)
    folder = spool.home.job("one")
    if what == "gone":
        (folder / "one-0002.png").unlink()
    elif what == "sidecar":
        told = sidecar(spool, "one-0002")
        told["result"]["device"] = "another"
        (folder / "one-0002.json").write_text(json.dumps(told))
    else:
        file = folder / f"one-0002{'.original' if what == 'original' else ''}.png"
        Image.new("RGB", (128, 128), "green").save(file)
    run(spool, "two", AGAIN + LARGE, 3, 1)
    assert spool.device.started[4:] == [("two", 2)]
    assert "reused_from" not in sidecar(spool, "two-0002")["result"]


def test_a_changed_picture_with_a_sidecar_that_fits_is_not_believed(spool: Spool) -> None:
    run(spool, "one", MANY, 0, 4)
    folder = spool.home.job("one")
    shutil.copy(folder / "one-0003.png", folder / "one-0002.png")
    told = sidecar(spool, "one-0002")
    told["result"]["sha256"] = sidecar(spool, "one-0003")["result"]["sha256"]
    (folder / "one-0002.json").write_text(json.dumps(told))
    run(spool, "two", AGAIN, 3, 1)


@pytest.mark.parametrize(
    "facts",
    [
        {"device": "cuda: another"},
        {"precision": "fp8"},
        {"placement": "streamed"},
        {"recipe": 2},
        {"versions": {"torch": "99"}},
        {"speed": {"compile": True}},
    ],
)
def test_what_was_made_in_another_way_than_the_newest_is_made_again(
    spool: Spool, facts: dict[str, object]
) -> None:
    run(spool, "one", MANY, 0, 4)
    spool.device.facts |= facts
    run(spool, "other", PROMPT + "seed: 999\n", 0, 1)
    run(spool, "two", AGAIN, 0, 4)
    run(spool, "three", AGAIN, 4, 0)


@pytest.mark.parametrize("changed", ["versions", "cards", "settings", "weights"])
def test_on_a_machine_that_has_changed_nothing_is_known(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Seen red for each: with that part left out of the key of the setup."""
    run(spool, "one", MANY, 0, 4)
    spool.stop()
    if changed == "versions":
        versions = {**reuse.versions(), "diffusers": "99"}
        monkeypatch.setattr(reuse, "versions", lambda: versions)
    elif changed == "cards":
        monkeypatch.setattr(reuse, "cards", lambda: ["another"])
    elif changed == "weights":
        monkeypatch.setattr(reuse.Found, "hash", "sha256:others")
    else:
        settings = spool.home.settings
        monkeypatch.setattr(type(settings), "attention", "sage")
        object.__setattr__(settings, "attention", "sage")
    spool.device = FlatColours()
    spool.start()
    run(spool, "two", PROMPT + "seed: 5\nreuse: true\n", 0, 1)
    run(spool, "three", AGAIN, 4, 0)


def test_where_a_picture_had_other_weights_than_are_there_its_setup_is_not_known(
    spool: Spool,
) -> None:
    spool.device.facts["model"] = {"hash": "sha256:0"}
    run(spool, "one", MANY, 0, 4)
    assert "setup" not in sidecar(spool, "one-0001")["result"]["keys"]
    run(spool, "two", AGAIN, 0, 4)


def test_pictures_of_an_earlier_version_are_found_once_one_was_made_like_them(
    spool: Spool,
) -> None:
    run(spool, "one", MANY, 0, 4)
    for n in range(1, 5):
        told = sidecar(spool, f"one-000{n}")
        del told["result"]["keys"]
        (spool.home.job("one") / f"one-000{n}.json").write_text(json.dumps(told))
    index_again(spool, pictures=4)
    run(spool, "new", PROMPT + "seed: 999\n", 0, 1)
    run(spool, "two", AGAIN, 4, 0)


def test_an_index_made_again_knows_the_same(spool: Spool) -> None:
    run(spool, "one", MANY, 0, 4)
    index_again(spool, pictures=4)
    run(spool, "two", AGAIN, 4, 0)


def test_while_a_slot_works_the_rest_is_copied(spool: Spool) -> None:
    """Seen red: with images looked for only where a slot is free."""
    run(spool, "one", MANY, 0, 4)
    spool.device.by_hand = True
    spool.drop("two.yaml", AGAIN.replace("start: 5, count: 4", "start: 4, count: 5"))
    spool.until(lambda: spool.status("two").get("images", {}).get("reused") == 4)
    assert spool.device.task is not None and spool.device.task.index == 1
    spool.device.by_hand = False
    spool.device.finish()
    assert spool.end("two")["images"]["done"] == 5


def test_each_image_is_looked_for_once_and_of_a_new_setup_not_before_its_first_image(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: all ahead and in vain, and all again."""
    asked: list[tuple[str, int]] = []
    find = reuse.Reuse.find

    def noting(self: reuse.Reuse, image: Any) -> Any:
        asked.append((image.task.job, image.task.index))
        return find(self, image)

    monkeypatch.setattr(reuse.Reuse, "find", noting)
    run(spool, "one", MANY, 0, 4)
    spool.stop()
    monkeypatch.setattr(reuse, "cards", lambda: ["another"])
    spool.device = FlatColours()
    spool.device.by_hand = True
    spool.start()
    asked.clear()
    spool.drop("two.yaml", AGAIN)
    spool.until(lambda: len(asked) >= 2)
    spool.drop("late.yaml", PROMPT)
    spool.until(lambda: spool.status("late").get("state") == "queued")
    assert asked == [("two", 1), ("two", 2)]
    spool.device.by_hand = False
    spool.device.finish()
    spool.end("late")
    asked.clear()
    run(spool, "three", AGAIN.replace("start: 5", "start: 50"), 0, 4)
    assert sorted(asked) == [("three", n) for n in range(1, 5)]


def test_a_cancelled_job_keeps_what_was_copied(spool: Spool) -> None:
    run(spool, "one", MANY, 0, 4)
    spool.device.by_hand = True
    spool.drop("two.yaml", AGAIN.replace("start: 5, count: 4", "start: 4, count: 5"))
    spool.until(lambda: spool.status("two").get("images", {}).get("reused") == 4)
    spool.drop("two.cancel", b"")
    status = spool.end("two")
    assert (status["state"], status["images"]["done"]) == ("cancelled", 4)


def test_a_job_that_is_tried_again_makes_only_what_had_failed(spool: Spool) -> None:
    spool.device.failing["two", 3] = ("Internal", "no")
    spool.drop("two.yaml", AGAIN)
    assert spool.end("two")["images"]["failed"] == 1
    spool.drop("two.retry", b"")
    status = spool.end("two-2")
    assert status["images"] == {"total": 4, "done": 4, "failed": 0, "skipped": 0, "reused": 3}
    assert spool.device.started[4:] == [("two-2", 3)]


def test_a_kill_between_copies_loses_none_and_copies_none_twice(spool: Spool) -> None:
    run(spool, "one", MANY, 0, 4)
    spool.device.by_hand = True
    spool.drop("two.yaml", AGAIN.replace("start: 5, count: 4", "start: 4, count: 5"))
    spool.until(lambda: spool.status("two").get("images", {}).get("reused") == 4)
    die(spool)
    with sqlite3.connect(spool.home.data / "ledger.sqlite") as connection:
        connection.execute("DELETE FROM image WHERE seq = 2 AND number > 3")  # not recorded yet
    with_sidecar = sidecar(spool, "two-0002")
    spool.device = FlatColours()
    spool.start()
    counted = spool.end("two")["images"]
    assert counted == {"total": 5, "done": 5, "failed": 0, "skipped": 0, "reused": 4}
    assert sidecar(spool, "two-0002") == with_sidecar


def test_a_ledger_made_again_knows_which_images_were_copied(spool: Spool) -> None:
    run(spool, "one", MANY, 0, 4)
    run(spool, "two", AGAIN, 4, 0)
    spool.stop()
    for file in spool.home.data.glob("ledger.sqlite*"):
        file.unlink()
    spool.start()
    assert spool.daemon is not None
    found = spool.daemon.ledger.newest("two")
    assert found is not None and (found.done, found.reused) == (4, 4)


def test_a_setting_has_every_spec_reuse_unless_it_says_otherwise(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", reuse=True)
    spool.start()
    try:
        run(spool, "one", MANY, 0, 4)
        run(spool, "two", MANY, 4, 0)
        run(spool, "three", MANY + "reuse: false\n", 0, 4)
        assert "reuse" not in sidecar(spool, "two-0001")
    finally:
        spool.stop()


@pytest.fixture
def pictured(spool: Spool) -> Iterator[Spool]:
    Image.new("RGB", (64, 64), "red").save(spool.home.inbox / "cat.png")
    yield spool


def test_input_pictures_count_by_their_content(pictured: Spool) -> None:
    edit = "kind: kontext\nmodel: tiny\nprompt: make it green\nseed: 3\nreuse: true\nimage: "
    run(pictured, "one", f"{edit}cat.png\n", 0, 1)
    shutil.copy(pictured.home.inbox / "cat.png", pictured.home.inbox / "same.png")
    run(pictured, "two", f"{edit}same.png\n", 1, 0)
    assert sidecar(pictured, "two-0001")["image"] == "outbox/two/inputs/same.png"
    Image.new("RGB", (64, 64), "blue").save(pictured.home.inbox / "other.png")
    run(pictured, "three", f"{edit}other.png\n", 0, 1)


class Cloning(Disk):
    """Keeps what is written as a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "write" and isinstance(details["data"], disks.Copied):
            self.copies.append(os.path.basename(details["target"]))


@pytest.mark.parametrize("changes", [False, True])
def test_where_the_file_system_can_files_share_their_blocks(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    """Seen red: a source that changed between its hash and the clone was believed."""
    cloned: list[str] = []

    def clone(file: Path, handle: int) -> bool:
        cloned.append(file.name)
        os.write(handle, b"other" if changes else file.read_bytes())
        return True

    monkeypatch.setattr(disks, "clone_file", clone)
    disk = Cloning()
    idle_spool.start(disk)
    run(idle_spool, "one", MANY + LARGE, 0, 4)
    run(idle_spool, "two", AGAIN + LARGE, 4, 0)
    assert len(cloned) == len(disk.copies) == 8
    assert files(idle_spool, "two", ".png") == files(idle_spool, "one", ".png")
