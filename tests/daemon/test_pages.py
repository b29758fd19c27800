"""What is derived from pictures: it is made again, and holds up none."""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from runner.daemon import pages
from runner.gallery.lock import locked
from runner.gallery.rebuild import Progress
from runner.gallery.search import search
from runner.gallery.store import FOLDER, Gallery
from tests.spool.conftest import SPEC, Spool

BOTH = {"hero-0001", "next-0001"}


def ids(spool: Spool) -> set[str]:
    return {row["id"] for row in search(Gallery(spool.home.data / FOLDER))["rows"]}


@pytest.mark.parametrize("holds", ["the making of the index", "the index"])
def test_pictures_are_saved_while_another_process_stands_still_with_the_gallery(
    idle_spool: Spool, holds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the writer waited for it, and nothing was saved."""
    monkeypatch.setattr(pages, "_REFRESH_SECONDS", 0.1)
    idle_spool.start()
    idle_spool.drop("hero.yaml")
    idle_spool.end("hero")
    idle_spool.stop()
    folder = idle_spool.home.data / FOLDER
    (folder / "index-2.sqlite").unlink()
    # A `gallery rebuild` that was stopped by Ctrl-Z.
    with ExitStack() as held:
        if holds == "the index":
            Gallery(folder, writing=True).add()
            base = held.enter_context(closing(sqlite3.connect(folder / "index-2.sqlite")))
            base.execute("BEGIN IMMEDIATE")
        else:
            held.enter_context(locked(folder / "rebuilding"))
        idle_spool.start()
        idle_spool.drop("next.yaml")
        assert idle_spool.end("next")["state"] == "succeeded"
        assert Gallery(folder).missing
    idle_spool.until(lambda: not Gallery(folder).missing and ids(idle_spool) == BOTH)


def test_the_index_is_made_beside_the_work_and_its_making_ends_with_the_runner(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the first drop after a start waited until a year of pictures was looked at."""
    reached = threading.Event()

    def endless(gallery: Gallery, outbox: Path, go_on: Progress, **patience: float) -> int:
        while True:
            reached.set()
            go_on(1, 2)

    with monkeypatch.context() as patched:
        patched.setattr(pages, "rebuild", endless)
        idle_spool.start()
        idle_spool.until(reached.is_set)
        idle_spool.drop("hero.yaml")
        assert idle_spool.end("hero")["state"] == "succeeded"
        idle_spool.stop()
    assert Gallery(idle_spool.home.data / FOLDER).missing
    idle_spool.start()
    idle_spool.until(lambda: not Gallery(idle_spool.home.data / FOLDER).missing)


def test_a_start_after_a_clean_stop_or_a_kill_looks_at_no_picture(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events say what the index lacks. Seen red: every folder of the outbox was listed."""
    idle_spool.start()
    idle_spool.drop("hero.yaml")
    idle_spool.end("hero")
    idle_spool.until(lambda: not Gallery(idle_spool.home.data / FOLDER).missing)
    idle_spool.stop()
    asked: list[object] = []
    monkeypatch.setattr(pages, "rebuild", lambda *given, **named: asked.append(given))
    idle_spool.start()
    idle_spool.drop("next.yaml")
    idle_spool.end("next")
    idle_spool.stop()
    assert ids(idle_spool) == BOTH and not asked


def test_the_pictures_of_jobs_that_ended_before_the_ledger_was_lost_are_found(
    idle_spool: Spool,
) -> None:
    idle_spool.start()
    idle_spool.drop("hero.yaml")
    idle_spool.end("hero")
    idle_spool.stop()
    Gallery(idle_spool.home.data / FOLDER, writing=True).remove("hero-0001")
    for file in idle_spool.home.data.glob("ledger.sqlite*"):
        file.unlink()
    idle_spool.start()
    idle_spool.until(lambda: ids(idle_spool) == {"hero-0001"})


def test_the_rows_of_an_earlier_job_of_that_id_go_when_the_next_one_ends(
    idle_spool: Spool,
) -> None:
    """Seen red: a search showed pictures that nobody had any more."""
    idle_spool.start()
    idle_spool.drop("hero.yaml", f"{SPEC}count: 3\n")
    idle_spool.end("hero")
    idle_spool.until(lambda: len(ids(idle_spool)) == 3)
    shutil.rmtree(idle_spool.home.job("hero"))
    idle_spool.drop("hero.yaml", SPEC)
    idle_spool.until(lambda: ids(idle_spool) == {"hero-0001"})


def test_a_job_without_a_page_is_no_dead_link_on_the_page_of_all(spool: Spool) -> None:
    spool.drop("good.yaml")
    spool.drop("bad.yaml", "kind: text2img\nmodel: tinny\nprompt: x\n")
    spool.over("good", "bad")
    index = spool.home.outbox / "index.html"

    def links() -> list[str]:
        text = index.read_text("utf-8") if index.exists() else ""
        return sorted(re.findall(r'href="((?:good|bad)/[^"]+)"', text))

    spool.until(lambda: len(links()) == 2 and "good/index.html" in links())
    assert links() == ["bad/status.json", "good/index.html"]
    assert all((spool.home.outbox / link).exists() for link in links())
