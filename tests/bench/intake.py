"""Measures how fast specs become jobs, and what memory that takes, beside queues that keep files.

`python -m tests.bench intake [--sizes N…] [--rounds N] [--json]`. So many specs lie in the inbox of
a paused home; the clock runs until all are jobs: on the disk, each with its folder, spec, status
and receipt, and its file gone. Beside it, huey's file and SQLite storage and persist-queue are the
queue inside the same thing, written as well as their interfaces allow: the same reading, judging
and files, in batches of the same size, as durably. Contestants take turns, each in a process of
its own. `pip install huey persist-queue` first; without them only this runner is measured.

All homes are kept until the last is measured: a file system that has just lost so many files can be
several times slower for minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from runner.catalogue import RegistryCatalogue
from runner.clock import timestamp
from runner.daemon.daemon import Daemon
from runner.settings import Home, Settings
from runner.spool.disk.disk import Disk, StrPath
from runner.spool.disk.platform import signature_of
from runner.spool.inbox.acknowledge import TAKEN_PREFIX
from runner.spool.inbox.assess import assess
from runner.spool.inbox.settle import Drop
from runner.spool.store.names import PAUSE_NAME, id_from_file, is_spec, natural_order
from runner.spool.store.outbox import to_json
from runner.wire import Receipt
from tests.spool.device import FlatColours

GOAL_RATE, GOAL_MIB = 1000.0, 200.0
FLAT = 0.8
"""Every size must reach this part of the rate of every smaller one."""
SPEC = b"""kind: text2img
model: tiny
prompt: a red circle on a blue background, number %d, in the manner of a woodcut
seed: %d
tags: [night, circles]
...
"""
_BATCH = 256
Enqueue = Callable[[bytes], object]


class Clock:
    """Notes when each tenth of the specs had been taken."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self.tenths = [time.perf_counter()]

    def tick(self) -> None:
        """One more spec is a job and its file is gone."""
        self._done += 1
        if self._done * 10 >= self._total * len(self.tenths):
            self.tenths.append(time.perf_counter())


class ClockedDisk(Disk):
    """A disk that tells the clock of every file that leaves the inbox."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        if operation == "remove" and os.path.basename(path).startswith(TAKEN_PREFIX):
            self._clock.tick()


def fluxdrop(home: Home, clock: Clock) -> None:
    """This runner, whole, with a device that is never asked for anything."""
    with Daemon(home, FlatColours(), disk=ClockedDisk(clock)) as daemon:
        while any(is_spec(name) for name in os.listdir(home.inbox)):
            scans = daemon.intake.scans
            while daemon.intake.scans == scans:
                daemon.step(0.05)


def huey_files(home: Home, clock: Clock) -> None:
    """huey's FileStorage; its files reach the disk with those of the batch."""
    from huey.storage import FileStorage

    _around(FileStorage("bench", str(home.data / "huey")).enqueue, home, clock)


def huey_sqlite(home: Home, clock: Clock) -> None:
    """huey's SqliteStorage; every enqueue is a synced commit."""
    from huey.storage import SqliteStorage

    queue = SqliteStorage("bench", str(home.data / "huey.db"), fsync=True, strict_fifo=True)
    _around(queue.enqueue, home, clock)


def persist_queue(home: Home, clock: Clock) -> None:
    """persist-queue's SQLiteQueue; every put is a synced commit."""
    from persistqueue import SQLiteQueue

    queue = SQLiteQueue(str(home.data / "persist-queue"), auto_commit=True)
    assert queue._putter.execute("PRAGMA synchronous").fetchone() == (2,)
    _around(queue.put, home, clock)


CONTESTANTS: dict[str, Callable[[Home, Clock], None]] = {
    "fluxdrop": fluxdrop,
    "huey, files": huey_files,
    "huey, SQLite": huey_sqlite,
    "persist-queue": persist_queue,
}


def _around(enqueue: Enqueue, home: Home, clock: Clock) -> None:
    """What a careful author would write around a queue: read, judge, enqueue, publish, remove."""
    disk, catalogue = Disk(), RegistryCatalogue(home.settings)
    disk.make_folder(home.drops)
    names = sorted((n for n in os.listdir(home.inbox) if is_spec(n)), key=natural_order)
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        specs, statuses, receipts = [], [], []
        for name in batch:
            with (home.inbox / name).open("rb") as file:
                signature = signature_of(os.fstat(file.fileno()))
                drop = Drop(name, file.read(), signature)
            verdict = assess(drop.data, drop.name, home, catalogue)
            assert verdict.reason is None
            job = id_from_file(name)
            enqueue(pickle.dumps((job, drop.data, dict(verdict.realised))))
            folder = home.job(job)
            folder.mkdir()
            specs.append((folder / "spec.yaml", drop.data))
            status = _status(job, drop, verdict.realised, verdict.total)
            statuses.append((folder / "status.json", to_json(status)))
            receipt = Receipt(
                schema=1, name=name, sha256=drop.sha256, job=job, outcome="accepted", at=timestamp()
            )
            receipts.append((home.drops / f"{name}.json", to_json(receipt)))
        disk.replace_many([*specs, *statuses, *receipts], also=home.outbox)
        for name in batch:
            (home.inbox / name).unlink()
            clock.tick()
        disk.sync_folder(home.inbox)


