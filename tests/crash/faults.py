"""One file at fault for ever: each operation on it is refused in turn, with each error that one
file can have by itself. The others go on, now and after a restart; mended, it goes on too.

The operations are those of the Disk, and the reading of files, refused by an audit hook.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from runner.settings import Home
from runner.spool.disk.disk import Disk, StrPath
from tests.crash import oracle
from tests.crash.scenario import (
    EDIT,
    SEEDED,
    SPEC,
    Expected,
    Point,
    Scenario,
    picture,
    play,
    prepare,
)

_NUMBERS = ("EPERM", "EACCES", "EIO", "EINVAL", "ENAMETOOLONG", "ESTALE", "EDEADLK")
_OK = ("succeeded",)
_ANY = ("succeeded", "failed", "cancelled", "rejected")
_PATIENCE_SECONDS = 60
_GOOD = {"a": Expected(_OK, seeds=(7,)), "z": Expected(_OK, seeds=(7,))}
_GOOD_DROPS = {"a.yaml": SEEDED.encode(), "z.yaml": SEEDED.encode()}

SCENARIOS = (
    Scenario(
        "a drop",
        {**_GOOD_DROPS, "odd.yaml": (SPEC + "seeds: {start: 5, count: 2}\n").encode()},
        {**_GOOD, "odd": Expected(_ANY, (0, 2))},
    ),
    Scenario(
        "an input",
        {**_GOOD_DROPS, "odd.png": picture(), "odd.yaml": (EDIT + "image: odd.png\n").encode()},
        {**_GOOD, "odd": Expected(_ANY, (0, 1))},
    ),
    Scenario(
        "control files",
        {**_GOOD_DROPS, "odd.yaml": SEEDED.encode(), "odd.cancel": b""},
        {**_GOOD, "odd": Expected(_ANY, (0, 1)), "odd-2": Expected(_ANY, (0, 1))},
        {("z", 1): "odd.retry"},
    ),
)
"""In each, all that is called `odd` is the file or the job at fault."""


class OneBadFile(Disk):
    """Refuses one operation on one file for ever, or keeps the operations on what is odd."""

    def __init__(self, root: Path, refused: tuple[str, str] | None, number: int = 0) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()
        self._root = root
        self._refused = refused
        self._number = number

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        # A file is written under a random name.
        self.ask(operation, details.get("target", path))

    def ask(self, operation: str, path: Any) -> None:
        """Refuse an operation if it is the one."""
        text = os.fsdecode(path)
        if "odd" not in text:
            return
        asked = (operation, os.path.relpath(text, self._root))
        self.seen.add(asked)
        if asked == self._refused:
            raise OSError(self._number, os.strerror(self._number), text)


_reading = threading.local()
_asked: list[OneBadFile] = []


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if event != "open" or not _asked or getattr(_reading, "now", False):
        return
    path, mode, flags = given
    if isinstance(path, (str, bytes)) and not flags & (os.O_WRONLY | os.O_RDWR):
        _reading.now = True
        try:
            _asked[-1].ask("read", path)
        finally:
            _reading.now = False


@contextmanager
def _asking(disk: OneBadFile) -> Iterator[None]:
    """Have the reading of files refused, too."""
    if not getattr(_hook, "added", False):
        sys.addaudithook(_hook)
        _hook.added = True  # type: ignore[attr-defined]
    _asked.append(disk)
    try:
        yield
    finally:
        _asked.pop()


def points(root: Path, *, most: int | None) -> Iterator[Point]:
    """Every operation on what is odd and every error, or a seeded choice of `most`."""
    draw = random.Random(7)
    every = []
    for scenario in SCENARIOS:
        home = prepare(scenario, root / "dry")
        disk = OneBadFile(home.root, None)
        with _asking(disk):
            play(scenario, home, disk)
        shutil.rmtree(home.root)
        every += [(scenario, each, name) for each in sorted(disk.seen) for name in _NUMBERS]
    chosen = every if most is None or most >= len(every) else draw.sample(every, most)
    for scenario, (operation, path), name in chosen:
        told = f"{scenario.name}: {operation} {path} gives {name} for ever"
        yield Point(told, _at, (scenario, (operation, path), name))


def _at(root: Path, scenario: Scenario, refused: tuple[str, str], name: str) -> list[str]:
    home = prepare(scenario, root / "home")
    disk = OneBadFile(home.root, refused, getattr(errno, name))
    found: list[str] = []
    with _impatient():
        with _asking(disk):
            for n in range(2):
                found += _others(scenario, home, disk, f"late{n}")
        play(scenario, home, Disk())
    found += oracle.faults(_excused(scenario, home, refused[0]), home)
    shutil.rmtree(home.root)
    return found


def _others(scenario: Scenario, home: Home, disk: Disk, late: str) -> list[str]:
    """What is wrong with the good jobs after one life of a runner."""
    (home.inbox / f"{late}.yaml").write_bytes(SEEDED.encode())
    play(scenario, home, disk)
    seen = oracle.published(home)
    states = {job: (seen.get(job) or {"state": "lost"})["state"] for job in (*_GOOD, late)}
    return [f"lost: {job} is {state}" for job, state in states.items() if state != "succeeded"]


def _excused(scenario: Scenario, home: Home, operation: str) -> Scenario:
    """The scenario, but that what could not be read need not be what the receipt has."""
    late = {f"late{n}": Expected(_OK, seeds=(7,)) for n in range(2)}
    jobs = {**scenario.jobs, **late}
    drops = dict(scenario.drops)
    if operation == "read":
        drops.pop("odd.yaml")
    if "odd-2" in jobs and not home.job("odd-2").exists():
        # Of what was rejected nothing is run again.
        del jobs["odd-2"]
    return replace(scenario, jobs=jobs, drops=drops)


@contextmanager
def _impatient() -> Iterator[None]:
    """Wait for nothing long, and for no play longer than a minute."""

    def give_up(*given: object) -> None:
        raise TimeoutError("the runner did not come to an end")

    with ExitStack() as patches:
        for place in ("daemon.recording._AGAIN_SECONDS", "spool.inbox.intake._AGAIN_SECONDS"):
            patches.enter_context(mock.patch(f"runner.{place}", 0.005))
        for place in ("settle._UNREADABLE_SECONDS", "control._UNKNOWN_SECONDS"):
            patches.enter_context(mock.patch(f"runner.spool.inbox.{place}", 0.2))
        before = signal.signal(signal.SIGALRM, give_up)
        signal.alarm(_PATIENCE_SECONDS)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
