"""The short forms of the crash tests; `python -m tests.crash` plays every point."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["kill", "power", "full", "faults", "odd", "night"])
def test_nothing_is_lost_twice_torn_wrong_or_illegal(part: str) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("the points are played in forked processes, which this system has not")
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", "--short", "--only", part],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 twice, 0 torn, 0 wrong, 0 illegal" in done.stdout
