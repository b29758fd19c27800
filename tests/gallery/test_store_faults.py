"""Killed writers, full disks, rot: no row that was added is lost, and nothing half is ever read."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.errors import DiskFull
from runner.gallery.rebuild import ensure, row_of
from runner.gallery.search import search
from runner.gallery.segments import SEGMENT
from runner.gallery.store import Gallery
from tests.gallery.samples import put_job, sidecar, write

ROOT = Path(__file__).parents[2]
_ENDLESS_WRITER = (
    "import sys; from pathlib import Path\n"
    "from runner.gallery.store import Gallery\n"
    "from runner.gallery.rebuild import row_of\n"
    "from tests.gallery.samples import sidecar, write\n"
    "gallery = Gallery(Path(sys.argv[1]), write)\n"
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
    assert said > SEGMENT
    assert search(gallery, "fox")["total"] == said


@pytest.mark.parametrize("torn", [1, 5, 9, 200])
def test_a_torn_tail_is_passed_over_by_readers_and_cut_by_the_next_writer(
    gallery: Gallery, folder: Path, torn: int
) -> None:
    gallery.add(row_of(sidecar(1)))
    (path,) = folder.rglob("*.rows")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:torn])
    assert len(Gallery(folder)) == 1
    Gallery(folder, write).add(row_of(sidecar(2)))
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 2
    assert len(Gallery(folder)) == 2 and not Gallery(folder).damaged
    assert len(gallery) == 2


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """No file may grow past that size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_refuses_the_row_and_costs_nothing_else(gallery: Gallery, folder: Path) -> None:
    gallery.add(*(row_of(sidecar(n)) for n in range(1, 11)))
    (path,) = folder.rglob("*.rows")
    whole = path.read_bytes()
    with _room_for(len(whole) + 100), pytest.raises(OSError, match="File too large"):
        gallery.add(row_of(sidecar(11)))
    assert path.read_bytes() == whole
    assert len(gallery) == len(Gallery(folder)) == 10
    gallery.add(row_of(sidecar(11)))
    assert len(gallery) == len(Gallery(folder)) == 11


def test_a_disk_too_full_for_an_index_only_makes_reading_slower(folder: Path) -> None:
    def refuses(path: Path, data: bytes) -> None:
        if path.suffix == ".index":
            raise DiskFull("no room left")
        write(path, data)

    gallery = Gallery(folder, refuses)
    gallery.add(*(row_of(sidecar(n)) for n in range(1, SEGMENT + 11)))
    for reader in (gallery, Gallery(folder)):
        assert search(reader, "fox")["total"] == SEGMENT + 10
        assert reader.get("hero-0001") is not None
    Gallery(folder, write).add(row_of(sidecar(5000)))
    assert len(list(folder.rglob("*.index"))) == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "remove"])
def test_a_bad_index_file_is_made_again_from_its_lines(
    gallery: Gallery, folder: Path, damage: str
) -> None:
    gallery.add(*(row_of(sidecar(n)) for n in range(1, SEGMENT + 2)))
    (path,) = folder.rglob("*.index")
    good = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        flipped = good[:5000] + bytes([good[5000] ^ 1]) + good[5001:]
        path.write_bytes({"cut": good[:-100], "flip": flipped, "empty": b""}[damage])
    assert search(Gallery(folder), "fox")["total"] == SEGMENT + 1
    Gallery(folder, write).add(row_of(sidecar(1)))
    assert path.read_bytes() == good


def test_a_rotten_line_is_never_shown_and_the_index_is_made_anew(tmp_path: Path) -> None:
    folder, outbox = tmp_path / "gallery", tmp_path / "outbox"
    put_job(outbox, [sidecar(n, prompt=f"fox{n}") for n in range(1, 6)])
    ensure(folder, outbox, write)
    (path,) = folder.rglob("*.rows")
    path.write_bytes(path.read_bytes().replace(b"fox3", b"cat3"))
    reader = Gallery(folder)
    assert [search(reader, word)["total"] for word in ("cat3", "fox3", "fox2")] == [0, 0, 1]
    assert reader.damaged
    assert ensure(folder, outbox, write)
    assert [search(reader, word)["total"] for word in ("cat3", "fox3", "fox2")] == [0, 1, 1]
    assert not reader.damaged


def test_rot_in_a_sealed_segment_is_met_when_read_and_found_at_the_start(
    gallery: Gallery, folder: Path, tmp_path: Path
) -> None:
    gallery.add(*(row_of(sidecar(n)) for n in range(1, SEGMENT + 2)))
    path = folder / "g000001" / "000000.rows"
    data = path.read_bytes()
    path.write_bytes(data[:300] + b"#" + data[301:])
    reader = Gallery(folder)
    page = search(reader, "fox", limit=2 * SEGMENT)
    assert len(page["rows"]) == SEGMENT and reader.damaged
    assert not Gallery(folder).sound()


@pytest.mark.parametrize("lost", ["000000.rows", "000001.rows", "end of 000000.rows"])
def test_a_lost_segment_is_noticed_at_the_start(tmp_path: Path, lost: str) -> None:
    folder, outbox = tmp_path / "gallery", tmp_path / "outbox"
    gallery = Gallery(folder, write)
    ensure(folder, outbox, write)
    gallery.add(*(row_of(sidecar(n)) for n in range(1, 2 * SEGMENT + 2)))
    (generation,) = folder.glob("g*")
    assert gallery.sound()
    if lost.startswith("end"):
        path = generation / lost.split()[-1]
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        (generation / lost).unlink()
    assert not Gallery(folder).sound()
