"""Contestants take turns, and each is charged for its own.

A contestant's process imports the module that it lies in: nothing heavy is imported here.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.bench.turns import Contestant, Stage, take_turns


def spin(stage: Stage, *, parts: int) -> dict[str, Any]:
    """A contestant: so many parts of 50 ms of CPU time each; between which moments they were."""
    stage.ready()
    began = time.perf_counter()
    for _ in range(parts):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        stage.mark()
    return {"parts": parts, "from": began, "to": time.perf_counter()}


def die(stage: Stage) -> dict[str, int]:
    """A contestant that ends before its time."""
    raise SystemExit(3)


def test_contestants_are_charged_for_their_own_turns_and_for_nothing_else() -> None:
    names = {"one": 6, "other": 12}
    runs = take_turns(
        {name: Contestant(f"{__name__}:spin", {"parts": n}) for name, n in names.items()}, 0.1
    )
    for name, parts in names.items():
        run = runs[name]
        assert run.said["parts"] == parts == len(run.marks)
        assert 0.05 * parts <= run.cpu < 0.05 * parts + 0.2
        assert run.cpu <= run.seconds * 1.1
        assert sum(run.blocks(2)) == pytest.approx(run.marks[-1], rel=0.05)
    said = [run.said for run in runs.values()]
    whole = max(each["to"] for each in said) - min(each["from"] for each in said)
    assert sum(run.seconds for run in runs.values()) < whole * 1.05


def test_a_contestant_that_dies_is_named_and_takes_the_others_with_it() -> None:
    players = {"well": Contestant(f"{__name__}:spin", {"parts": 2}),
               "ill": Contestant(f"{__name__}:die")}  # fmt: skip
    with pytest.raises(RuntimeError, match=r"ill ended before its time \(exit code 3\)"):
        take_turns(players)
