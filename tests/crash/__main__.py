"""`python -m tests.crash [--short] [--only PART] [--jobs N]`: the table of what survived.

The parts: `kill` (the process ends), `power` (the machine does), `full` (a disk has no room),
`faults` (one file is refused for ever), `odd` (generated drops of every kind), and `night` (real
runners, killed at random moments)."""

from __future__ import annotations

import argparse
import collections
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash import faults, full, kill, night, odd, power
from tests.crash.scenario import Point

_SHORT = {"kill": 40, "power": 50, "full": 40, "faults": 40, "odd": 1, "night": 1}
_PARTS: dict[str, Callable[..., Iterator[Point]]] = {
    "kill": kill.points,
    "power": power.points,
    "full": full.points,
    "faults": faults.points,
    "odd": odd.points,
    "night": night.points,
}


def main(arguments: list[str]) -> int:
    """Play every point; 1 if anything was lost, twice, torn, wrong or illegal."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--short", action="store_true", help="a seeded selection of the points")
    parser.add_argument("--only", choices=_PARTS)
    parser.add_argument("--jobs", type=int, default=1, help="processes that try points")
    options = parser.parse_args(arguments)
    # They are lost by the hundred, as scenarios say.
    logging.getLogger("runner.daemon.worker").addFilter(lambda said: "the slot" not in said.msg)
    bad = 0
    for part, points in _PARTS.items():
        if options.only not in (None, part):
            continue
        began = time.monotonic()
        count, kinds = 0, collections.Counter[str]()
        with tempfile.TemporaryDirectory(dir=_memory()) as root:
            every = points(Path(root), most=_SHORT[part] if options.short else None)
            for name, wrong in _tried(every, Path(root), options.jobs):
                count += 1
                kinds.update(fault.split(":")[0] for fault in wrong)
                for fault in wrong:
                    print(f"{name}: {fault}")
        seconds = time.monotonic() - began
        totals = ", ".join(f"{kinds[k]} {k}" for k in ("lost", "twice", "torn", "wrong", "illegal"))
        print(f"{part}: {count} points in {seconds:.0f} s: {totals}", flush=True)
        bad += sum(kinds.values())
    return 1 if bad else 0


def _tried(points: Iterator[Point], root: Path, jobs: int) -> Iterator[tuple[str, list[str]]]:
    """The name of each point and what was wrong after it, as they come."""
    # Points hold whole disks: only as many are made as are soon tried.
    room = threading.Semaphore(4 * jobs)

    def taken() -> Iterator[tuple[Path, Point]]:
        for point in points:
            room.acquire()
            yield root, point

    with multiprocessing.get_context("fork").Pool(jobs, _let_start_processes) as pool:
        for result in pool.imap_unordered(_try, taken()):
            room.release()
            yield result


def _let_start_processes() -> None:
    """A pool's processes may have no children, but a runner that composes has one."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


def _try(asked: tuple[Path, Point]) -> tuple[str, list[str]]:
    root, point = asked
    folder = root / str(os.getpid())
    folder.mkdir()
    try:
        return point.name, point.faults(folder)
    except Exception as error:  # noqa: BLE001 it is one more thing that is wrong after this point
        return point.name, [f"wrong: {type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(folder)


def _memory() -> str | None:
    """Where nothing needs a disk: what is on it after a loss is worked out, not waited for."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
