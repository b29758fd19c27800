"""The index: bounded work, one writer at a time, any number of readers."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from runner.gallery.rebuild import rebuild, row_of
from runner.gallery.search import search
from runner.gallery.store import FILE, Gallery
from tests.gallery.samples import sidecar


def rows(first: int, last: int, **changes: object) -> list[dict[str, object]]:
    return [row_of(sidecar(n, **changes)) for n in range(first, last + 1)]


def test_a_row_has_everything_a_caller_looks_for() -> None:
    told = sidecar(
        3, result_pack="lamps", result_subject="fox", result_variable="dawn", loras=[{"path": "x"}]
    )
    assert row_of(told) == {
        "id": "hero-0003",
        "job": "hero",
        "index": 3,
        "file": "outbox/hero/hero-0003.png",
        "sidecar": "outbox/hero/hero-0003.json",
        "thumbnail": "outbox/hero/thumbs/hero-0003.webp",
        "prompt": "a red fox in the snow",
        "model": "dev",
        "kind": "text2img",
        "seed": 9,
        "tags": ["poster"],
        "pack": "lamps",
        "subject": "fox",
        "variable": "dawn",
        "width": 64,
        "height": 64,
        "seconds": 1.5,
        "created_at": "2026-11-23T08:00:03.000Z",
        "steps": 28,
        "guidance": 3.5,
        "precision": "bf16",
        "loras": [{"path": "x"}],
    }


def test_rows_are_found_by_id(gallery: Gallery) -> None:
    gallery.add(*rows(1, 2000))
    for index in (1, 1000, 2000):
        found = gallery.get(f"hero-{index:04}")
        assert found is not None and found["index"] == index
    assert gallery.get("hero-9999") is None
    assert len(gallery) == 2000


def test_adding_the_same_row_again_changes_nothing(gallery: Gallery, folder: Path) -> None:
    gallery.add(*rows(1, 3))
    before = gallery.page("", None, None, 10, 0)
    gallery.add(*rows(1, 3))
    assert gallery.page("", None, None, 10, 0) == before
    assert search(gallery, "fox")["total"] == 3


def test_a_changed_row_takes_the_old_ones_place(gallery: Gallery, folder: Path) -> None:
    gallery.add(*rows(1, 5))
    gallery.add(row_of(sidecar(2, prompt="a heron")), row_of(sidecar(2, prompt="a stork")))
    assert search(gallery, "heron")["total"] == 0
    assert [row["id"] for row in search(gallery, "stork")["rows"]] == ["hero-0002"]
    assert len(gallery) == len(Gallery(folder)) == 5
    assert search(gallery, "fox")["total"] == 4


def test_removed_rows_are_gone_for_every_reader(gallery: Gallery, folder: Path) -> None:
    reader = Gallery(folder)
    gallery.add(*rows(1, 50))
    assert len(reader) == 50
    assert gallery.remove("hero-0001", "hero-0025", "hero-none") == 2
    assert reader.get("hero-0001") is None
    assert len(reader) == len(Gallery(folder)) == search(reader, "fox")["total"] == 48


def test_a_row_is_removed_only_if_it_is_still_as_it_was(gallery: Gallery) -> None:
    (before,) = rows(1, 1)
    gallery.add(row_of(sidecar(1, prompt="of the next job of that id")))
    assert gallery.remove(before) == 0
    assert len(gallery) == 1


def test_the_file_gives_back_the_room_of_rows_that_are_removed(
    gallery: Gallery, folder: Path
) -> None:
    """Seen red without the vacuum: the file kept its size."""
    gallery.add(*rows(1, 4000))
    gallery.sync()
    full = _bytes_of(folder)
    gallery.remove(*(f"hero-{n:04}" for n in range(1, 3901)))
    with sqlite3.connect(folder / FILE) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert _bytes_of(folder) < full / 2


def _bytes_of(folder: Path) -> int:
    with sqlite3.connect(folder / FILE) as base:
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()
    return (folder / "index-2.sqlite").stat().st_size


def test_a_search_never_reads_the_rows_that_it_does_not_show(gallery: Gallery) -> None:
    """What an insert or a search costs does not grow with the gallery: by SQLite's own plan."""
    gallery.add(*rows(1, 10))
    with sqlite3.connect(gallery.folder / "index-2.sqlite") as base:
        for query in (
            "SELECT n, row FROM picture WHERE id = 'x'",
            "SELECT coalesce(max(n) + 1, 1) FROM picture WHERE n >= 1 AND n < 5",
            "SELECT row FROM picture WHERE id > 'x' ORDER BY id LIMIT 5",
            "SELECT rowid FROM picture WHERE rowid >= 1 AND rowid < 9 ORDER BY rowid DESC LIMIT 5",
        ):
            (plan,) = base.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert "SEARCH picture USING" in plan[3]
        (plan,) = base.execute("EXPLAIN QUERY PLAN SELECT count(*) FROM picture").fetchall()
        assert "COVERING INDEX" in plan[3]
    base.close()


