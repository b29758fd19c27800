"""Measures jobs a second through the whole spool around a pipeline that does nothing.

`python -m tests.bench overhead [--sizes N…] [--quick] [--json]`. So many specs lie in the inbox;
it is over when all jobs have succeeded: taken, each with its folder, picture, thumbnail, sidecar,
contact sheet and final status on the disk. Beside it, huey's file and SQLite storage and
persist-queue are the queue, with a task that publishes the same files as durably (they keep no
gallery, no running order and no page of the latest jobs). One picture a job, one flat colour.
Contestants take turns of a second. `pip install huey persist-queue` first; without them only this
runner is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.cli.init import make_home
from runner.settings import Home, Settings
from tests.bench.figures import Goal, Spread, shown
from tests.bench.intake import CONTESTANTS, SPEC, Clock, has_queues
from tests.bench.loop import Marking
from tests.bench.turns import Contestant, Run, Stage, take_turns

GOAL_RATE, GOAL_CPU, GOAL_MIB = 0.8, 1.25, 16.0
SIZES = (100, 1000, 5000)
OURS = "fluxdrop"

Dequeue = Callable[[], bytes | None]


# -- contestants ---------------------------------------------------------------------------------


def fluxdrop(stage: Stage, *, root: Path, jobs: int) -> dict[str, Any]:
    """This runner, whole, with a device that answers at once."""
    from runner.daemon.daemon import Daemon
    from tests.spool.device import FlatColours

    device = FlatColours()
    device.events = Marking(stage)
    stage.ready()
    with Daemon(Home(root, Settings()), device) as daemon:
        outcome = daemon.drain()
        stage.done()
    assert outcome.counts["succeeded"] == jobs, outcome
    return peak_memory()


def rival(stage: Stage, *, root: Path, jobs: int, queue: str) -> dict[str, Any]:
    """Another queue: take every spec as the bench of the intake does, then run every task."""
    home = Home(root, Settings())
    dequeue = _QUEUES[queue]
    stage.ready()
    CONTESTANTS[queue](home, Clock(jobs))
    for number in _run_all(dequeue(home), home):
        stage.mark()
        done = number
    stage.done()
    assert done == jobs, done
    return peak_memory()


def _huey_files(home: Home) -> Dequeue:
    from huey.storage import FileStorage

    return FileStorage("bench", str(home.data / "huey")).dequeue  # type: ignore[no-any-return]


def _huey_sqlite(home: Home) -> Dequeue:
    from huey.storage import SqliteStorage

    file = str(home.data / "huey.db")
    return SqliteStorage("bench", file, fsync=True, strict_fifo=True).dequeue  # type: ignore[no-any-return]


def _persist_queue(home: Home) -> Dequeue:
    from persistqueue import Empty, SQLiteQueue

    queue = SQLiteQueue(str(home.data / "persist-queue"), auto_commit=True)

    def get() -> bytes | None:
        try:
            return queue.get(block=False)  # type: ignore[no-any-return]
        except Empty:
            return None

    return get


_QUEUES: dict[str, Callable[[Home], Dequeue]] = {
    "huey, files": _huey_files,
    "huey, SQLite": _huey_sqlite,
    "persist-queue": _persist_queue,
}


def _run_all(dequeue: Dequeue, home: Home) -> Iterator[int]:
    number = 0
    while (data := dequeue()) is not None:
        job, _, spec = pickle.loads(data)
        publish(job, spec, home)
        number += 1
        yield number


def publish(job: str, spec: Mapping[str, Any], home: Home) -> None:
    """What a careful author would write as the task: the same files, as durably, in the same order.

    The job's folder has the status of a queued job.
    """
    from PIL import Image

    from runner.clock import timestamp
    from runner.gallery.metadata import encode
    from runner.gallery.page.layout import shots_of
    from runner.gallery.page.paging import pages_of
    from runner.gallery.page.thumbs import thumbnail
    from runner.spool.disk.disk import Disk
    from runner.spool.store.outbox import to_json

    disk, folder = Disk(), home.job(job)
    file = folder / "status.json"
    status = json.loads(file.read_bytes())
    status |= {"state": "running", "revision": 2, "attempt": 1, "started_at": timestamp()}
    disk.replace(file, to_json(status))
    image = Image.new("RGB", (64, 64), (spec["seed"] % 256, 1, 128))
    result = {"job": job, "index": 1, "file": f"{job}-0001.png", "width": 64, "height": 64,
              "created_at": timestamp(), "seconds": 0.01, "device": "none"}  # fmt: skip
    sidecar = {**spec, "result": result}
    picture = encode(image, sidecar)
    result["sha256"] = hashlib.sha256(picture).hexdigest()
    disk.replace(folder / f"{job}-0001.png", picture)
    disk.make_folder(folder / "thumbs")
    disk.replace(folder / "thumbs" / f"{job}-0001.webp", thumbnail(image), durable=True)
    disk.replace(folder / f"{job}-0001.json", to_json(sidecar), durable=True)
    output = {"file": result["file"], "sidecar": f"{job}-0001.json", "seed": spec["seed"],
              "thumbnail": f"thumbs/{job}-0001.webp", "sha256": result["sha256"], "width": 64,
              "height": 64}  # fmt: skip
    status |= {"state": "succeeded", "revision": 3, "finished_at": timestamp(),
               "images": {"total": 1, "done": 1, "failed": 0, "skipped": 0},
               "outputs": [output]}  # fmt: skip
    pages, _ = pages_of(status, [1], lambda _: shots_of([sidecar], ()))
    disk.replace(folder / "index.html", pages["index.html"].encode())
    disk.replace(file, to_json(status), durable=True)


def peak_memory() -> dict[str, Any]:
    """The most memory that this process ever had."""
    import psutil

    memory = psutil.Process().memory_info()
    peak = getattr(memory, "peak_wset", memory.rss)
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        pass
    else:
        (line,) = (each for each in lines.splitlines() if each.startswith("VmHWM:"))
        peak = int(line.split()[1]) * 1024
    return {"peak_mib": round(peak / 2**20, 1)}


# -- the whole -----------------------------------------------------------------------------------


def measure(sizes: Sequence[int], folder: Path | None) -> list[dict[str, Any]]:
    """Let all run so many jobs; a row for each contestant and size."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            contestants = {
                each: _contestant(each, Path(name) / str(number), size)
                for number, each in enumerate([OURS, *(_QUEUES if has_queues() else ())])
            }
            runs = take_turns(contestants)
        rows += [_row(each, size, run) for each, run in runs.items()]
    return rows


