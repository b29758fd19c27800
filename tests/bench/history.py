"""Measures what a year of nights does to a home: starts, drops, commands, what they hold, and room.

`python -m tests.bench history [--jobs N…] [--folder DIR] [--quick] [--json]`. Homes of so many
finished jobs, six small pictures each, are written as a runner leaves them (a million files for
50,000), and the real runner and command line are used on them.
The figures of the largest home are set against those of the smallest. On Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.cli.init import make_home
from runner.clock import timestamp
from runner.gallery.rebuild import row_of
from runner.gallery.store import FOLDER, Gallery
from runner.job import State
from runner.settings import find_home
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox, output_entry, to_json
from runner.spool.store.record import Record
from tests.bench.figures import Goal, shown
from tests.gallery.samples import picture, sidecar
from tests.harness import Runner, clean_environment, eventually, fluxdrop, spec

SIZES, QUICK = (1_000, 10_000, 50_000), (20, 60)
IMAGES = 6
FEW_FILES = 256
"""The soft limit of open files on macOS."""
_YEAR = 365 * 86_400
_NEW_YEAR = 1_767_225_600
_BATCH = 500
_GIVEN_BACK_SECONDS = 120.0
# A fifth of all jobs came from files of one name.
_SAME_NAME = 5
# What prints little and reads much.
COMMANDS: Mapping[str, Sequence[str]] = {
    "status": ("status",),
    "status of a job": ("status", "job-00011"),
    "check": ("check", "inbox-free.yaml"),
    "search": ("gallery", "search", "fox7", "--json"),
    "search of all": ("gallery", "search", "fox", "--json"),
    "page": ("gallery", "page"),
    "clean, listed": ("clean", "--keep", "1kB", "--json"),
}
FLAT = ("start", "first drop", "after a kill", "same name again", "status", "check", "search")
"""What must not grow with the history."""
MOST_GROWTH = 4.0


def main(argv: Sequence[str] = ()) -> int:
    """Build the homes, use them, print what was measured and the goals."""
    asked = _arguments(argv)
    if not sys.platform.startswith("linux"):
        print("no /proc: nothing measured")
        return 0
    sizes = QUICK if asked.quick else tuple(asked.jobs)
    with _folder(asked.folder) as root:
        found = {size: measure(build(root / f"jobs-{size}", size)) for size in sizes}
    smallest, largest = found[min(sizes)], found[max(sizes)]
    names = list(smallest)
    table = [
        f"{'':<34}" + "".join(f"{f'{size:,} jobs':>14}" for size in sizes) + f"{'ratio':>8}",
        *(
            f"{name:<34}"
            + "".join(f"{each[name]:>14,.3f}" for each in found.values())
            + f"{largest[name] / smallest[name] if smallest[name] else 0:>8.1f}"
            for name in names
        ),
    ]
    goals = [
        Goal("first drop to running, ms", largest["first drop, s"] * 1000, 100, at_least=False),
        Goal("the same after a kill, ms", largest["after a kill, s"] * 1000, 100, at_least=False),
        Goal("files that the runner has open", largest["runner, files"], 100, at_least=False),
        Goal(
            "the most memory of a command, MiB",
            max(largest[f"{name}, MiB"] for name in COMMANDS), 150, at_least=False,
        ),
        *(
            Goal(
                f"{name}, against the smallest home",
                largest[f"{name}, s"] / smallest[f"{name}, s"], MOST_GROWTH, at_least=False,
            )
            for name in FLAT
        ),
    ]  # fmt: skip
    return shown(table, goals, {"measured": found}, as_json=asked.json)


def build(folder: Path, jobs: int) -> Path:
    """A home with so many finished jobs, as a runner that was stopped left it."""
    shutil.rmtree(folder, ignore_errors=True)
    make_home(folder)
    home = find_home(folder)
    home.prepare()
    home.drops.mkdir(exist_ok=True)
    (folder / "inbox-free.yaml").write_text(spec(), encoding="utf-8")
    disk = Disk()
    ledger = Ledger(home.data / "ledger.sqlite", disk)
    outbox = Outbox(home, ledger, disk, Faults(home))
    gallery = Gallery(home.data / FOLDER, writing=True)
    for first in range(0, jobs, _BATCH):
        rows = []
        with ledger.transaction():
            for number in range(first, min(first + _BATCH, jobs)):
                made = _NEW_YEAR + number * _YEAR / jobs
                rows += _write_job(folder, ledger, outbox, number, made)
        gallery.add(*rows)
    gallery.mark(complete=True)
    ledger.begin_run()
    ledger.heard("gallery", 0)
    ledger.close()
    return folder


def _write_job(
    home: Path, ledger: Ledger, outbox: Outbox, number: int, made: float
) -> list[dict[str, Any]]:
    """One finished job with its files, dated; the gallery's rows of its pictures."""
    same = number % _SAME_NAME == 0
    order = number // _SAME_NAME + 1
    job = (f"night-{order}" if order > 1 else "night") if same else f"job-{number:05}"
    data = spec(count=IMAGES).encode()
    record = ledger.insert(
        Record(
            seq=0, id=job, state=State.SUCCEEDED, source_name=f"{'night' if same else job}.yaml",
            source_sha256=hashlib.sha256(data).hexdigest(), source_bytes=len(data), suffix=".yaml",
            spec=data, accepted_at=timestamp(made), started_at=timestamp(made + 1),
            finished_at=timestamp(made + 60), kind="text2img", model="tiny", total=IMAGES,
            base_seed=1, attempt=1, shown=1, realised={"kind": "text2img", "model": "tiny"},
        )
    )  # fmt: skip
    folder = outbox.folder(job)
    (folder / "thumbs").mkdir(parents=True)
    rows = []
    for index in range(1, IMAGES + 1):
        told = sidecar(
            index, job=job, prompt=f"a red fox{number} in the snow, {index}", model="tiny",
            result_created_at=timestamp(made + index), result_sha256=_PICTURE[1],
        )  # fmt: skip
        stem = f"{job}-{index:04}"
        (folder / f"{stem}.png").write_bytes(_PICTURE[0])
        (folder / "thumbs" / f"{stem}.webp").write_bytes(_PICTURE[0])
        (folder / f"{stem}.json").write_bytes(json.dumps(told).encode())
        ledger.made(record.seq, index, output_entry(told, f"thumbs/{stem}.webp"), late=True)
        rows.append(row_of(told))
    record = replace(ledger.get(record.seq), shown=1)
    (folder / "spec.yaml").write_bytes(data)
    (folder / "status.json").write_bytes(to_json(outbox.status(record)))
    answer = {"schema": 1, "name": record.source_name, "sha256": record.source_sha256,
              "job": job, "outcome": "accepted", "at": record.accepted_at}  # fmt: skip
    (home / "outbox" / "drops" / f"{job}.yaml.json").write_bytes(to_json(answer))
    for path in (folder / "status.json", folder / "spec.yaml", folder):
        os.utime(path, (made + 60, made + 60))
    return rows


