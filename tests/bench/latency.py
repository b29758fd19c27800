"""Measures how soon an idle, warm runner begins, shows the picture, and obeys a cancel.

`python -m tests.bench latency [--rounds N] [--quick] [--json]`. A real `fluxdrop run` with the
built-in model. The clock starts before the rename of a spec into the inbox (or the creation of a
cancel file) and stops when a reader who looks without pause sees the change in the outbox; so the
reader's own look is part of it. What happens on the way is seen the same way. Goals: 99 of 100
specs `running` in less than 50 ms, cancels over in less than a step and 50 ms.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from runner.cli.init import make_home
from tests.bench.figures import Goal, shown
from tests.harness import FINAL_STATES, Runner, eventually, spec

GOAL_MS = 50.0
STEPS, LONG = 8, 1000
_BETWEEN_LOOKS = 0.0003
"""Seconds: a reader that never waits would take one of two cores from the runner."""
_LONGEST_PAUSE = 0.3

# What a caller can see of a spec on its way, in order.
MOMENTS = ("status", "receipt", "taken", "running", "picture", "succeeded")


class Reader:
    """Looks at the outbox again and again, and notes by the monotonic clock what it sees when."""

    def __init__(self, runner: Runner, source: random.Random) -> None:
        self._runner = runner
        self._source = source

    def begin(self, number: int) -> dict[str, float]:
        """Drop a spec; the milliseconds until each moment."""
        job, name = f"begin{number}", f"begin{number}.yaml"
        folder, inbox = self._runner.folder(job), self._runner.home / "inbox"
        picture = folder / f"{job}-0001.png"
        looks: dict[str, Callable[[], bool]] = {
            "status": (folder / "status.json").exists,
            "receipt": (self._runner.home / "outbox" / "drops" / f"{name}.json").exists,
            "taken": lambda: not (inbox / name).exists(),
            "running": lambda: self._state(job) in {"running", *FINAL_STATES},
            "picture": picture.exists,
            "succeeded": lambda: self._state(job) == "succeeded",
        }
        assert tuple(looks) == MOMENTS
        aside = inbox / ".tmp" / name
        aside.write_text(spec(steps=STEPS, seed=number), encoding="utf-8")
        self._any_moment()
        began = time.perf_counter()
        os.replace(aside, inbox / name)
        return self._watch(looks, began)

    def cancel(self, number: int) -> tuple[float, float]:
        """Cancel a job in the midst of its steps: milliseconds until it is over, and of a step."""
        job = f"stop{number}"
        self._runner.put(f"{job}.yaml", spec(steps=LONG, seed=number))
        first = self._step(job, 2)
        self._any_moment()
        last = self._step(job, first[0] + 4)
        step = (last[1] - first[1]) / (last[0] - first[0])
        began = time.perf_counter()
        (self._runner.home / "inbox" / f"{job}.cancel").touch()
        found = self._watch({"over": lambda: self._state(job) == "cancelled"}, began)
        return found["over"], step * 1000

    def _watch(self, looks: Mapping[str, Callable[[], bool]], began: float) -> dict[str, float]:
        left, found = dict(looks), {}
        deadline = began + 60
        while left:
            for name, look in list(left.items()):
                if look():
                    found[name] = (time.perf_counter() - began) * 1000
                    del left[name]
            assert time.perf_counter() < deadline, f"waited in vain for {', '.join(left)}"
            time.sleep(_BETWEEN_LOOKS)
        return found

    def _step(self, job: str, least: int) -> tuple[int, float]:
        """The step that a job is at, once it is at least that far, and when that was seen."""

        def look() -> int:
            progress = self._runner.status(job).get("progress") or {}
            return progress.get("step", 0) if progress.get("phase") == "denoising" else 0

        step = eventually(lambda: found if (found := look()) >= least else None, f"step {least}")
        return step, time.perf_counter()

    def _state(self, job: str) -> str:
        return str(self._runner.status(job).get("state", ""))

    def _any_moment(self) -> None:
        """Wait a little, each time another while, so as to meet every phase of what is periodic."""
        time.sleep(self._source.uniform(0, _LONGEST_PAUSE))


def measure(rounds: int, folder: Path | None) -> dict[str, Any]:
    """Drop and cancel so many times; the percentiles in milliseconds."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        home = Path(name)
        make_home(home)
        runner = Runner(home).start()
        try:
            reader = Reader(runner, random.Random(7))
            reader.begin(0)  # the first one loads the model
            begun = [reader.begin(number) for number in range(1, rounds + 1)]
            stopped = [reader.cancel(number) for number in range(1, rounds + 1)]
        finally:
            runner.stop()
    moments = {name: _percentiles([each[name] for each in begun]) for name in MOMENTS}
    step = median(step for _, step in stopped)
    return {
        "rounds": rounds,
        "begin_ms": moments,
        "cancel_ms": _percentiles([over for over, _ in stopped]),
        "cancel_beyond_a_step_ms": _percentiles([over - step for over, _ in stopped]),
        "step_ms": round(step, 2),
        "picture_itself_ms": round(step * STEPS, 1),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(values, n=100, method="inclusive")
    return {
        "p25": round(cuts[24], 2), "p50": round(cuts[49], 2), "p75": round(cuts[74], 2),
        "p99": round(cuts[98], 2),
    }  # fmt: skip


def table(found: Mapping[str, Any]) -> list[str]:
    """The figures, to be read by people."""
    rows = {f"spec renamed in, {name}": row for name, row in found["begin_ms"].items()}
    rows |= {"cancel, over": found["cancel_ms"],
             "cancel, beyond a step": found["cancel_beyond_a_step_ms"]}  # fmt: skip
    lines = [
        f"{'ms, ' + str(found['rounds']) + ' times':<30}{'p25':>9}{'p50':>9}{'p75':>9}{'p99':>9}"
    ]
    lines += [
        f"{name:<30}" + "".join(f"{row[p]:>9.1f}" for p in ("p25", "p50", "p75", "p99"))
        for name, row in rows.items()
    ]
    return [
        *lines,
        f"a step takes {found['step_ms']} ms, {STEPS} of them {found['picture_itself_ms']}",
    ]


def main(argv: list[str]) -> int:
    """Measure and say which goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench latency", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="20 rounds")
    parser.add_argument("--folder", type=Path, help="where the home is made: on a real disk")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    found = measure(20 if asked.quick else asked.rounds, asked.folder)
    goals = [
        Goal("p99 until running", found["begin_ms"]["running"]["p99"], GOAL_MS, False, " ms"),
        Goal("p99 of a cancel beyond a step", found["cancel_beyond_a_step_ms"]["p99"], GOAL_MS,
             False, " ms"),
    ]  # fmt: skip
    return shown(table(found), goals, found, as_json=asked.json)