def _contestant(name: str, root: Path, jobs: int) -> Contestant:
    """A fresh home with so many specs in its inbox, and who is to run them."""
    make_home(root)
    inbox = Home(root, Settings()).inbox
    for number in range(jobs):
        (inbox / f"job{number}.yaml").write_bytes(SPEC % (number, number))
    given = {"root": root, "jobs": jobs}
    if name == OURS:
        return Contestant(f"{__name__}:fluxdrop", given)
    return Contestant(f"{__name__}:rival", {**given, "queue": name})


def _row(name: str, jobs: int, run: Run) -> dict[str, Any]:
    tenths = [jobs / 10 / seconds for seconds in run.blocks(jobs // 10)[1:]]
    return {
        "jobs": jobs,
        "contestant": name,
        "rate": round(jobs / run.seconds, 1),
        "tenths": Spread.of(tenths).json(1),
        "cpu_ms": round(run.cpu / jobs * 1000, 3),
        "peak_mib": run.said["peak_mib"],
    }


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """What is wanted of these rows."""
    largest = max(row["jobs"] for row in rows)
    rate = {row["contestant"]: row["rate"] for row in rows if row["jobs"] == largest}
    found = [
        Goal(f"jobs a second beside {name}", rate[OURS] / rate[name], GOAL_RATE)
        for name in rate
        if name != OURS
    ]
    ours = [row for row in rows if row["contestant"] == OURS]
    cpu, peak = [row["cpu_ms"] for row in ours], [row["peak_mib"] for row in ours]
    return [
        *found,
        Goal("CPU time a job, most over fewest jobs", cpu[-1] / cpu[0], GOAL_CPU, False),
        Goal("memory, most over fewest jobs", peak[-1] - peak[0], GOAL_MIB, False, " MiB"),
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows, to be read by people."""
    lines = [
        f"{'jobs':>6} {'':<16}{'jobs/s':>8}{'CPU ms/job':>12}{'peak MiB':>10}   tenths: median"
    ]
    for row in rows:
        tenths = row["tenths"]
        spread = f"{tenths['median']:.0f} ({tenths['quartile1']:.0f} to {tenths['quartile3']:.0f})"
        lines.append(
            f"{row['jobs']:>6} {row['contestant']:<16}{row['rate']:>8.1f}{row['cpu_ms']:>12.2f}"
            f"{row['peak_mib']:>10}   {spread}"
        )
    return lines


def main(argv: list[str]) -> int:
    """Measure and say which goals are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench overhead", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--quick", action="store_true", help="50 and 200 jobs")
    parser.add_argument("--folder", type=Path, help="where the homes are made: on a real disk")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    rows = measure(sorted((50, 200) if asked.quick else asked.sizes), asked.folder)
    return shown(table(rows), goals(rows), {"rows": rows}, as_json=asked.json)
