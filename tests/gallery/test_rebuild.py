"""The sidecars are the truth: the index comes back from them, by itself where it must."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from runner import reading
from runner.gallery.rebuild import rebuild, remove_gone, row_of
from runner.gallery.search import search
from runner.gallery.store import FILE, Gallery
from tests.gallery.samples import put_job, put_json, sidecar, status


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """Two jobs whose pictures were made in turns."""
    outbox = tmp_path / "outbox"
    put_job(outbox, [sidecar(n, job="a") for n in (1, 3, 5)], job="a")
    put_job(outbox, [sidecar(n, job="b") for n in (2, 4)], job="b")
    return outbox


ORDER = ["a-0005", "b-0004", "a-0003", "b-0002", "a-0001"]


@pytest.fixture
def gallery(folder: Path, outbox: Path) -> Gallery:
    """The index of those five."""
    gallery = Gallery(folder, writing=True)
    assert rebuild(gallery, outbox) == 5
    return gallery


def ids(gallery: Gallery) -> list[str]:
    return [row["id"] for row in search(gallery)["rows"]]


def test_a_missing_index_is_built_newest_picture_first_with_progress(
    outbox: Path, folder: Path
) -> None:
    told: list[tuple[int, int]] = []
    gallery = Gallery(folder, writing=True)
    assert gallery.missing
    assert rebuild(gallery, outbox, lambda done, total: told.append((done, total))) == 5
    assert ids(Gallery(folder)) == ORDER
    assert told == [(1, 2), (2, 2)]
    assert not gallery.missing


def test_an_index_deleted_under_a_running_writer_is_known_to_be_partial(
    gallery: Gallery, folder: Path, outbox: Path
) -> None:
    reader = Gallery(folder)
    assert len(reader) == 5
    shutil.rmtree(folder)
    assert len(reader) == 0 and reader.missing
    gallery.add(row_of(sidecar(6, job="a")))
    assert ids(reader) == ["a-0006"]
    assert reader.missing


def test_a_rebuild_has_exactly_what_the_sidecars_say(
    gallery: Gallery, folder: Path, outbox: Path
) -> None:
    reader = Gallery(folder)
    gallery.add(row_of(sidecar(9, job="gone")))
    gallery.remove("a-0001")
    put_json(outbox / "a" / "a-0003.json", sidecar(3, job="a", prompt="a heron"))
    # What no row says any more: only all anew is trusted.
    with sqlite3.connect(folder / FILE) as base:
        base.execute("INSERT INTO term (rowid, text) VALUES (1, 'heron')")
    base.close()
    assert rebuild(gallery, outbox) == 5
    assert ids(reader) == ORDER
    assert search(reader, "heron")["total"] == 1


def test_not_anew_it_adds_what_lacks_and_what_has_changed(
    gallery: Gallery, folder: Path, outbox: Path
) -> None:
    gallery.add(row_of(sidecar(9, job="stays")))
    gallery.remove("a-0001")
    put_json(outbox / "a" / "a-0003.json", sidecar(3, job="a", prompt="a heron"))
    assert rebuild(gallery, outbox, anew=False) == 6
    assert set(ids(gallery)) == {"stays-0009", *ORDER}
    assert search(gallery, "heron")["total"] == 1


def test_rows_whose_sidecars_are_gone_are_removed(gallery: Gallery, outbox: Path) -> None:
    shutil.move(outbox / "a", outbox.parent / "a")
    remove_gone(gallery, outbox)
    assert ids(gallery) == ["b-0004", "b-0002"]


def test_a_job_that_cannot_be_read_costs_no_other_its_place(
    folder: Path, outbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red: the index was never complete, and each search made it again."""
    listed = reading.names_in

    def closed(path: Path) -> list[str]:
        if path.name == "a":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(reading, "names_in", closed)
    gallery = Gallery(folder, writing=True)
    assert rebuild(gallery, outbox) == 2
    assert not gallery.missing and "a is not in the gallery" in caplog.text


def test_others_read_and_write_during_a_rebuild(
    gallery: Gallery, folder: Path, outbox: Path
) -> None:
    writer, reader = Gallery(folder, writing=True, patience=0.1), Gallery(folder)

    def meanwhile(done: int, total: int) -> None:
        put_json(outbox / "a" / "a-0007.json", sidecar(7, job="a"))
        writer.add(row_of(sidecar(7, job="a")))
        assert "a-0007" in ids(reader) and reader.missing

    assert rebuild(gallery, outbox, meanwhile) == 6
    assert ids(Gallery(folder)) == ["a-0007", *ORDER]


def test_rebuilds_at_once_take_turns_and_lose_no_row_that_came_meanwhile(
    gallery: Gallery, folder: Path, outbox: Path
) -> None:
    def add(first: int) -> None:
        writer = Gallery(folder, writing=True)
        for number in range(first, first + 20):
            told = sidecar(number, job="a")
            put_json(outbox / "a" / f"a-{number:04}.json", told)
            writer.add(row_of(told))

    with ThreadPoolExecutor(6) as pool:
        made = [pool.submit(rebuild, Gallery(folder, writing=True), outbox) for _ in range(3)]
        made += [pool.submit(add, first) for first in (100, 200, 300)]  # type: ignore[arg-type]
        for each in made:
            each.result()
    assert len(gallery) == 65
    assert len(search(gallery, "fox", limit=100)["rows"]) == 65


def test_an_index_whose_making_died_is_missing(folder: Path, outbox: Path) -> None:
    def dies(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(Gallery(folder, writing=True), outbox, dies)
    assert Gallery(folder).missing
    assert rebuild(Gallery(folder, writing=True), outbox, if_missing=True) == 5
    assert not Gallery(folder).missing


def test_what_is_no_sidecar_of_its_folder_is_passed_over(outbox: Path, gallery: Gallery) -> None:
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
    assert rebuild(gallery, outbox) == 5
    assert ids(gallery) == ORDER


def test_an_outbox_that_is_not_there_is_an_empty_gallery(tmp_path: Path, folder: Path) -> None:
    assert rebuild(Gallery(folder, writing=True), tmp_path / "nowhere") == 0
    assert not Gallery(folder).missing


def test_a_job_of_more_rows_than_one_change_takes_comes_back(tmp_path: Path, folder: Path) -> None:
    job = tmp_path / "outbox" / "hero"
    job.mkdir(parents=True)
    put_json(job / "status.json", status())
    for index in range(1, 1201):
        told = sidecar(index, result_created_at=f"2026-11-{1 + index // 100:02}T00:00:00Z")
        (job / f"hero-{index:04}.json").write_text(json.dumps(told), encoding="utf-8")
    assert rebuild(Gallery(folder, writing=True), tmp_path / "outbox") == 1200
    assert ids(Gallery(folder))[0] == "hero-1200"


def test_of_many_who_find_no_index_at_once_one_makes_it(outbox: Path, folder: Path) -> None:
    """Seen red: each made it anew, one after another."""
    told: list[int] = []
    all_there = Barrier(6)

    def search_it() -> int:
        assert Gallery(folder).missing
        all_there.wait()
        gallery = Gallery(folder, writing=True)
        return rebuild(gallery, outbox, lambda done, _: told.append(done), if_missing=True)

    with ThreadPoolExecutor(6) as pool:
        counts = [pool.submit(search_it) for _ in range(6)]
        assert [count.result() for count in counts] == [5] * 6
    assert told == [1, 2]
