"""Kept folders are whole or not there, whatever ends the process or fills the disk."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.engine.weights.kept_folders import KeptFolder
from tests.harness import eventually

Usage = namedtuple("Usage", "total used free")

MARK = "ab" * 32


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "weights").write_bytes(b"published")
    return folder


def write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_bytes(b"quantised")
    (folder / "config").write_bytes(b"{}")


def names(store: Path) -> list[str]:
    return sorted(each.name for each in store.iterdir())


def test_a_folder_is_whole_once_it_is_made(tmp_path: Path, source: Path) -> None:
    kept = KeptFolder(tmp_path / "store", source, MARK, "nf4", 1)
    assert not kept.is_whole()
    assert kept.make(9, write)
    assert KeptFolder(tmp_path / "store", source, MARK, "nf4", 1).is_whole()
    assert names(tmp_path / "store") == [kept.folder.name]


def test_it_belongs_to_its_source_its_precision_and_its_recipe(
    tmp_path: Path, source: Path
) -> None:
    kept = KeptFolder(tmp_path, source, MARK, "nf4", 1)
    assert kept.make(9, write)
    assert not KeptFolder(tmp_path, source, MARK, "fp8", 1).is_whole()
    assert not KeptFolder(tmp_path, source, MARK, "nf4", 2).is_whole()
    assert not KeptFolder(tmp_path, source, "cd" * 32, "nf4", 1).is_whole()
    elsewhere = tmp_path / "elsewhere"
    assert KeptFolder(tmp_path, elsewhere, MARK, "nf4", 1).is_whole(), "the weights are the same"


def test_what_was_made_of_weights_that_were_replaced_goes_when_theirs_are_made(
    tmp_path: Path, source: Path
) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    for kept in (
        KeptFolder(store, source, MARK, "nf4", 1),
        KeptFolder(store, source, MARK, "fp8", 1),
        KeptFolder(store, other, "ef" * 32, "nf4", 1),
    ):
        assert kept.make(9, write)
    assert KeptFolder(store, source, "cd" * 32, "nf4", 1).make(9, write)
    assert names(store) == ["abababababababab-fp8", "cdcdcdcdcdcdcdcd-nf4", "efefefefefefefef-nf4"]


def test_folders_of_an_older_kind_of_hash_go_and_what_is_none_of_ours_stays(
    tmp_path: Path, source: Path
) -> None:
    for name, label in (("0123-nf4", '{"schema": 1}'), ("mine-nf4", "")):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / ".label.json").write_text(label, encoding="utf-8")
    assert KeptFolder(tmp_path / "store", source, MARK, "nf4", 1).make(9, write)
    assert names(tmp_path / "store") == ["abababababababab-nf4", "mine-nf4"]


@pytest.mark.parametrize("harm", ["cut", "changed", "lost", "more", "unlabelled"])
def test_a_folder_that_is_not_as_it_was_written_does_not_count(
    tmp_path: Path, source: Path, harm: str
) -> None:
    kept = KeptFolder(tmp_path / "store", source, MARK, "nf4", 1)
    assert kept.make(9, write)
    file = kept.folder / "inner" / "weights"
    if harm == "cut":
        file.write_bytes(b"quant")
    elif harm == "changed":
        file.write_bytes(b"quantisex")
    elif harm == "lost":
        file.unlink()
    elif harm == "more":
        (kept.folder / "more").write_bytes(b"")
    else:
        (kept.folder / ".label.json").write_bytes(b"{")
    assert not kept.is_whole()
    assert kept.make(9, write)
    assert kept.is_whole()


def test_a_process_that_is_killed_leaves_nothing_that_counts(tmp_path: Path, source: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from runner.engine.weights.kept_folders import KeptFolder\n"
        "def write(folder):\n"
        "    (folder / 'weights').write_bytes(b'quant'); os._exit(9)\n"
        "KeptFolder(Path(sys.argv[1]), Path(sys.argv[2]), 'ab' * 32, 'nf4', 1).make(9, write)\n"
    )
    store = tmp_path / "store"
    done = subprocess.run([sys.executable, "-c", code, str(store), str(source)], check=False)
    assert done.returncode == 9
    kept = KeptFolder(store, source, MARK, "nf4", 1)
    assert names(store) and not kept.is_whole()
    assert kept.make(9, write)
    assert names(store) == [kept.folder.name]


def test_without_room_on_the_disk_nothing_is_written_and_that_is_said(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 3 * 2**30))
    kept = KeptFolder(tmp_path / "store", source, MARK, "nf4", 1)
    assert not kept.make(5 * 2**30, write)
    assert names(tmp_path / "store") == []
    assert "3.0 GiB are free" in caplog.text and "6.0 GiB are needed" in caplog.text


def test_a_disk_that_fills_up_in_the_middle_is_no_error(
    tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(folder: Path) -> None:
        write(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    assert not KeptFolder(tmp_path / "store", source, MARK, "nf4", 1).make(9, fill)
    assert names(tmp_path / "store") == []
    assert "No space left" in caplog.text


@pytest.mark.parametrize("blocked", ["store", "data", "link"])
def test_a_store_that_cannot_be_made_is_no_error(
    blocked: str, tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen red: an error of the store's folder ended the image."""
    store = tmp_path / "data" / "store"
    if blocked == "data":
        store.parent.write_bytes(b"")
    elif blocked == "store":
        store.parent.mkdir()
        store.write_bytes(b"")
    else:
        store.parent.mkdir()
        store.symlink_to(tmp_path / "gone")
    assert not KeptFolder(store, source, MARK, "nf4", 1).make(9, write) or blocked == "link"
    if blocked != "link":
        assert "weights is not kept" in caplog.text


def test_what_ends_the_writing_leaves_nothing_behind(tmp_path: Path, source: Path) -> None:
    def stopped(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KeptFolder(tmp_path / "store", source, MARK, "nf4", 1).make(9, stopped)
    assert names(tmp_path / "store") == []


def test_of_several_that_make_a_folder_at_once_one_does_and_the_others_wait_for_it(
    tmp_path: Path, source: Path
) -> None:
    """Seen red: each deleted what the other was writing."""
    writing, waits = threading.Event(), threading.Event()
    made: list[str] = []

    def slow(folder: Path) -> None:
        writing.set()
        assert waits.wait(20)
        write(folder)
        made.append(folder.name)

    def make() -> None:
        kept = KeptFolder(tmp_path / "store", source, MARK, "nf4", 1)
        assert not kept.is_whole()
        waiting.append(kept)
        assert kept.make(9, slow) and kept.is_whole()

    waiting: list[KeptFolder] = []
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(make) for _ in range(3)]
        eventually(lambda: len(waiting) == 3 and writing.is_set(), "all of them")
        waits.set()
        assert [each.result(20) for each in done] == [None] * 3
    assert len(made) == 1


def test_where_a_file_system_has_no_locks_folders_are_made_without(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*given: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert KeptFolder(tmp_path / "store", source, MARK, "nf4", 1).make(9, write)
    assert "no flock here" in caplog.text


def test_a_whole_folder_that_could_not_be_read_is_made_again(tmp_path: Path, source: Path) -> None:
    made: list[Path] = []
    for _ in range(2):
        kept = KeptFolder(tmp_path / "store", source, MARK, "nf4", 1)
        assert kept.make(9, lambda folder: (write(folder), made.append(folder))[0])
    assert len(made) == 2
