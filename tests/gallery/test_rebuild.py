"""The sidecars are the truth: the index comes back from them, by itself where it must."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from runner.gallery import rebuild as gallery_rebuild
from runner.gallery.rebuild import ensure, rebuild, row_of
from runner.gallery.search import search
from runner.gallery.segments import SEGMENT
from runner.gallery.store import Gallery
from tests.gallery.samples import put_job, put_json, sidecar, status, write


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """Two jobs whose pictures were made in turns."""
    outbox = tmp_path / "outbox"
    put_job(outbox, [sidecar(n, job="a") for n in (1, 3, 5)], job="a")
    put_job(outbox, [sidecar(n, job="b") for n in (2, 4)], job="b")
    return outbox


ORDER = ["a-0005", "b-0004", "a-0003", "b-0002", "a-0001"]


def ids(gallery: Gallery) -> list[str]:
    return [row["id"] for row in search(gallery)["rows"]]


def test_a_missing_index_is_built_newest_picture_first_with_progress(
    outbox: Path, folder: Path
) -> None:
    told: list[tuple[int, int]] = []
    assert rebuild(folder, outbox, write, lambda done, total: told.append((done, total))) == 5
    assert ids(Gallery(folder)) == ORDER
    assert told[-1] == (5, 5)


def test_a_sound_index_is_left_alone(outbox: Path, folder: Path) -> None:
    ensure(folder, outbox, write)
    before = sorted(path.name for path in folder.iterdir())
    assert not ensure(folder, outbox, write)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_index_deleted_under_a_running_writer_is_known_to_be_partial(
    outbox: Path, folder: Path
) -> None:
    ensure(folder, outbox, write)
    gallery, reader = Gallery(folder, write), Gallery(folder)
    assert len(gallery) == len(reader) == 5
    shutil.rmtree(folder)
    assert len(reader) == 0 and reader.missing
    gallery.add(row_of(sidecar(6, job="a")))
    assert ids(reader) == ["a-0006"]
    assert reader.missing
    assert ensure(folder, outbox, write)
    assert ids(reader) == ORDER and not reader.missing


def test_a_rebuild_replaces_what_stands_and_open_galleries_follow(
    outbox: Path, folder: Path
) -> None:
    ensure(folder, outbox, write)
    gallery, reader = Gallery(folder, write), Gallery(folder)
    gallery.add(row_of(sidecar(9, job="gone")))
    assert len(reader) == 6
    assert rebuild(folder, outbox, write) == 5
    assert ids(reader) == ORDER
    gallery.add(row_of(sidecar(7, job="a")))
    assert ids(reader) == ["a-0007", *ORDER]
    assert len(list(folder.glob("g*"))) == 1


def test_rows_that_come_and_go_during_a_rebuild_are_brought_along(
    outbox: Path, folder: Path
) -> None:
    ensure(folder, outbox, write)
    gallery = Gallery(folder, write)

    def meanwhile(done: int, total: int) -> None:
        gallery.add(row_of(sidecar(7, job="a")), row_of(sidecar(4, job="b", prompt="changed")))
        gallery.remove("b-0002")

    rebuild(folder, outbox, write, meanwhile)
    assert ids(Gallery(folder)) == ["b-0004", "a-0007", "a-0005", "a-0003", "a-0001"]
    assert search(gallery, "changed")["total"] == 1


def test_rebuilds_at_once_take_turns_and_lose_no_row_that_came_meanwhile(
    outbox: Path, folder: Path
) -> None:
    """Seen red: no such file, no rows, or an index without those that came meanwhile."""
    ensure(folder, outbox, write)

    def add(first: int) -> None:
        gallery = Gallery(folder, write)
        for number in range(first, first + 20):
            told = sidecar(number, job="a")
            put_json(outbox / "a" / f"a-{number:04}.json", told)
            gallery.add(row_of(told))

    with ThreadPoolExecutor(6) as pool:
        rebuilds = [pool.submit(rebuild, folder, outbox, write) for _ in range(12)]
        added = [pool.submit(add, first) for first in (100, 200)]
        assert min(each.result() for each in rebuilds) >= 5
        for each in added:
            each.result()
    assert len(Gallery(folder)) == 45
    assert not Gallery(folder).missing
    assert len(list(folder.glob("g*"))) == 1


def test_a_rebuild_begins_again_where_another_index_took_the_place_of_the_one_it_replaces(
    outbox: Path, folder: Path
) -> None:
    ensure(folder, outbox, write)
    seen = []

    def meanwhile(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            shutil.rmtree(folder)
            put_json(outbox / "a" / "a-0007.json", sidecar(7, job="a"))
            Gallery(folder, write).add(row_of(sidecar(7, job="a")))

    rebuild(folder, outbox, write, meanwhile)
    assert ids(Gallery(folder)) == ["a-0007", *ORDER] and len(seen) > 1


def test_a_rebuild_that_dies_leaves_the_old_index(outbox: Path, folder: Path) -> None:
    ensure(folder, outbox, write)

    def dies(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(folder, outbox, write, dies)
    assert ids(Gallery(folder)) == ORDER
    assert len(list(folder.glob("g*"))) == 1


def test_a_sidecar_whose_row_was_never_added_is_found_at_the_next_start(
    outbox: Path, folder: Path
) -> None:
    ensure(folder, outbox, write)
    put_json(outbox / "a" / "a-0006.json", sidecar(6, job="a"))
    assert not ensure(folder, outbox, write)
    assert ids(Gallery(folder)) == ["a-0006", *ORDER]


def test_it_is_found_whatever_the_clock_showed_then(outbox: Path, folder: Path) -> None:
    """Seen red: a job whose folder was dated before the newest row was passed over."""
    put_json(outbox / "a" / "a-0005.json", sidecar(5, job="a", result_created_at="2099-01-01"))
    ensure(folder, outbox, write)
    put_json(outbox / "b" / "b-10000.json", sidecar(10_000, job="b"))
    os.utime(outbox / "b", (1, 1))
    ensure(folder, outbox, write)
    assert ids(Gallery(folder))[0] == "b-10000"


def test_the_next_start_opens_no_sidecar_of_a_job_whose_last_picture_is_known(
    outbox: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure(folder, outbox, write)
    put_json(outbox / "b" / "b-0006.json", sidecar(6, job="b"))
    opened: list[str] = []
    read = gallery_rebuild.read_json
    monkeypatch.setattr(
        gallery_rebuild, "read_json", lambda file: opened.append(file.name) or read(file)
    )
    ensure(folder, outbox, write)
    assert opened == ["b-0002.json", "b-0004.json", "b-0006.json"]


def test_what_is_no_sidecar_of_its_folder_is_passed_over(outbox: Path, folder: Path) -> None:
    job = outbox / "a"
    put_json(job / "spec.json", sidecar(8, job="a"))
    (job / "a-0009.json").write_text('{"half', encoding="utf-8")
    (job / "a-0010.json").write_text("[]", encoding="utf-8")
    put_json(job / "a-0011.json", {"kind": "fill"})
    (job / "a-0012.json").mkdir()
    shutil.copytree(job, outbox / "copy of a")
    (outbox / "drops").mkdir()
    put_json(outbox / "drops" / "x.yaml.json", {"name": "x.yaml"})
    put_json(outbox / "runner.json", {})
    assert rebuild(folder, outbox, write) == 5
    assert ids(Gallery(folder)) == ORDER


def test_an_outbox_that_is_not_there_is_an_empty_gallery(tmp_path: Path, folder: Path) -> None:
    assert rebuild(folder, tmp_path / "nowhere", write) == 0
    assert not Gallery(folder).missing


def test_more_rows_than_a_segment_come_back(tmp_path: Path, folder: Path) -> None:
    job = tmp_path / "outbox" / "hero"
    job.mkdir(parents=True)
    put_json(job / "status.json", status())
    for index in range(1, SEGMENT + 101):
        told = sidecar(index, result_created_at=f"2026-11-{1 + index // 100:02}T00:00:00Z")
        (job / f"hero-{index:04}.json").write_text(json.dumps(told), encoding="utf-8")
    assert rebuild(folder, tmp_path / "outbox", write) == SEGMENT + 100
    assert Gallery(folder).sound()
    assert ids(Gallery(folder))[0] == f"hero-{SEGMENT + 100:04}"


def test_of_many_who_find_no_index_at_once_one_makes_it(outbox: Path, folder: Path) -> None:
    """Seen red: each made it anew, one after another."""
    told: list[int] = []
    all_there = Barrier(6)

    def search_it() -> int:
        assert Gallery(folder).missing
        all_there.wait()
        return rebuild(folder, outbox, write, lambda done, _: told.append(done), if_unsound=True)

    with ThreadPoolExecutor(6) as pool:
        counts = [pool.submit(search_it) for _ in range(6)]
        assert [count.result() for count in counts] == [5] * 6
    assert told == [5]