def _status(job: str, drop: Drop, spec: Any, total: int) -> dict[str, Any]:
    """A status as long as this runner's."""
    now = timestamp()
    return {
        "schema": 1, "id": job, "kind": spec["kind"], "model": spec["model"], "state": "queued",
        "reason": None, "message": None, "revision": 1, "attempt": 0, "priority": 0,
        "tags": spec["tags"],
        "source": {"name": drop.name, "sha256": drop.sha256, "bytes": drop.size},
        "accepted_at": now, "started_at": None, "finished_at": None, "updated_at": now,
        "images": {"total": total, "done": 0, "failed": 0, "skipped": 0}, "progress": None,
        "errors": [], "warnings": [], "outputs": [],
    }  # fmt: skip


def child(name: str, root: Path, size: int) -> dict[str, float]:
    """Take what lies in a home, in this process; what it took."""
    home = Home(root, Settings())
    clock = Clock(size)
    began = time.process_time()
    CONTESTANTS[name](home, clock)
    seconds, last = time.process_time() - began, clock.tenths
    receipts = sum(1 for _ in os.scandir(home.drops))
    statuses = sum(1 for _ in home.outbox.glob("*/status.json"))
    assert (receipts, statuses) == (size, size), f"{name}: {receipts} receipts, {statuses} statuses"
    assert "torch" not in sys.modules
    return {
        "rate": size / (last[-1] - last[0]),
        # A tenth must be many batches to be a rate.
        "last_tenth": size / 10 / (last[-1] - last[-2]) if size >= 50 * _BATCH else 0.0,
        "cpu_us": seconds / size * 1e6,
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not say how much memory a process had at most")


def _round(name: str, size: int, folder: str) -> dict[str, float]:
    """A fresh home with so many specs, and a process that takes them."""
    root = tempfile.mkdtemp(dir=folder)
    home = Home(Path(root), Settings())
    home.prepare()
    (home.inbox / PAUSE_NAME).touch()
    for number in range(size):
        (home.inbox / f"job{number}.yaml").write_bytes(SPEC % (number, number))
    os.sync()
    command = [sys.executable, "-m", __spec__.name, "--child", name, root, str(size)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    result: dict[str, float] = json.loads(said)
    return result


def measure(sizes: list[int], rounds: int | None, folder: str) -> list[dict[str, Any]]:
    """Let the contestants take turns at every size, in homes in `folder`; a row for each pair."""
    names = [name for name in CONTESTANTS if name == "fluxdrop" or has_queues()]
    rows = []
    for size in sorted(sizes):
        times = rounds or max(1, min(5, 30_000 // size))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(times):
            for name in names:
                found[name].append(_round(name, size, folder))
        for name, each in found.items():
            rates = sorted(one["rate"] for one in each)
            rows.append({
                "waiting": size, "contestant": name, "rounds": times,
                "rate": round(median(rates)), "slowest": round(rates[0]),
                "fastest": round(rates[-1]),
                "last_tenth": round(median(one["last_tenth"] for one in each)),
                "cpu_us": round(median(one["cpu_us"] for one in each)),
                "peak_mib": round(max(one["peak_mib"] for one in each), 1),
            })  # fmt: skip
    return rows


def has_queues() -> bool:
    """Whether the other queues are installed; says so where they are not."""
    try:
        import huey  # noqa: F401
        import persistqueue  # noqa: F401
    except ImportError:
        print("huey and persist-queue are not installed: measuring alone", file=sys.stderr)
        return False
    return True


def main(argv: list[str]) -> int:
    """Measure and say whether the goal is met: rate, the same at every size, and memory."""
    if argv[:1] == ["--child"]:
        print(json.dumps(child(argv[1], Path(argv[2]), int(argv[3]))))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.bench intake", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, help="of every size; by default fewer of the large")
    parser.add_argument("--folder", type=Path, help="where the homes are made: on a real disk")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(options.sizes, options.rounds, folder)
    ours = [row for row in rows if row["contestant"] == "fluxdrop"]
    rates, peak = [row["rate"] for row in ours], max(row["peak_mib"] for row in ours)
    flat = all(rate >= FLAT * max(rates[: n + 1]) for n, rate in enumerate(rates))
    met = min(rates) >= GOAL_RATE and flat and peak < GOAL_MIB
    if options.json:
        print(json.dumps({"rows": rows, "goal_met": met}))
        return 0 if met else 1
    print(
        f"{'waiting':>8} {'':<14}{'specs/s':>8}  {'spread':>13}{'last tenth':>12}"
        f"{'CPU µs each':>13}{'peak MiB':>10}"
    )
    for row in rows:
        spread = f"{row['slowest']} to {row['fastest']}"
        print(
            f"{row['waiting']:>8} {row['contestant']:<14}{row['rate']:>8}  {spread:>13}"
            f"{row['last_tenth'] or '-':>12}{row['cpu_us']:>13}{row['peak_mib']:>10}"
        )
    print(
        f"goal: {GOAL_RATE:.0f} specs a second, at least {FLAT:.0%} of the rate of every smaller "
        f"size, below {GOAL_MIB:.0f} MiB: {'met' if met else 'missed'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
