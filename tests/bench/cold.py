"""Measures pictures from nothing running: a drop and `fluxdrop drain` beside a careful script.

`python -m tests.bench cold [--sizes N…] [--rounds N] [--quick] [--json]`. Both make the same
pictures of the built-in model, in processes that begin with nothing: interpreter, imports and loads
are counted, until the process has ended. The script (careful_script.py) saves pictures and nothing
else. They take turns, each time in a home without a history; the first round is left out (it
writes the byte code). Forty pictures are the pack `shapes`, whole, with two seeds, and one prompt
more; ten are five of its prompts. The clock is what counts, and a difference is taken within each
round, so that other work on the machine hits both; CPU time is given beside it. It ends with 1 if a
goal is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from composer.plan import make_plan
from runner.cli.init import make_home
from runner.engine.tiny.folders import folder as builtin_folder
from runner.settings import Home
from specs.expand import image
from specs.write import to_yaml
from tests.bench.figures import Goal, Spread, shown
from tests.bench.startup import environment

SLOWER = 0.3
"""Seconds that a single picture may come later than the script's."""
FASTER_FROM = 10
"""So many pictures must come sooner than the script's."""
SCRIPT = Path(__file__).with_name("careful_script.py")

_FEW = {"pack": "shapes", "subjects": ["green-triangle", "purple-star", "red-circle"]}
_ONE = {"kind": "text2img", "model": "tiny", "prompt": "a small red star on a white background"}
_SIZES: Mapping[int, Sequence[Mapping[str, Any]]] = {
    1: [{**_ONE, "seed": 1}],
    10: [
        {"kind": "text2img", "compose": {**_FEW, "variables": ["on-white"]}, "seed": 1, "count": 2},
        {"kind": "text2img", "compose": {**_FEW, "subjects": ["green-triangle", "purple-star"],
                                         "variables": ["on-yellow"]}, "seed": 1, "count": 2},
    ],
    40: [
        {"kind": "text2img", "compose": {"pack": "shapes", "subjects": "all", "variables": "all"},
         "seed": 1, "count": 2},
        {**_ONE, "seed": 1, "count": 2},
    ],
}  # fmt: skip
"""The specs for each number of pictures."""


@dataclass(frozen=True)
class Round:
    """What both took in one round, in seconds."""

    script: float
    script_cpu: float
    submit: float
    drain: float
    drain_cpu: float


def pictures(specs: Sequence[Mapping[str, Any]], prompts: Path) -> list[tuple[str, int]]:
    """The prompt and the seed of every picture that these specs make."""
    found: list[tuple[str, int]] = []
    for spec in specs:
        if "compose" in spec:
            images = make_plan(spec, prompts).images()
            found += [(entry.prompt, int(fields.get("seed") or 0)) for entry, fields in images]
        else:
            realised = (image(spec, number, 0) for number in range(spec.get("count", 1)))
            found += [(str(each["prompt"]), int(each["seed"])) for each in realised]
    return found


def _timed(command: Sequence[str], cwd: Path) -> tuple[float, float]:
    """Seconds by the clock and of CPU time that a command takes, from nothing to its end."""
    # The CPU time of ended children is their parent's to ask for: a parent of its own for each.
    script = (
        "import resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=2)\n"
        "wall = time.perf_counter() - began\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(wall, used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=cwd, env=environment(),
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def by_script(size: int) -> tuple[float, float]:
    """What the script takes for so many pictures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        home = _home(root)
        wanted = pictures(_SIZES[size], home.prompts)
        assert len(wanted) == size
        (root / "list.json").write_text(json.dumps(wanted), encoding="utf-8")
        (root / "pictures").mkdir()
        weights = builtin_folder("text2img", home.data)
        command = [sys.executable, str(SCRIPT), str(weights), "list.json", "pictures"]
        taken = _timed(command, root)
        assert len(list((root / "pictures").iterdir())) == size
    return taken


def by_runner(size: int) -> tuple[float, tuple[float, float]]:
    """What `submit` takes for so many pictures, and what `drain` takes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        home = _home(root)
        names = []
        for number, spec in enumerate(_SIZES[size]):
            names.append(f"job-{number}.yaml")
            (root / names[-1]).write_bytes(to_yaml(spec))
        fluxdrop = [sys.executable, "-m", "runner"]
        submit, _ = _timed([*fluxdrop, "submit", *names], root)
        drain = _timed([*fluxdrop, "drain"], root)
        made = list(home.outbox.glob("job-*/job-*.png"))
        assert len(made) == size, f"{len(made)} of {size} pictures"
    return submit, drain


def _home(root: Path) -> Home:
    """A home with its weights on the disk, and nothing else."""
    make_home(root)
    home = Home(root)
    builtin_folder("text2img", home.data)
    return home


def measure(sizes: Sequence[int], rounds: int) -> dict[int, list[Round]]:
    """Let both take turns at every size; the first round only warms up."""
    found: dict[int, list[Round]] = {size: [] for size in sizes}
    for number in range(rounds + 1):
        for size in sizes if number else sizes[:1]:
            # Who goes first changes: what the one reads from the disk, the other finds in memory.
            if number % 2:
                script, (submit, drain) = by_script(size), by_runner(size)
            else:
                (submit, drain), script = by_runner(size), by_script(size)
            if number:
                found[size].append(Round(*script, submit, *drain))
    return found


def figures(turns: Sequence[Round]) -> dict[str, Spread]:
    """What both took at one size, and by how much ours came later and used more of the CPU."""
    found = {
        each.name: Spread.of([getattr(turn, each.name) for turn in turns]) for each in fields(Round)
    }
    return {
        **found,
        "later": Spread.of([turn.drain - turn.script for turn in turns]),
        "later_with_submit": Spread.of([t.submit + t.drain - t.script for t in turns]),
        "more_cpu": Spread.of([turn.drain_cpu - turn.script_cpu for turn in turns]),
    }


_SHOWN = {
    "script": "script",
    "fluxdrop drain": "drain",
    "fluxdrop submit, before it": "submit",
    "drain is later by": "later",
    "submit and drain, by": "later_with_submit",
    "CPU time, script": "script_cpu",
    "CPU time, drain": "drain_cpu",
    "drain uses more by": "more_cpu",
}


def main(argv: list[str]) -> int:
    """Measure and say whether the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench cold", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(_SIZES), default=list(_SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    measured = measure(options.sizes, 1 if options.quick else options.rounds)
    found = {size: figures(turns) for size, turns in measured.items()}
    table, goals = [], []
    for size, row in found.items():
        table.append(f"{size} pictures, {len(measured[size])} rounds, seconds:")
        table += [f"  {name:<28}{row[key]}" for name, key in _SHOWN.items()]
        bound = 0.0 if size >= FASTER_FROM else SLOWER
        name = f"later than the script, {size} pictures"
        goals.append(Goal(name, row["later"].middle, bound, at_least=False, unit=" s"))
    told = {size: {name: each.json() for name, each in row.items()} for size, row in found.items()}
    return shown(table, goals, {"pictures": told}, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
