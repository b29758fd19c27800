"""Power loss: every disk that could be left after an operation, and a real recovery on each.

The operations of a run are recorded with their data. At a point in that record some have been
synced; of the others any subset may have reached the disk: a name may be there or not, the bytes
behind it whole, cut in half, or missing. Commits of the ledger reach it in their order. The subsets
are exhausted up to 2^12 a point, else 4,096 are drawn from a seed. What is left of files that were
being written aside is drawn for every state and makes no state of its own: recovery sweeps it away
by its name and nobody reads it. What callers write is theirs to sync, and is taken as synced.
Whatever is left of a picture has the time with which the ledger counted it.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.settings import Home
from runner.spool.disk.disk import TEMPORARY_SUFFIX, Disk, StrPath
from runner.spool.inbox.acknowledge import TAKEN_PREFIX
from runner.spool.store.migrations import LATEST
from tests.crash import oracle
from tests.crash.scenario import SCENARIOS, Point, Scenario, furnish, home_of, play, prepare

_EXHAUSTIVE = 12
_SAMPLES = 4096
LEDGER = "data/ledger.sqlite"


@dataclass(frozen=True)
class Operation:
    """One recorded operation; paths are relative to the home."""

    name: str
    path: str
    old: str = ""
    data: bytes = b""
    durable: bool = False


class RecordingDisk(Disk):
    """Records every operation just before it happens, and the ledger just after each commit."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._lock = threading.Lock()
        self.operations: list[Operation] = []
        self.written: dict[str, int] = {}

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "commit":
            return
        old = details.get("old")
        self.add(
            Operation(operation, self._short(path), self._short(old) if old else "",
                   details.get("data", b""))
        )  # fmt: skip

    def commit(self, connection: sqlite3.Connection, path: Path, *, durable: bool) -> None:
        super().commit(connection, path, durable=durable)
        self.add(Operation("commit", LEDGER, data=connection.serialize(), durable=durable))

    def appeared(self, path: Path, modified: int) -> None:
        """A caller puts an empty file there."""
        self.written[path.name] = modified
        self.add(Operation("caller", self._short(path)))

    def add(self, operation: Operation) -> None:
        """Append to the record."""
        with self._lock:
            self.operations.append(operation)

    def _short(self, path: StrPath) -> str:
        return Path(path).relative_to(self._root).as_posix()


