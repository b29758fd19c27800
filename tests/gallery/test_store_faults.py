"""Killed writers, full disks, rot: no row that was added is lost, and nothing half is ever read."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.gallery.rebuild import rebuild, row_of
from runner.gallery.search import search
from runner.gallery.store import FILE, Gallery
from tests.gallery.samples import put_job, sidecar

ROOT = Path(__file__).parents[2]
_ENDLESS_WRITER = (
    "import sys; from pathlib import Path\n"
    "from runner.gallery.store import Gallery\n"
    "from runner.gallery.rebuild import row_of\n"
    "from tests.gallery.samples import sidecar\n"
    "gallery = Gallery(Path(sys.argv[1]), writing=True)\n"
    "n = int(sys.argv[2])\n"
    "while True:\n"
    "    n += 1\n"
    "    gallery.add(row_of(sidecar(n, prompt='fox ' * 500)))\n"
    "    print(n, flush=True)\n"
)


def test_a_killed_writer_loses_no_row_and_the_next_one_goes_on(folder: Path) -> None:
    said = 0
    for turn in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", _ENDLESS_WRITER, str(folder), str(said)],
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=ROOT,
        ) as writer:
            assert writer.stdout
            for _ in range(150 + 37 * turn):
                said = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            said = max([said, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        gallery = Gallery(folder)
        # One may have been added and not said.
        assert len(gallery) in (said, said + 1)
        assert not gallery.damaged
        said = len(gallery)
    assert said > 1000
    assert search(gallery, "fox")["total"] == said


@contextmanager
def _limited(what: int, limit: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def test_a_full_disk_refuses_the_row_and_costs_nothing_else(gallery: Gallery, folder: Path) -> None:
    gallery.add(*(row_of(sidecar(n)) for n in range(1, 11)))
    # No file may grow any more.
    with _limited(resource.RLIMIT_FSIZE, 1000), pytest.raises(OSError, match="disk"):
        gallery.add(row_of(sidecar(11)))
    assert len(gallery) == len(Gallery(folder)) == 10
    gallery.add(row_of(sidecar(11)))
    assert len(gallery) == len(Gallery(folder)) == search(gallery, "fox")["total"] == 11


def test_no_free_file_descriptor_is_never_taken_for_an_empty_index(
    gallery: Gallery, folder: Path
) -> None:
    """Seen red on the segments: 300,016 rows became 297,985."""
    gallery.add(*(row_of(sidecar(n)) for n in range(1, 101)))
    gallery.mark(complete=True)
    used = [int(name) for name in os.listdir("/proc/self/fd")]
    # The reader and the writer have nothing open yet.
    reader, writer = Gallery(folder), Gallery(folder, writing=True)
    with _limited(resource.RLIMIT_NOFILE, max(used) + 1):
        taken = _take_all_descriptors()
        try:
            for ask in (
                lambda: search(reader, "fox"),
                lambda: reader.get("hero-0001"),
                lambda: reader.missing,
                lambda: len(reader),
                lambda: writer.add(row_of(sidecar(101))),
                lambda: writer.remove("hero-0001"),
            ):
                with pytest.raises(OSError, match="Too many open files"):
                    ask()
        finally:
            for handle in taken:
                os.close(handle)
    assert not reader.damaged and not writer.damaged and not reader.missing
    assert search(reader, "fox")["total"] == len(writer) == 100


def _take_all_descriptors() -> list[int]:
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        assert error.errno == errno.EMFILE
    return taken


def test_an_index_that_may_not_be_read_is_no_empty_one(
    gallery: Gallery, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.add(row_of(sidecar(1)))
    for number in (errno.EIO, errno.EACCES, errno.EMFILE):
        refusal = OSError(number, "refused")

        def refuse(path: Path, refusal: OSError = refusal) -> os.stat_result:
            raise refusal

        reader = Gallery(folder)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", refuse)
            with pytest.raises(OSError, match="refused"):
                search(reader)
        assert search(reader)["total"] == 1


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """A job of five pictures."""
    put_job(tmp_path / "outbox", [sidecar(n, prompt=f"fox{n}") for n in range(1, 6)])
    return tmp_path / "outbox"


def _checkpoint(folder: Path) -> Path:
    """The index with all of it in one file, which nobody has open."""
    file = folder / "index-2.sqlite"
    base = sqlite3.connect(file)
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    return file


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE picture SET row = CAST(x'7bff7d' AS TEXT)",
        "UPDATE picture SET row = '[]'",
        "UPDATE picture SET row = NULL",
        "DROP TABLE mark",
        "DROP TABLE picture",
        "DROP TABLE term",
    ],
)
def test_an_index_whose_content_is_none_is_made_anew_too(
    outbox: Path, folder: Path, statement: str
) -> None:
    """Seen red: tracebacks of the search, and of the rebuild that was to mend it."""
    rebuild(Gallery(folder, writing=True), outbox)
    with sqlite3.connect(folder / FILE) as base:
        base.execute(statement)
    base.close()
    reader, writer = Gallery(folder), Gallery(folder, writing=True)
    search(reader, "fox")
    writer.damaged = reader.damaged
    assert reader.damaged or reader.missing
    assert rebuild(writer, outbox, anew=False, if_missing=True) == 5
    assert search(reader, "fox")["total"] == 5 and not reader.missing


def test_what_was_synced_is_in_the_one_file_that_a_backup_may_have(
    outbox: Path, folder: Path, tmp_path: Path
) -> None:
    writer = Gallery(folder, writing=True)
    rebuild(writer, outbox)
    writer.sync()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / FILE).write_bytes((folder / FILE).read_bytes())
    assert len(Gallery(tmp_path / "copy")) == 5


@pytest.mark.parametrize("damage", ["no database", "cut", "overwritten", "a row"])
def test_a_damaged_index_is_told_of_and_made_anew(outbox: Path, folder: Path, damage: str) -> None:
    rebuild(Gallery(folder, writing=True), outbox)
    file = _checkpoint(folder)
    data = file.read_bytes()
    row = data.index(b'{"id":"hero-0003"')
    file.write_bytes({
        "no database": b"once upon a time " * 1000,
        "cut": data[: len(data) // 2],
        "overwritten": data[:4096] + b"\xff" * 8192 + data[12288:],
        "a row": data[:row] + b"x" + data[row + 1 :],
    }[damage])  # fmt: skip
    reader, writer = Gallery(folder), Gallery(folder, writing=True)
    search(reader, "fox")
    search(reader)
    assert reader.damaged
    if damage != "a row":
        with pytest.raises(OSError, match="gallery rebuild"):
            writer.add(row_of(sidecar(6)))
    assert rebuild(writer, outbox) == 5
    assert search(reader, "fox")["total"] == 5 and not reader.damaged and not reader.missing


def test_an_open_gallery_follows_when_its_file_is_removed_or_made_anew(
    outbox: Path, folder: Path
) -> None:
    writer, reader = Gallery(folder, writing=True), Gallery(folder)
    assert rebuild(writer, outbox) == len(reader) == 5
    writer.damaged = True
    writer.empty()
    assert len(reader) == 0 and reader.missing
    writer.add(row_of(sidecar(9)))
    assert len(reader) == 1 and reader.missing
    assert rebuild(Gallery(folder, writing=True), outbox) == len(reader) == 5
