"""`python -m tests.crash [--short] [--only kill|power]`: the table of what survived."""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash import kill, power

_SHORT = {"kill": 60, "power": 80}
_PARTS: dict[str, Callable[..., Iterator[tuple[str, list[str]]]]] = {
    "kill": kill.points,
    "power": power.points,
}


def main(arguments: list[str]) -> int:
    """Play every point; 1 if anything was lost, twice, torn, wrong or illegal."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--short", action="store_true", help="a seeded selection of the points")
    parser.add_argument("--only", choices=_PARTS)
    options = parser.parse_args(arguments)
    bad = 0
    for part, points in _PARTS.items():
        if options.only not in (None, part):
            continue
        began = time.monotonic()
        count, kinds = 0, collections.Counter[str]()
        with tempfile.TemporaryDirectory(dir=_memory()) as root:
            for name, faults in points(Path(root), most=_SHORT[part] if options.short else None):
                count += 1
                kinds.update(fault.split(":")[0] for fault in faults)
                for fault in faults:
                    print(f"{name}: {fault}")
        seconds = time.monotonic() - began
        totals = ", ".join(f"{kinds[k]} {k}" for k in ("lost", "twice", "torn", "wrong", "illegal"))
        print(f"{part}: {count} points in {seconds:.0f} s: {totals}", flush=True)
        bad += sum(kinds.values())
    return 1 if bad else 0


def _memory() -> str | None:
    """Where nothing needs a disk: what is on it after a loss is worked out, not waited for."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