@dataclass
class _Drive:
    """What is surely on the disk, and the operations that may or may not be."""

    names: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    ledger: bytes = b""
    loose_names: list[tuple[str, int | None]] = field(default_factory=list)
    loose_contents: set[int] = field(default_factory=set)
    loose_ledgers: list[bytes] = field(default_factory=list)
    now: dict[str, int] = field(default_factory=dict)

    def apply(self, operation: Operation) -> None:
        """Take one operation into account."""
        match operation.name:
            case "write":
                inode = len(self.contents) + 1
                self.contents[inode] = operation.data
                self.loose_contents.add(inode)
                self._name(operation.path, inode)
            case "caller":
                inode = len(self.contents) + 1
                self.contents[inode] = b""
                self.now[operation.path] = self.names[operation.path] = inode
            case "sync":
                self.loose_contents.discard(self.now.get(operation.path, 0))
            case "rename" | "rename_to_free":
                moved = self.now.get(operation.old)
                if moved is not None:
                    self._name(operation.path, moved)
                    self._name(operation.old, None)
            case "remove":
                self._name(operation.path, None)
            case "remove_tree":
                for path in [p for p in self.now if p.startswith(f"{operation.path}/")]:
                    self._name(path, None)
            case "sync_folder":
                # Names in it, and the folder's own way down: an entry needs its folders.
                self._settle(lambda path: path.rpartition("/")[0] == operation.path)
            case "sync_file_system":
                self._settle(lambda path: True)
                self.loose_contents.clear()
            case "commit":
                self.loose_ledgers.append(operation.data)
                if operation.durable:
                    self.ledger = operation.data
                    self.loose_ledgers.clear()

    def _name(self, path: str, inode: int | None) -> None:
        self.loose_names.append((path, inode))
        if inode is None:
            self.now.pop(path, None)
        else:
            self.now[path] = inode

    def _settle(self, synced: Any) -> None:
        for path, inode in self.loose_names:
            if synced(path):
                _set(self.names, path, inode)
        self.loose_names = [each for each in self.loose_names if not synced(each[0])]

    @property
    def doubts(self) -> int:
        """How many yes-or-no questions the state after a power loss has here."""
        names, contents = self._asked()
        return len(names) + len(contents) + len(self.loose_ledgers)

    def _asked(self) -> tuple[list[tuple[str, int | None]], list[int]]:
        """The names and the contents that are asked about."""
        names = [each for each in self.loose_names if not _is_aside(each[0])]
        there = [inode for path, inode in self.names.items() if not _is_aside(path)]
        reachable = {*there, *(inode for _, inode in names if inode is not None)}
        return names, sorted(self.loose_contents & reachable)

    def after_loss(
        self, answers: tuple[bool, ...], draw: random.Random
    ) -> tuple[dict[str, bytes], bytes]:
        """The files and the ledger that these answers leave; asides are left or not by chance."""
        asked, doubtful = self._asked()
        kept, whole, commits = _split(answers, len(asked), len(doubtful))
        names, answer = dict(self.names), iter(kept)
        for path, inode in self.loose_names:
            if draw.random() < 0.5 if _is_aside(path) else next(answer):
                _set(names, path, inode)
        torn = {inode for inode, is_whole in zip(doubtful, whole, strict=True) if not is_whole}
        torn |= {i for i in self.loose_contents.difference(doubtful) if draw.random() < 0.5}
        files = {
            path: self.contents[inode][: len(self.contents[inode]) // 2]
            if inode in torn
            else self.contents[inode]
            for path, inode in names.items()
        }
        # The log of the ledger ends somewhere: commits survive in their order.
        survived = list(itertools.takewhile(bool, commits))
        ledger = self.loose_ledgers[len(survived) - 1] if survived else self.ledger
        return files, ledger


def _is_aside(path: str) -> bool:
    return path.endswith(TEMPORARY_SUFFIX)


def _split(
    answers: tuple[bool, ...], first: int, second: int
) -> tuple[tuple[bool, ...], tuple[bool, ...], tuple[bool, ...]]:
    return answers[:first], answers[first : first + second], answers[first + second :]


def _set(names: dict[str, int], path: str, inode: int | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode


def points(root: Path, *, most: int | None) -> Iterator[Point]:
    """Every disk after every operation of every scenario, or a seeded choice of `most`."""
    draw = random.Random(5)
    every = (state for scenario in SCENARIOS for state in _states(scenario, root, draw, most))
    if most is not None:
        some = list(every)
        every = iter(draw.sample(some, min(most, len(some))))
    for scenario, point, *left in every:
        yield Point(f"{scenario.name}, power lost after operation {point}", _at, (scenario, *left))


State = tuple[Scenario, int, dict[str, bytes], bytes, dict[str, int]]


def _states(
    scenario: Scenario, root: Path, draw: random.Random, most: int | None
) -> Iterator[State]:
    home = prepare(scenario, root / "recorded")
    drive = _Drive()
    written = {path.name: path.stat().st_mtime_ns for path in home.inbox.iterdir()}
    for path in filter(Path.is_file, home.root.rglob("*")):
        name = path.relative_to(home.root).as_posix()
        if name == LEDGER:
            drive.ledger = path.read_bytes()
        else:
            drive.apply(Operation("caller", name))
            drive.contents[drive.now[name]] = path.read_bytes()
    disk = RecordingDisk(home.root)
    play(scenario, home, disk, appeared=disk.appeared)
    assert not oracle.faults(scenario, home), oracle.faults(scenario, home)
    shutil.rmtree(home.root)
    written |= disk.written
    seen: set[int] = set()
    for point, operation in enumerate(disk.operations, start=1):
        drive.apply(operation)
        for answers in _answers(drive.doubts, draw, most):
            files, ledger = drive.after_loss(answers, draw)
            kept = frozenset(each for each in files.items() if not _is_aside(each[0]))
            state = hash((kept, ledger))
            if state not in seen:
                seen.add(state)
                yield scenario, point, files, ledger, written


def _answers(doubts: int, draw: random.Random, most: int | None) -> Iterator[tuple[bool, ...]]:
    if doubts <= (_EXHAUSTIVE if most is None else 5):
        yield from itertools.product((True, False), repeat=doubts)
        return
    for _ in range(_SAMPLES if most is None else 32):
        yield tuple(draw.random() < 0.5 for _ in range(doubts))


def _at(
    root: Path,
    scenario: Scenario,
    files: dict[str, bytes],
    ledger: bytes,
    written: dict[str, int],
) -> list[str]:
    home = home_of(root / "home")
    home.prepare()
    furnish(scenario, home)
    for name, data in files.items():
        path = home.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if _is_aside(name):
            # From before the machine was started again.
            os.utime(path, (0, 0))
        modified = written.get(path.name.removeprefix(TAKEN_PREFIX))
        if modified is not None and name.startswith("inbox/"):
            os.utime(path, ns=(modified, modified))
    if ledger:
        (home.root / LEDGER).write_bytes(ledger)
        query = "SELECT id, output, mtime_ns FROM image JOIN job USING (seq) WHERE mtime_ns > 0"
        for job, output, modified in _asked_of_ledger(home, query):
            picture = home.job(job) / json.loads(output)["file"]
            if picture.exists():
                os.utime(picture, ns=(modified, modified))
    for name in scenario.appearing.values():
        # The caller's own write survives with the record, so it is not made again.
        if f"inbox/{name}" in files or _was_obeyed(home, name):
            (home.data / f"appeared-{name}").touch()
    seen = oracle.published(home)
    play(scenario, home, Disk())
    found = oracle.faults_between(
        {job: status for job, status in seen.items() if status is not None}, oracle.published(home)
    )
    found += oracle.faults(scenario, home)
    shutil.rmtree(home.root)
    return found


def _was_obeyed(home: Home, name: str) -> bool:
    """Whether the ledger knows of this control file."""
    query = "SELECT 1 FROM job WHERE source_name = ? OR cancel_at IS NOT NULL"
    return bool(_asked_of_ledger(home, query, name))


def _asked_of_ledger(home: Home, query: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a query; none where power went while the ledger was being made or migrated."""
    if not (home.root / LEDGER).exists():
        return []
    with closing(sqlite3.connect(home.root / LEDGER)) as connection:
        if connection.execute("PRAGMA user_version").fetchone()[0] < LATEST:
            return []
        return connection.execute(query, values).fetchall()