def _picture() -> tuple[bytes, str]:
    import io

    file = io.BytesIO()
    picture().save(file, "PNG")
    return file.getvalue(), hashlib.sha256(file.getvalue()).hexdigest()


_PICTURE = _picture()


def measure(home: Path) -> dict[str, float]:
    """Everything about one home, in seconds, MiB and counts."""
    found: dict[str, float] = {}
    runner = Runner(home)
    found["start, s"] = _seconds(runner.start)
    found["first drop, s"] = _to_running(runner, "first.yaml")
    found["same name again, s"] = _to_running(runner, "night.yaml")
    found["runner, files"] = len(os.listdir(f"/proc/{runner.pid}/fd"))
    found["runner, MiB"] = _resident(runner.pid)
    runner.kill()
    found["start after a kill, s"] = _seconds(runner.start)
    found["after a kill, s"] = _to_running(runner, "killed.yaml")
    runner.stop()
    for name, line in COMMANDS.items():
        found[f"{name}, s"], found[f"{name}, MiB"] = _command(home, *line)
    found |= _with_few_files(home)
    for file in (home / "data").glob("ledger.sqlite*"):
        file.unlink()
    found["start without a ledger, s"] = _seconds(runner.start)
    before = _room(home)
    found["clean of all, s"] = _seconds(lambda: _cleaned(home))
    with suppress(AssertionError):
        eventually(
            lambda: _room(home)["ledger"] < before["ledger"] / 4, "room", _GIVEN_BACK_SECONDS
        )
    runner.stop()
    found |= {f"{name} after it, of before": _room(home)[name] / before[name] for name in before}
    return found


