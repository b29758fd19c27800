"""A full disk: at the n-th operation that needs room there is none, for a while or for longer.

The same process goes on, or is started again where it could not start. In the end all is there but
the images that no room was found for: those have failed, and their jobs say `DiskFull`.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from runner.errors import DiskFull, LedgerUnusable
from runner.settings import Home
from runner.spool.disk.disk import Disk, StrPath
from tests.crash import oracle
from tests.crash.scenario import SCENARIOS, Expected, Point, Scenario, play, prepare
from tests.spool.faulty import sqlite_full

_NEED_ROOM = {"write", "sync", "sync_folder", "sync_file_system", "rename", "make_folder", "commit"}
_NEED_ROOM |= {"statement", "copy"}
# Over by the next try, after several, after most that a small job does has been refused.
_REFUSALS = (1, 4, 16)
_WAITS = ("runner.daemon.recording", "runner.spool.inbox.intake")


class FullDisk(Disk):
    """Refuses so many of the operations that need room, from the n-th on (never, for 0)."""

    def __init__(self, first: int, refusals: int) -> None:
        super().__init__()
        self.count = 0
        self._first = first
        self._refusals = refusals
        self._lock = threading.Lock()

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation not in _NEED_ROOM:
            return
        with self._lock:
            self.count += 1
            if not 0 < self._first <= self.count < self._first + self._refusals:
                return
        if operation in ("commit", "statement", "copy"):
            raise sqlite_full()
        if operation == "write":
            # What fitted is there.
            Path(path).write_bytes(details["data"][: len(details["data"]) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def points(root: Path, *, most: int | None) -> Iterator[Point]:
    """Every operation and every length of the shortage, or a seeded choice of `most`."""
    draw = random.Random(3)
    every = []
    for scenario in SCENARIOS:
        home = prepare(scenario, root / "dry")
        disk = FullDisk(0, 0)
        play(scenario, home, disk)
        shutil.rmtree(home.root)
        operations = range(1, disk.count + 1)
        every += [(scenario, first, refusals) for first in operations for refusals in _REFUSALS]
    chosen = every if most is None or most >= len(every) else draw.sample(every, most)
    for scenario, first, refusals in chosen:
        name = f"{scenario.name}, no room at {first} and {refusals} times in all"
        yield Point(name, _at, (scenario, first, refusals))


def _at(root: Path, scenario: Scenario, first: int, refusals: int) -> list[str]:
    home = prepare(scenario, root / "home")
    disk = FullDisk(first, refusals)
    with ExitStack() as patches:
        for module in _WAITS:
            patches.enter_context(mock.patch(f"{module}._AGAIN_SECONDS", 0.005))
        for _ in range(refusals + 1):
            try:
                play(scenario, home, disk)
                break
            except (DiskFull, LedgerUnusable):
                # It could not start: whoever keeps it running starts it again.
                continue
    # What was decided while there was no room for saying so is said at the next start.
    play(scenario, home, Disk())
    found = oracle.faults(_excused(scenario, home), home)
    shutil.rmtree(home.root)
    return found


def _excused(scenario: Scenario, home: Home) -> Scenario:
    """The scenario, but that jobs may have failed for want of room, or of such a job's picture."""
    seen = oracle.published(home)
    jobs = {}
    for job, expected in scenario.jobs.items():
        reason = (seen.get(job) or {}).get("reason")
        heads = [s for s in seen.values() if s and s["reason"] == DiskFull.reason]
        if reason == DiskFull.reason or (reason == "InputMissing" and heads):
            expected = Expected(("failed",), (0, expected.pictures[1] - 1))
        jobs[job] = expected
    return replace(scenario, jobs=jobs)
