"""What each operation on files does, in which order, and what it leaves behind when it fails."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.errors import DiskFull, LedgerUnusable, PlaceAway
from runner.spool.disk.disk import Disk, StrPath, concerns_all
from runner.spool.disk.platform import can_sync_file_system
from tests.spool.faulty import FaultyDisk

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows syncs the names of files itself")


class Recorder(Disk):
    """Keeps the operations, each with the name of its file; `on_operation` comes before each."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self.on_operation: Callable[[str], object] = lambda operation: None

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        self.on_operation(operation)
        name = os.path.basename(path)
        self.done.append(f"{operation} {'aside' if name.endswith('.writing') else name}")


@pytest.fixture
def disk() -> Recorder:
    """A disk that keeps what it does."""
    return Recorder()


def test_a_file_is_on_the_disk_before_it_has_its_name(disk: Recorder, tmp_path: Path) -> None:
    disk.replace(tmp_path / "x", b"data")
    assert disk.done == ["write aside", "sync aside", "rename x"]
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"data"


def test_a_durable_name_is_on_the_disk_too(disk: Recorder, tmp_path: Path) -> None:
    disk.replace(tmp_path / "x", b"data", durable=True)
    assert disk.done == ["write aside", "sync aside", "rename x", f"sync_folder {tmp_path.name}"]


def test_the_last_names_are_made_once_the_first_are_on_the_disk(
    disk: Recorder, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = [(tmp_path / "a" / "1", b"1"), (tmp_path / "a" / "2", b"2")]
    disk.replace_many(first, then=[(tmp_path / "b" / "3", b"3")], also=tmp_path)
    assert disk.done[6:] == [
        "rename 1", "rename 2", "sync_folder a", "rename 3", "sync_folder b",
        f"sync_folder {tmp_path.name}",
    ]  # fmt: skip


def test_a_new_file_has_the_permissions_that_the_user_gives(disk: Recorder, tmp_path: Path) -> None:
    for mask, mode in ((0o077, 0o600), (0, 0o666)):
        before = os.umask(mask)
        disk.replace(tmp_path / "x", b"data")
        os.umask(before)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_a_file_in_a_new_folder_may_be_written_in_place(disk: Recorder, tmp_path: Path) -> None:
    x, y = tmp_path / "x", tmp_path / "y"
    disk.replace_many([(x, b"1"), (y, b"2")], in_place=[x], durable=False)
    assert disk.done == ["write x", "sync x", "write aside", "sync aside", "rename y"]
    assert (x.read_bytes(), y.read_bytes()) == (b"1", b"2")


def test_where_the_folder_is_another_one_meanwhile_no_file_of_that_one_is_removed(
    disk: Recorder, tmp_path: Path
) -> None:
    """Seen red: what lay by the same name in the folder that took its place was removed."""
    folder = tmp_path / "outbox"
    folder.mkdir()

    def swap(operation: str) -> None:
        if operation == "sync":
            folder.rename(tmp_path / "aside")
            folder.mkdir()
            (folder / "x").write_bytes(b"theirs")
            raise PlaceAway("it is another folder")

    disk.on_operation = swap
    with pytest.raises(PlaceAway):
        disk.replace_many([(folder / "x", b"1")], in_place=[folder / "x"])
    assert (folder / "x").read_bytes() == b"theirs"


@pytest.mark.skipif(not can_sync_file_system(), reason="needs syncfs")
def test_from_twelve_files_on_the_whole_file_system_is_synced_instead_of_each(
    disk: Recorder, tmp_path: Path
) -> None:
    files = [(tmp_path / str(number), b"x") for number in range(13)]
    disk.replace_many(files[:11])
    assert disk.done.count("sync aside") == 11
    disk.done.clear()
    disk.replace_many(files[:12])
    assert disk.done.count("sync aside") == 0
    disk.done.clear()
    disk.replace_many(files[:10], then=files[10:])
    names = [f"rename {number}" for number in range(13)]
    whole = [f"sync_file_system {tmp_path.name}"]
    assert disk.done == ["write aside"] * 13 + whole + names[:10] + whole + names[10:] + whole


@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, OSError)],
)
@pytest.mark.parametrize("operation", ["write", "sync", "rename"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_besides(
    tmp_path: Path, operation: str, number: int, raised: type[Exception]
) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(raised) as caught:
        FaultyDisk(operation, "", number).replace(tmp_path / "x", b"new")
    assert type(caught.value) is raised
    assert raised is not DiskFull or f"no room left on the disk of {tmp_path}" in str(caught.value)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x", b"old")]


def test_a_rename_to_a_free_name_touches_no_file_that_is_there(
    disk: Recorder, tmp_path: Path
) -> None:
    x, y = tmp_path / "x", tmp_path / "y"
    x.write_bytes(b"x")
    y.write_bytes(b"y")
    assert not disk.rename_to_free(x, y)
    assert (x.read_bytes(), y.read_bytes()) == (b"x", b"y")
    y.unlink()
    assert disk.rename_to_free(x, y)
    assert not x.exists() and y.read_bytes() == b"x"


def test_what_is_not_there_is_removed_already(disk: Recorder, tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    for _ in range(2):
        disk.remove(tmp_path / "x")
        disk.remove_tree(folder)
        (folder / "below").mkdir(parents=True)
        (tmp_path / "x").touch()
    link.symlink_to(folder)
    disk.remove_tree(link)
    assert link.is_dir() and (folder / "below").is_dir()
    disk.remove_tree(folder)
    disk.remove(tmp_path / "x")
    assert [file.name for file in tmp_path.iterdir()] == ["link"]


def test_a_folder_is_made_with_its_parents_and_is_new_once(
    disk: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "b"
    assert disk.make_folder(folder) and folder.is_dir()
    assert not disk.make_folder(folder)
    assert disk.done == ["make_folder b"]
    # Another program may be quicker.
    disk.on_operation = lambda operation: (tmp_path / "c").mkdir()
    assert not disk.make_folder(tmp_path / "c")
    mkdir = os.mkdir

    def late(path: StrPath, *mode: int, dir_fd: int | None = None) -> None:
        if not (tmp_path / "e" / "f").is_dir():
            for folder in (tmp_path / "e", tmp_path / "e" / "f"):
                mkdir(folder)
            raise FileNotFoundError
        mkdir(path, *mode)

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.disk.beneath.os.mkdir", late)
        disk.on_operation = lambda operation: None
        assert not disk.make_folder(tmp_path / "e" / "f"), "others made it meanwhile"
    with pytest.raises(DiskFull, match=f"on the disk of {tmp_path}"):
        FaultyDisk("make_folder", "", errno.ENOSPC).make_folder(tmp_path / "d")


@pytest.mark.parametrize(
    ("error", "all_are"),
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.EROFS, ""), True),
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.EIO, ""), False),
        (OSError("not a regular file"), False),
        (DiskFull("x"), True),
        (LedgerUnusable("x"), True),
        (MemoryError(), True),
        (sqlite3.OperationalError(), False),
        (ValueError(), False),
    ],
)
def test_an_error_of_the_disk_or_the_process_concerns_all_files(
    error: Exception, all_are: bool
) -> None:
    assert concerns_all(error) == all_are


