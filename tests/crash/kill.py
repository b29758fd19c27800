"""Kill points: a process that dies at its n-th operation, then recovery, killed again or not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.spool.disk.disk import Disk, StrPath
from tests.crash import oracle
from tests.crash.scenario import SCENARIOS, Point, Scenario, home_of, play, prepare


class DyingDisk(Disk):
    """Counts operations, and ends the process without a word at one of them (never, for 0)."""

    def __init__(self, fatal: int) -> None:
        super().__init__()
        self.count = 0
        self._fatal = fatal
        self._lock = threading.Lock()

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        with self._lock:
            self.count += 1
            if self.count != self._fatal:
                return
            if operation == "write":
                # A kill in the middle of a write leaves a part of it.
                Path(path).write_bytes(details["data"][: len(details["data"]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(scenario: Scenario, root: Path, fatal: int) -> int | None:
    """Play in a process of its own; the number of operations, or None if it was killed."""
    counted = root.parent / "count"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            disk = DyingDisk(fatal)
            play(scenario, home_of(root), disk)
            counted.write_text(str(disk.count), encoding="ascii")
            code = 0
        except BaseException:  # noqa: BLE001 the child's end has to be told, whatever it was
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"the child died of {status}"
        return None
    assert os.WEXITSTATUS(status) == 0, f"the child failed at operation {fatal} of {scenario.name}"
    return int(counted.read_text(encoding="ascii"))


def points(root: Path, *, most: int | None) -> Iterator[Point]:
    """Every kill point, or a seeded choice of `most`."""
    draw = random.Random(11)
    every = []
    for scenario in SCENARIOS:
        home = root / "dry"
        prepare(scenario, home)
        operations = in_child(scenario, home, 0)
        assert operations is not None
        assert not oracle.faults(scenario, home_of(home)), oracle.faults(scenario, home_of(home))
        shutil.rmtree(home)
        every += [(scenario, fatal) for fatal in range(1, operations + 1)]
    chosen = every if most is None or most >= len(every) else draw.sample(every, most)
    for scenario, fatal in chosen:
        again = draw.choice((0, draw.randint(1, 40)))
        name = f"{scenario.name}, killed at {fatal}, then at {again}"
        yield Point(name, _at, (scenario, fatal, again))


def _at(root: Path, scenario: Scenario, fatal: int, again: int) -> list[str]:
    home = prepare(scenario, root / "home")
    found = []
    in_child(scenario, home.root, fatal)
    seen = oracle.published(home)
    if again:
        in_child(scenario, home.root, again)
        later = oracle.published(home)
        found += oracle.faults_between(seen, later)
        seen = later
    in_child(scenario, home.root, 0)
    found += oracle.faults_between(seen, oracle.published(home))
    found += oracle.faults(scenario, home)
    shutil.rmtree(home.root)
    return found
