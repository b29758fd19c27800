"""Folders that others may write to: nothing below them leads anywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.spool.disk import beneath
from runner.spool.disk.disk import Disk

ACTS: dict[str, Callable[[Path, list[str]], object]] = {
    "create": lambda path, shared: os.close(beneath.create(path, shared)),
    "rename from": lambda path, shared: beneath.rename(path, Path(shared[0], "y"), shared),
    "rename to": lambda path, shared: beneath.rename(Path(shared[0], "y"), path, shared),
    "rename_to_free": lambda p, shared: beneath.rename_to_free(Path(shared[0], "y"), p, shared),
    "remove": beneath.remove,
    "make_folder": lambda path, shared: beneath.make_folder(path / "deeper", shared),
}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that others may write to, beside one that is private and has a file `x`."""
    (tmp_path / "private" / "in").mkdir(parents=True)
    (tmp_path / "private" / "in" / "x").write_bytes(b"theirs")
    folder = tmp_path / "shared"
    (folder / "job").mkdir(parents=True)
    (folder / "y").write_bytes(b"ours")
    return folder


def links(link: Path, target: Path) -> None:
    """A link to a folder, which Windows lets only some users make."""
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        if sys.platform == "win32":
            pytest.skip(f"this user may not make links: {error}")
        raise


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("by_handle", [True, False])
def test_nothing_is_done_through_a_planted_link(
    shared: Path, act: str, depth: int, by_handle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: without O_NOFOLLOW, and without the look at the links where no handles are."""
    monkeypatch.setattr(beneath, "_BY_HANDLE", by_handle and beneath._BY_HANDLE)
    private = shared.parent / "private"
    (shared / "job").rmdir()
    if depth == 1:
        links(shared / "job", private)
    else:
        (shared / "job").mkdir()
        links(shared / "job" / "in", private / "in")
    before = sorted(private.rglob("*"))
    name = "new" if act in ("create", "rename to", "rename_to_free") else "x"
    with pytest.raises(OSError, match="a link or a file stands in the place"):
        ACTS[act](shared / "job" / "in" / name, [str(shared)])
    assert sorted(private.rglob("*")) == before
    assert (private / "in" / "x").read_bytes() == b"theirs" and (shared / "y").exists()


def test_both_separators_of_windows_are_seen(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red: the paths of statuses mix the two, and passed for others than below the folder."""
    monkeypatch.setattr(beneath, "_BY_HANDLE", False)
    monkeypatch.setattr(beneath, "_SEPARATORS", "/%")
    (shared / "job").rmdir()
    links(shared / "job", shared.parent / "private")
    for path in (f"{shared}%job/x", f"{shared}/job/x", f"{shared}%job%in/x"):
        with pytest.raises(OSError, match="a link or a file stands in the place"):
            beneath.create(path, [str(shared)])


def test_a_file_in_the_place_of_a_folder_is_said_so(shared: Path) -> None:
    with pytest.raises(OSError, match="a link or a file stands in the place"):
        os.close(beneath.create(shared / "y" / "x", [str(shared)]))


def test_a_new_file_is_never_one_that_was_there(shared: Path) -> None:
    links(shared / "planted", shared.parent / "private" / "made")
    for name in ("y", "planted"):
        with pytest.raises(FileExistsError):
            beneath.create(shared / name, [str(shared)])
    assert not (shared.parent / "private" / "made").exists()


def test_the_shared_folder_itself_may_be_a_link(shared: Path) -> None:
    links(shared.parent / "link", shared)
    root = shared.parent / "link"
    os.close(beneath.create(root / "job" / "x", [str(root)]))
    assert beneath.make_folder(root / "a" / "b", [str(root)])
    assert beneath.rename_to_free(root / "job" / "x", root / "a" / "b" / "z", [str(root)])
    assert not beneath.rename_to_free(root / "y", root / "a" / "b" / "z", [str(root)])
    beneath.rename(root / "y", root / "a" / "b" / "z", [str(root)])
    assert (shared / "a" / "b" / "z").read_bytes() == b"ours"


def test_a_folder_beside_with_a_longer_name_is_not_below(shared: Path) -> None:
    with beneath.parent(f"{shared}er/x", [str(shared)]) as (folder, name):
        assert folder is None and name == f"{shared}er/x"


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only Linux lists the handles of a process")
def test_no_handle_is_left_open(shared: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for act in ACTS.values():
        with pytest.raises(OSError):
            act(shared / "y" / "x" / "z", [str(shared)])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("planted", ["", "thumbs"])
def test_a_disk_writes_and_removes_nothing_through_a_link(shared: Path, planted: str) -> None:
    """Seen red: with the paths opened as they are, `private` had the picture."""
    private = shared.parent / "private" / "in"
    disk = Disk(shared)
    place = shared / "job" / planted
    if place.exists():
        place.rmdir()
    links(place, private)
    with pytest.raises(OSError, match="a link or a file stands in the place"):
        disk.replace(place / "x", b"ours")
    with pytest.raises(OSError, match="a link or a file stands in the place"):
        disk.replace_many([(place / "new", b"ours")], in_place=[place / "new"])
    with pytest.raises(OSError, match="a link or a file stands in the place"):
        disk.remove(place / "x")
    disk.remove_tree(place)
    assert [file.read_bytes() for file in private.iterdir()] == [b"theirs"]


def test_the_names_of_files_being_written_cannot_be_guessed_and_are_short(shared: Path) -> None:
    names: list[str] = []

    class Listing(Disk):
        def before(self, operation: str, path: str | Path, **details: object) -> None:
            if operation == "write":
                names.append(os.path.basename(path))

    for _ in range(2):
        Listing(shared).replace(shared / ("x" * 200), b"")
    assert len(set(names)) == 2 and max(map(len, names)) < 40


def test_below_a_link_that_leads_nowhere_no_folder_is_made(shared: Path) -> None:
    """Seen red: RecursionError, for the name above it was taken each time."""
    links(shared / "link", shared.parent / "nowhere")
    for roots in ([], [str(shared)]):
        with pytest.raises(OSError):
            beneath.make_folder(shared / "link" / "a" / "b", roots)
    assert beneath.make_folder(shared / "a" / "b" / "c", [str(shared)])
    assert not beneath.make_folder(shared / "a" / "b", [str(shared)])


@pytest.mark.parametrize("act", ["create", "remove", "rename to"])
def test_an_error_below_a_shared_folder_names_the_whole_path(shared: Path, act: str) -> None:
    """Seen red: the bare name, which lies in many folders."""
    taken = shared / "job" / "taken"
    taken.mkdir()
    with pytest.raises(OSError) as raised:
        ACTS[act](taken, [str(shared)])
    assert str(taken) in (raised.value.filename, raised.value.filename2)
