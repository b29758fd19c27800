"""Measures the gallery's index as it grows.

`python -m tests.bench gallery` prints a table, `--json` the figures alone; it ends with 1 if a goal
is missed. Inserts are measured one by one at full size. "cold" is a new process from its start to
the answer; memory is what that process holds before and after its first search.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from runner.gallery.search import search
from runner.gallery.store import Gallery

COMMON, HUNDREDTH, RAREST = "everywhere", "hundredth", "singular"
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


_ASK = (
    "from pathlib import Path\n"
    "from runner.gallery.search import search\n"
    "from runner.gallery.store import Gallery\n"
    "gallery = Gallery(Path(sys.argv[1]))\n"
    "before = held()\n"
    "total = search(gallery, sys.argv[2], limit=20)['total']\n"
    "print(before, held(), held('VmHWM'), total)"
)
_INSERTS = 1_000
_REPEATS = 15


def measure(folder: Path, size: int) -> Figures:
    """Everything about an index of one size."""
    gallery = Gallery(folder, writing=True)
    inserts = min(_INSERTS, size // 2)
    first = rows(0, size - inserts)
    while batch := list(islice(first, 1000)):
        gallery.add(*batch)
    times = sorted(_seconds(gallery.add, row) for row in rows(size - inserts, size))
    found: dict[str, Callable[[], object]] = {
        "word in 1 %, filtered": lambda: search(gallery, HUNDREDTH, kind="text2img")["rows"],
        "word in all": lambda: search(gallery, COMMON)["rows"],
        "rarest word": lambda: search(gallery, RAREST)["rows"],
        "get by id": lambda: gallery.get(next(rows(size // 3, size))["id"]),
    }
    figures: Figures = {
        "insert": 1000 * median(times),
        "insert p99": 1000 * quantiles(times, n=100, method="inclusive")[98],
    }
    for name, ask in found.items():
        assert ask(), name
        figures[name] = 1000 * median(_seconds(ask) for _ in range(_REPEATS))
    return figures | _cold(folder) | {"disk MiB": _size(folder)}


def main(argv: list[str]) -> int:
    """Measure and print; 1 if a goal of ours is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gallery", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="how many rows")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = parser.parse_args(argv)
    measured: dict[int, Figures] = {}
    for size in asked.rows:
        with tempfile.TemporaryDirectory(prefix="fluxdrop-bench-") as folder:
            measured[size] = measure(Path(folder), size)
    missed = [
        f"{name} at {size} rows: {figures[name]:.1f} ms, the goal is {goal:g} ms"
        for size, figures in measured.items()
        for name, goal in GOALS.items()
        if figures[name] > goal
    ]
    inserts = [figures["insert"] for figures in measured.values()]
    if max(inserts) > FLAT * min(inserts):
        missed.append(f"inserts are not flat: {min(inserts):.2f} to {max(inserts):.2f} ms")
    if asked.json:
        print(json.dumps({"measured": measured, "missed": missed}, indent=1))
    else:
        print(f"{'ms, median':<26}" + "".join(f"{size:>10,} rows" for size in measured))
        for name in measured[asked.rows[0]]:
            values = (figures[name] for figures in measured.values())
            print(f"{name:<26}" + "".join(f"{value:>15,.2f}" for value in values))
        print("\n".join(missed) or "every goal is met")
    return 1 if missed else 0


def _cold(folder: Path) -> Figures:
    command = [sys.executable, "-c", f"{_HELD}{_ASK}", str(folder), RAREST]
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


def rows(first: int, last: int) -> Iterator[dict[str, Any]]:
    """Rows as a bulk run makes them: forty words of a vocabulary with a few frequent ones."""
    return (_row(number) for number in range(first, last))


@cache
def _vocabulary() -> list[str]:
    chance = random.Random(0)
    return ["".join(chance.choices(string.ascii_lowercase, k=3 + n % 8)) for n in range(6000)]


def _row(number: int) -> dict[str, Any]:
    chance, known = random.Random(number), _vocabulary()
    said = [known[min(len(known) - 1, int(chance.paretovariate(0.6)))] for _ in range(40)]
    said.append(COMMON)
    said += [HUNDREDTH] if number % 100 == 0 else []
    said += [RAREST] if number == 77 else []
    job, stem = f"job{number // 100}", f"job{number // 100}-{number % 100:04}"
    day, second = divmod(number, 8000)
    return {
        "id": stem,
        "job": job,
        "index": number % 100,
        "file": f"outbox/{job}/{stem}.png",
        "sidecar": f"outbox/{job}/{stem}.json",
        "thumbnail": f"outbox/{job}/thumbs/{stem}.webp",
        "prompt": " ".join(said),
        "model": ("dev", "schnell", "tiny")[number % 3],
        "kind": "fill" if number % 7 == 3 else "text2img",
        "seed": chance.randrange(2**32),
        "tags": ["poster"],
        "pack": "lamps",
        "subject": f"subject {number % 20}",
        "variable": f"variable {number % 9}",
        "width": 1024,
        "height": 1024,
        "seconds": 3.2,
        "created_at": f"2026-11-{1 + day:02}T{second // 3600:02}:{second // 60 % 60:02}:00.000Z",
        "steps": 28,
        "guidance": 3.5,
    }
