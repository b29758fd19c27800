"""Every pair of things that callers do to one job at once, in orders that are drawn."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
from pathlib import Path

import pytest

from tests.interleaving import night
from tests.interleaving.callers import Act, Job, Plan

_ORDERS = max(1, int(os.environ.get("FLUXDROP_NIGHTS", "80")) // 40)
_THINGS = ("cancel", "retry", "keep", "pause", "stop", "kill", "forget folder", "forget status")
# From before the job is known until after its end, and so close that one comes into the other.
_UNTIL_SECONDS = 0.6
_CLOSE_SECONDS = 0.02


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.combinations_with_replacement(_THINGS, 2))
)
def test_of_two_things_at_once_neither_is_lost(one: str, other: str) -> None:
    draw = random.Random(f"{one} {other}")
    for _ in range(_ORDERS):
        job = Job("a", images=2, fails=draw.choice((0, 0, 2)))
        moment, apart = draw.uniform(0.0, _UNTIL_SECONDS), draw.uniform(0.0, _CLOSE_SECONDS)
        callers = ((Act("drop", "a"), Act(one, "a", moment)), (Act(other, "a", moment + apart),))
        with tempfile.TemporaryDirectory(dir=night.memory()) as root:
            found = night.play(Path(root) / "home", Plan({"a": job}, callers), draw)
        assert found == [], callers


@pytest.mark.parametrize("kill", ["kill", "kill stopping"])
@pytest.mark.parametrize("word", ["drop", "cancel", "retry", "keep"])
def test_of_a_kill_right_behind_a_word_to_the_runner_and_that_word_neither_is_lost(
    word: str, kill: str
) -> None:
    """Most of these kills fall between the operations by which the word's file leaves the inbox."""
    draw = random.Random(f"{word} {kill}")
    for _ in range(4 * _ORDERS):
        job = Job("a", images=draw.randint(1, 3), fails=0)
        request = [] if word == "drop" else [Act(word, "a", draw.uniform(0.0, _UNTIL_SECONDS))]
        callers = ((Act("drop", "a"), *request, Act(kill)),)
        with tempfile.TemporaryDirectory(dir=night.memory()) as root:
            found = night.play(Path(root) / "home", Plan({"a": job}, callers), draw)
        assert found == [], callers
