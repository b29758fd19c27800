"""A gallery in a fresh folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.gallery.store import Gallery
from tests.gallery.samples import write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the index is kept."""
    return tmp_path / "gallery"


@pytest.fixture
def gallery(folder: Path) -> Gallery:
    """The runner's own gallery, for writing."""
    return Gallery(folder, write)