def test_pictures_of_one_millisecond_keep_the_order_in_which_they_came(gallery: Gallery) -> None:
    told = [row_of(sidecar(n, result_created_at="2026-11-23T08:00:00.000Z")) for n in range(1, 60)]
    for row in told:
        gallery.add(row)
    assert search(gallery, limit=100)["rows"] == told[::-1]


@pytest.mark.parametrize("made", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "soon", None])
def test_a_picture_of_any_date_has_its_row(gallery: Gallery, made: str | None) -> None:
    gallery.add(row_of(sidecar(1, result_created_at=made)), *rows(2, 3))
    assert search(gallery, "fox")["total"] == 3


def test_a_reader_in_another_process_sees_each_row_as_soon_as_it_is_added(
    gallery: Gallery, folder: Path
) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from runner.gallery.store import Gallery\n"
        "gallery = Gallery(Path(sys.argv[1]))\n"
        "for line in sys.stdin:\n"
        "    print(gallery.get(line.strip()) is not None, len(gallery), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as reader:
        assert reader.stdin and reader.stdout
        for index in range(1, 1000, 11):
            gallery.add(*rows(index, index + 10))
            reader.stdin.write(f"hero-{index + 10:04}\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"True {index + 10}\n"


def test_two_writers_take_turns(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from runner.gallery.store import Gallery\n"
        "from runner.gallery.rebuild import row_of\n"
        "from tests.gallery.samples import sidecar\n"
        "gallery = Gallery(Path(sys.argv[1]), writing=True)\n"
        "for n in range(1, 601): gallery.add(row_of(sidecar(n, job=sys.argv[2])))\n"
    )
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(folder), job], cwd=root)
        for job in ("one", "two")
    ]
    assert [writer.wait(timeout=50) for writer in writers] == [0, 0]
    gallery = Gallery(folder)
    assert len(gallery) == 1200
    assert [search(gallery, job=job)["total"] for job in ("one", "two")] == [600, 600]
    assert not gallery.damaged


def test_reading_needs_no_right_to_write(gallery: Gallery, folder: Path) -> None:
    gallery.add(*rows(1, 2))
    with pytest.raises(PermissionError, match="opened for reading"):
        Gallery(folder).add(*rows(3, 3))


def test_nothing_is_opened_before_the_first_question(folder: Path) -> None:
    Gallery(folder, writing=True)
    assert not folder.exists()


def test_a_home_of_a_year_is_searched_with_three_open_files(folder: Path, gallery: Gallery) -> None:
    gallery.add(*rows(1, 5000))
    reader = Gallery(folder)
    before = len(os.listdir("/proc/self/fd"))
    assert search(reader, "fox")["total"] == 5000
    assert len(os.listdir("/proc/self/fd")) - before <= 3


def test_search_and_store_start_without_pillow_and_torch() -> None:
    script = (
        "import sys, runner.gallery.search, runner.gallery.store, runner.gallery.rebuild\n"
        "print([name for name in ('PIL', 'torch', 'numpy', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ},
    )
    assert done.stdout.strip() == "[]"


def test_the_segments_of_an_earlier_version_are_no_index_and_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    (folder / "g000001").mkdir(parents=True)
    (folder / "g000001" / "000000.rows").write_bytes(b"81766cef {}\n")
    (folder / "current").write_text("g000001", encoding="ascii")
    assert Gallery(folder).missing
    assert rebuild(Gallery(folder, writing=True), tmp_path / "outbox") == 0
    assert not Gallery(folder).missing
    assert {path.name for path in folder.iterdir()} >= {"index-2.sqlite"}
    assert not (folder / "g000001").exists() and not (folder / "current").exists()


def test_an_index_of_a_later_version_is_neither_read_nor_written(
    gallery: Gallery, folder: Path
) -> None:
    gallery.add(*rows(1, 1))
    later = folder / "index-3.sqlite"
    (folder / FILE).rename(later)
    before = later.read_bytes()
    assert Gallery(folder).missing and len(gallery) == 0
    gallery.add(*rows(2, 2))
    assert len(Gallery(folder)) == 1 and later.read_bytes() == before
