"""The index: bounded work, one writer at a time, any number of readers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.gallery.rebuild import row_of
from runner.gallery.search import search
from runner.gallery.segments import SEGMENT
from runner.gallery.store import Gallery
from tests.gallery.samples import sidecar, write


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


def test_rows_are_found_by_id_in_every_segment(gallery: Gallery) -> None:
    gallery.add(*rows(1, 2 * SEGMENT + 10))
    for index in (1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 10):
        found = gallery.get(f"hero-{index:04}")
        assert found is not None and found["index"] == index
    assert gallery.get("hero-9999") is None
    assert len(gallery) == 2 * SEGMENT + 10


def test_adding_the_same_row_again_writes_nothing(gallery: Gallery, folder: Path) -> None:
    gallery.add(*rows(1, 3))
    before = {path: path.stat().st_size for path in folder.rglob("*.rows")}
    gallery.add(*rows(1, 3))
    assert {path: path.stat().st_size for path in folder.rglob("*.rows")} == before


def test_a_changed_row_takes_the_old_ones_place(gallery: Gallery) -> None:
    gallery.add(*rows(1, SEGMENT + 5))
    gallery.add(row_of(sidecar(2, prompt="a heron")), row_of(sidecar(2, prompt="a stork")))
    assert search(gallery, "heron")["total"] == 0
    assert [row["id"] for row in search(gallery, "stork")["rows"]] == ["hero-0002"]
    assert len(gallery) == SEGMENT + 5
    assert len(Gallery(gallery.folder)) == SEGMENT + 5


def test_removed_rows_are_gone_for_every_reader(gallery: Gallery, folder: Path) -> None:
    reader = Gallery(folder)
    gallery.add(*rows(1, SEGMENT + 5))
    assert len(reader) == SEGMENT + 5
    assert gallery.remove("hero-0001", f"hero-{SEGMENT + 1:04}", "hero-none") == 2
    assert reader.get("hero-0001") is None
    assert len(reader) == len(Gallery(folder)) == SEGMENT + 3


def test_a_full_segment_and_its_index_never_change_again(gallery: Gallery, folder: Path) -> None:
    gallery.add(*rows(1, SEGMENT))
    sealed = list(folder.rglob("000000.*"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sealed}
    assert len(before) == 2
    gallery.add(*rows(SEGMENT + 1, 2 * SEGMENT + 1))
    gallery.remove("hero-0001")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sealed} == before


def test_an_insert_writes_its_line_and_no_more(gallery: Gallery, folder: Path) -> None:
    gallery.add(*rows(1, 500))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    gallery.add(*rows(501, 501))
    grown = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) - size
    assert 0 < grown < 1000


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
        for index in range(1, SEGMENT + 30, 11):
            gallery.add(*rows(index, index + 10))
            reader.stdin.write(f"hero-{index + 10:04}\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"True {index + 10}\n"


def test_two_writers_take_turns(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from runner.gallery.store import Gallery\n"
        "from runner.gallery.rebuild import row_of\n"
        "from tests.gallery.samples import sidecar, write\n"
        "gallery = Gallery(Path(sys.argv[1]), write)\n"
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


def test_nothing_is_held_before_the_first_question(gallery: Gallery, folder: Path) -> None:
    gallery.add(*rows(1, SEGMENT))
    reader = Gallery(folder)
    assert not list(reader.indexes())
    search(reader)
    assert list(reader.indexes())


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


def test_a_gallery_of_version_one_still_opens(tmp_path: Path) -> None:
    """Lines and the word in `current`, as the first release wrote them: they stay readable."""
    generation = tmp_path / "g000001"
    generation.mkdir()
    write(tmp_path / "current", b"g000001")
    write(
        generation / "000000.rows",
        b'81766cef {"row":{"id":"a-0001","job":"a","prompt":"old fox","seed":1}}\n'
        b'735a6c4d {"row":{"id":"a-0002","job":"a","prompt":"new fox","seed":2},"gone":[1]}\n',
    )
    assert search(Gallery(tmp_path), "fox") == {
        "total": 1,
        "rows": [{"id": "a-0002", "job": "a", "prompt": "new fox", "seed": 2}],
    }