def _to_running(runner: Runner, name: str) -> float:
    """Seconds from the rename of a spec to its status `running`; waits for the end."""
    before = set(os.listdir(runner.home / "outbox"))
    began = time.perf_counter()
    runner.put(name, spec(seed=3))
    job = runner.answer(name)["job"]
    assert job not in before
    runner.until(job, lambda status: status["state"] != "queued")
    seconds = time.perf_counter() - began
    runner.until(job, lambda status: status["state"] == "succeeded")
    return seconds


def _command(home: Path, *line: str) -> tuple[float, float]:
    """The seconds that a command took, and the most memory it had."""
    command = [sys.executable, "-m", "runner", *line, "--home", str(home)]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.DEVNULL, env=clean_environment()
    ) as process:
        _, state, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(state)
    assert process.returncode == 0, line
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def _with_few_files(home: Path) -> dict[str, float]:
    """The gallery with few file descriptors: rows are added, the process killed, again and again.

    Raises AssertionError where a row is lost. Then a search and a rebuild, with as few.
    """
    folder = home / "data" / FOLDER
    before = len(Gallery(folder))
    added = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _ADDING, str(folder), str(added)],
            stdout=subprocess.PIPE, encoding="utf-8", preexec_fn=_few_files,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                added = int(line)
                if added % 200 == 0:
                    process.send_signal(signal.SIGKILL)
                    break
            added = max([added, *map(int, process.stdout)])
    rows = len(Gallery(folder))
    # One may have been added and not said, each time.
    assert before + added <= rows <= before + added + 3, (before, added, rows)
    found = {}
    for name, line in (("search", ("search", "--json")), ("rebuild", ("rebuild", "--json"))):
        command = [sys.executable, "-m", "runner", "gallery", *line, "--home", str(home)]
        began = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, check=True, preexec_fn=_few_files, env=clean_environment()
        )
        found[f"{name} with {FEW_FILES} files, s"] = time.perf_counter() - began
        total = json.loads(done.stdout)
        assert total.get("total", total.get("rows")) == (rows if name == "search" else before)
    return found


_ADDING = """
import sys; from pathlib import Path
from runner.gallery.store import Gallery
from runner.gallery.rebuild import row_of
from tests.gallery.samples import sidecar
gallery = Gallery(Path(sys.argv[1]), writing=True)
number = int(sys.argv[2])
while True:
    number += 1
    gallery.add(row_of(sidecar(number, job="added")))
    print(number, flush=True)
"""


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))


def _cleaned(home: Path) -> None:
    done = fluxdrop("clean", "--older-than", "1m", "--yes", "--json", home=home, seconds=600)
    assert done.code == 0 and done.json["removed"], f"{done.out[:500]} {done.err}"


def _room(home: Path) -> dict[str, float]:
    """The bytes of the ledger and of the gallery, and the number of receipts."""
    data = home / "data"
    return {
        "ledger": sum(file.stat().st_size for file in data.glob("ledger.sqlite*")),
        "gallery": sum(file.stat().st_size for file in (data / FOLDER).iterdir()),
        "receipts": len(os.listdir(home / "outbox" / "drops")),
    }


def _resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def _seconds(act: Any) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@contextmanager
def _folder(named: str | None) -> Iterator[Path]:
    if named:
        yield Path(named)
        return
    with tempfile.TemporaryDirectory(prefix="fluxdrop-history-") as made:
        yield Path(made)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench history")
    parser.add_argument("--jobs", type=int, nargs="+", default=SIZES, help="how many jobs")
    parser.add_argument("--folder", help="where the homes are made, and stay")
    parser.add_argument("--quick", action="store_true", help=f"homes of {QUICK} jobs")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(argv)
