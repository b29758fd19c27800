"""Measures the gallery's index beside plain TinyDB and SQLite with FTS5, on the same rows.

`python -m tests.bench gallery` prints a table, `--json` the figures alone; it ends with 1 if a goal
is missed. Inserts are measured one by one at full size. "cold" is a new process from its start to
the answer; memory is what that process holds before and after its first search.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

from tests.gallery.contenders import COMMON, CONTENDERS, HUNDREDTH, RAREST, Contender, Ours, rows

Figures = dict[str, float]
SIZES = (1_000, 10_000, 100_000)
# How much slower an insert may be in the largest gallery than in the smallest, in all noise.
FLAT = 4.0
# Milliseconds, at any size measured.
GOALS = {
    "insert": 5.0,
    "word in 1 %, filtered": 50.0,
    "word in all": 50.0,
    "rarest word": 200.0,
    "get by id": 1.0,
    "cold": 1500.0,
}


_HELD = (
    "import sys\n"
    "def held(what='RssAnon'):\n"
    "    try:\n"
    "        with open('/proc/self/status', encoding='ascii') as file:\n"
    "            (line,) = (line for line in file if line.startswith(what + ':'))\n"
    "        return int(line.split()[1]) / 1024\n"
    "    except (OSError, ValueError):\n"
    "        return float('nan')\n"
)


def measure(contender: Contender, size: int) -> Figures:
    """Everything about one contender at one size."""
    inserts = min(contender.most_inserts, size // 2)
    contender.fill(rows(0, size - inserts))
    times = sorted(_seconds(contender.insert, row) for row in rows(size - inserts, size))
    found = {
        "word in 1 %, filtered": lambda: contender.find(HUNDREDTH, "text2img"),
        "word in all": lambda: contender.find(COMMON),
        "rarest word": lambda: contender.find(RAREST),
        "get by id": lambda: contender.get(next(rows(size // 3, size))["id"]),
    }
    figures: Figures = {
        "insert": 1000 * median(times),
        "insert p99": 1000 * quantiles(times, n=100, method="inclusive")[98],
    }
    for name, ask in found.items():
        assert ask(), name
        figures[name] = 1000 * median(_seconds(ask) for _ in range(contender.repeats))
    return figures | _cold(contender) | {"disk MiB": _size(contender.folder)}


def main(argv: list[str]) -> int:
    """Measure and print; 1 if a goal of ours is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gallery", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="how many rows")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = parser.parse_args(argv)
    measured: dict[str, dict[str, Figures]] = {}
    for size in asked.rows:
        for kind in CONTENDERS:
            with tempfile.TemporaryDirectory(prefix="fluxdrop-bench-") as folder:
                contender = kind(Path(folder))
                try:
                    measured.setdefault(kind.name, {})[str(size)] = measure(contender, size)
                finally:
                    contender.close()
    missed = [
        f"{name} at {size} rows: {figures[name]:.1f} ms, the goal is {goal:g} ms"
        for size, figures in measured[Ours.name].items()
        for name, goal in GOALS.items()
        if figures[name] > goal
    ]
    inserts = [figures["insert"] for figures in measured[Ours.name].values()]
    if max(inserts) > FLAT * min(inserts):
        missed.append(f"inserts are not flat: {min(inserts):.2f} to {max(inserts):.2f} ms")
    if asked.json:
        print(json.dumps({"measured": measured, "missed": missed}, indent=1))
    else:
        _print_table(measured)
        print("\n".join(missed) or "every goal is met")
    return 1 if missed else 0


def _print_table(measured: dict[str, dict[str, Figures]]) -> None:
    columns = [(name, size) for size in measured[Ours.name] for name in measured]
    print(" " * 26 + "".join(f"{name:>16}" for name, _ in columns))
    print(f"{'ms, median':<26}" + "".join(f"{int(size):>10,} rows" for _, size in columns))
    for figure in measured[Ours.name][columns[0][1]]:
        values = (measured[name][size][figure] for name, size in columns)
        print(f"{figure:<26}" + "".join(f"{value:>16,.2f}" for value in values))


def _cold(contender: Contender) -> Figures:
    script = f"{_HELD}{contender.cold}print(before, held(), held('VmHWM'), total)"
    command = [sys.executable, "-c", script, str(contender.folder), RAREST]
    times, said = [], b""
    for _ in range(3):
        started = time.perf_counter()
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        times.append(time.perf_counter() - started)
    before, after, peak, total = said.split()
    assert int(total) == 1
    return {
        "cold": 1000 * median(times),
        "MiB before searching": float(before),
        "MiB of the first search": float(after) - float(before),
        "MiB at the highest": float(peak),
    }


def _seconds(act: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    act(*arguments)
    return time.perf_counter() - started


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
