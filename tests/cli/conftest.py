"""The command line without a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.here import Here


@pytest.fixture
def here(home: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs commands of a fresh home in this process."""
    return Here(home, capsys)
