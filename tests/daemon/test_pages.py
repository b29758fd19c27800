"""What is derived from pictures: it is made again, and holds up none."""

from __future__ import annotations

import pytest

from runner.daemon import pages
from runner.gallery.lock import locked
from runner.gallery.search import search
from runner.gallery.store import FOLDER, Gallery
from tests.spool.conftest import Spool

BOTH = {"hero-0001", "next-0001"}


def ids(spool: Spool) -> set[str]:
    return {row["id"] for row in search(Gallery(spool.home.data / FOLDER))["rows"]}


@pytest.mark.parametrize("lock", ["rebuilding", "lock"])
def test_pictures_are_saved_while_another_process_stands_still_with_the_gallerys_lock(
    idle_spool: Spool, lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the writer waited for it, and nothing was saved."""
    monkeypatch.setattr(pages, "_REFRESH_SECONDS", 0.1)
    idle_spool.start()
    idle_spool.drop("hero.yaml")
    idle_spool.end("hero")
    idle_spool.stop()
    gallery = idle_spool.home.data / FOLDER
    (gallery / "current").unlink()
    # A `gallery rebuild` that was stopped by Ctrl-Z.
    with locked(gallery / lock):
        idle_spool.start()
        idle_spool.drop("next.yaml")
        assert idle_spool.end("next")["state"] == "succeeded"
        assert Gallery(gallery).missing
    idle_spool.until(lambda: not Gallery(gallery).missing and ids(idle_spool) == BOTH)
