"""Nights of the deterministic scheduler, drawn and made small by hypothesis.

`FLUXDROP_NIGHTS` says how many; `python -m tests.interleaving nights` plays thousands.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.interleaving import night
from tests.interleaving.callers import Plan, draw_plan

NIGHTS = int(os.environ.get("FLUXDROP_NIGHTS", "80"))


@pytest.mark.timeout(600)
@settings(
    max_examples=NIGHTS, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.randoms(use_true_random=False).map(draw_plan), st.integers(0, 1 << 32))
def test_whatever_callers_do_and_whoever_is_next_nothing_is_lost_twice_torn_or_swallowed(
    plan: Plan, seed: int
) -> None:
    with tempfile.TemporaryDirectory(dir=night.memory()) as root:
        found = night.play(Path(root) / "home", plan, random.Random(seed))
    assert found == []
