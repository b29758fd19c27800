"""A gallery in a fresh folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.gallery.store import Gallery
from tests.gallery.browser import Browser, started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the index is kept."""
    return tmp_path / "gallery"


@pytest.fixture
def gallery(folder: Path) -> Gallery:
    """The runner's own gallery, for writing."""
    return Gallery(folder, writing=True)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all page tests."""
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The Chromium with a clean memory; a test fails if its page had anything to complain about."""
    chromium.complaints()
    yield chromium
    complaints = chromium.complaints()
    chromium.run("localStorage.clear(); sessionStorage.clear()")
    chromium.driver.get("about:blank")
    assert complaints == []
