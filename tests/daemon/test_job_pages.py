"""The pages of a job while it runs: a refresh costs as much as what is new, whatever was before."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest

from runner.daemon import pages
from runner.gallery.page import paging
from runner.spool.disk.disk import Disk, StrPath
from runner.spool.store import outbox
from runner.spool.store.outbox import Outbox
from tests.daemon.columns import daemon_of
from tests.harness import eventually
from tests.spool.conftest import SPEC, Spool

MANY = "kind: text2img\nmodel: tiny\nprompt: a red circle\nseed: 7\ncount: 30\n"


@pytest.fixture
def refreshing(idle_spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """A home whose jobs have pages of four pictures, refreshed after each picture."""
    monkeypatch.setattr(paging, "MOST_IMAGES", 4)
    monkeypatch.setattr(pages, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(pages, "_SHARE", 0.0)
    return idle_spool


class Watched(Disk):
    """Knows which pages were renamed into their places, and refuses one of them once."""

    def __init__(self, refused: str = "") -> None:
        super().__init__()
        self.pages: list[str] = []
        self.refused = refused

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        target = Path(str(details.get("target", path)))
        if operation == "write" and target.suffix == ".html" and target.parent.name == "hero":
            if target.name == self.refused:
                self.refused = ""
                raise OSError(errno.EIO, "refused", str(target))
            self.pages.append(target.name)


def make(spool: Spool, disk: Disk) -> None:
    """Make thirty pictures one after another, with a refresh after each."""
    spool.start(disk)
    writer = daemon_of(spool).writer
    spool.device.on_start = lambda _: eventually(lambda: not writer.waiting, "the writer")
    spool.drop("hero.yaml", MANY)
    assert spool.end("hero")["state"] == "succeeded"


def shown(spool: Spool) -> list[str]:
    """The pictures on a job's pages, in their order."""
    files = sorted(spool.home.job("hero").glob("page-*.html"), key=lambda f: int(f.stem[5:]))
    text = "".join(
        file.read_text(encoding="utf-8") for file in (spool.home.job("hero") / "index.html", *files)
    )
    return re.findall(r'class="shot[^"]*" id="(hero-\d+)"', text)


def test_a_refresh_reads_and_writes_the_open_page_and_no_closed_one(
    refreshing: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: each refresh read all sidecars and wrote all pictures again."""
    opened: list[str] = []
    looks: list[int] = []
    read, sidecars = outbox.read_json, Outbox.sidecars

    def counted(*given: Any) -> dict[int, dict[str, Any]]:
        before = len(opened)
        found = sidecars(*given)
        looks.append(len(opened) - before)
        return found

    monkeypatch.setattr(outbox, "read_json", lambda file: (opened.append(file.name), read(file))[1])
    monkeypatch.setattr(Outbox, "sidecars", counted)
    disk = Watched()
    make(refreshing, disk)
    assert disk.pages.count("index.html") >= 30
    # Five of a page that was just closed, one of the next.
    assert 30 <= len(looks) and max(looks) <= 5
    assert max(disk.pages.count(f"page-{n}.html") for n in range(2, 8)) <= 5
    assert shown(refreshing) == [f"hero-{n:04}" for n in range(1, 31)]
    first = (refreshing.home.job("hero") / "index.html").read_text(encoding="utf-8")
    assert 'data-state="succeeded"' in first and "<dd>30</dd>" in first


def test_a_page_that_could_not_be_written_when_it_was_closed_is_written_later(
    refreshing: Spool,
) -> None:
    disk = Watched(refused="page-3.html")
    make(refreshing, disk)
    assert not disk.refused and shown(refreshing) == [f"hero-{n:04}" for n in range(1, 31)]


def test_a_runner_that_goes_on_with_a_job_goes_on_with_its_pages(refreshing: Spool) -> None:
    refreshing.start()
    refreshing.drop("hero.yaml", MANY)
    refreshing.until(lambda: refreshing.status("hero").get("images", {}).get("done", 0) > 9)
    refreshing.restart()
    assert refreshing.end("hero")["state"] == "succeeded"
    assert shown(refreshing) == [f"hero-{n:04}" for n in range(1, 31)]


def test_images_that_failed_have_their_reasons_on_the_pages_of_their_numbers(
    refreshing: Spool,
) -> None:
    refreshing.device.failing["hero", 9] = ("OutOfMemory", "too large")
    refreshing.start()
    refreshing.drop("hero.yaml", MANY)
    assert refreshing.end("hero")["state"] == "failed"
    third = (refreshing.home.job("hero") / "page-3.html").read_text(encoding="utf-8")
    # Its seed is known too.
    assert "too large" in third and "seed 15" in third and len(shown(refreshing)) == 29


def test_an_image_of_a_matrix_that_failed_is_in_its_cell(idle_spool: Spool) -> None:
    """Seen red: its row and its column were called "–"."""
    idle_spool.device.failing["hero", 3] = ("OutOfMemory", "too large")
    idle_spool.start()
    idle_spool.drop("hero.yaml", f"{SPEC}matrix: {{steps: [4, 8], guidance: [1, 3]}}\n")
    assert idle_spool.end("hero")["state"] == "failed"
    page = (idle_spool.home.job("hero") / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'class="label"><bdi>([^<]*)<', page) == ["steps 4", "steps 8"]
    cells = re.findall(r'aria-label="(guidance \d)"><\w+ class="(\w+)', page)
    assert cells == [("guidance 1", "shot"), ("guidance 3", "shot"),
                     ("guidance 1", "missing"), ("guidance 3", "shot")]  # fmt: skip
    assert ' · <a href="results.csv">' in page


def test_the_page_of_all_jobs_links_the_pages_of_older_ones_that_there_are(
    idle_spool: Spool,
) -> None:
    months = idle_spool.home.outbox / "_months"
    months.mkdir()
    for name in ("2026-09.001.html", "2026-10.001.html", "2026-10.002.html", "<b>.html", "x.md"):
        (months / name).touch()
    idle_spool.start()
    idle_spool.drop("hero.yaml")
    idle_spool.end("hero")
    idle_spool.stop()
    page = (idle_spool.home.outbox / "index.html").read_text(encoding="utf-8")
    assert 'data-words="a red circle on a blue background"' in page
    assert re.findall(r'href="(_months/[^"]*)">([^<]*)<', page) == [
        ("_months/2026-09.001.html", "2026-09"),
        ("_months/2026-10.001.html", "2026-10"),
        ("_months/2026-10.002.html", "2"),
    ]