@pytest.mark.parametrize("often", [1, 15, 16])
def test_windows_is_asked_for_five_seconds_while_another_program_has_the_file_open(
    disk: Recorder, monkeypatch: pytest.MonkeyPatch, often: int
) -> None:
    waited: list[float] = []
    asked: list[str] = []

    def replace(old: str, new: str, **folders: object) -> None:
        asked.append(new)
        if len(asked) <= often:
            raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.disk.disk.os.name", "nt")
        patch.setattr("runner.spool.disk.disk.os.replace", replace)
        patch.setattr("runner.spool.disk.disk.time.sleep", waited.append)
        if often == 16:
            with pytest.raises(PermissionError):
                disk.rename("x", "y")
        else:
            disk.rename("x", "y")
    assert waited[:4] == [0.01, 0.02, 0.04, 0.08][:often] and max(waited) <= 0.5
    assert often == 1 or sum(waited) == pytest.approx(5.13)


def test_other_systems_are_asked_once(disk: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(old: str, new: str, **folders: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr("runner.spool.disk.disk.os.replace", refuse)
        patch.setattr("runner.spool.disk.disk.time.sleep", lambda seconds: pytest.fail("waited"))
        with pytest.raises(PermissionError):
            disk.rename("x", "y")


def test_a_share_that_does_not_answer_is_away_also_when_a_folder_is_looked_for(
    disk: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))

    monkeypatch.setattr("runner.spool.disk.disk.is_folder", refuse)
    with pytest.raises(PlaceAway, match="connect it again"):
        disk.make_folder(tmp_path / "x")
