"""Half an hour of everything: a real runner, a stream of jobs of all kinds, and what disturbs it.

Callers drop, cancel and drop what is wrong; beside that lie odd files. The process of the slot is
killed, the runner is stopped and killed and started again, and the disk of the outbox is full for a
while (where a small one can be mounted). The runner's memory, files and threads are looked at.
"""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from runner.cli.init import make_home
from runner.settings import Home
from runner.spool.store.names import is_control
from tests.harness import FINAL_STATES, Runner, eventually, spec
from tests.spool import odd

_PATIENCE_SECONDS = 300.0
_DISK_BYTES = 600 << 20
_FULL_SECONDS = 6.0
_SETTINGS = "settle_seconds: 0.1\nsettle_seconds_unknown: 0.5\nrescan_seconds: 2\nisolate: true\n"
_FIRST = "outbox/first/first-0001.png"
_KINDS: tuple[dict[str, Any], ...] = (
    {"seed": None, "count": 3},
    {"kind": "text2img", "upscale": 2},
    {"kind": "kontext", "image": _FIRST, "prompt": "make the circle yellow"},
    {"kind": "fill", "image": _FIRST, "outpaint": {"left": 16, "right": 16}},
    {"kind": "control", "control": "canny", "image": _FIRST},
    {"kind": "redux", "image": _FIRST},
)
_CANCELLED, _REJECTED = "c", "r"


@dataclass(frozen=True)
class _Look:
    """What one look at the runner's process has found."""

    life: int
    mib: float
    files: int
    threads: int
    slot_mib: float


class Light(Runner):
    """A runner whose pictures are flat colours, which is there at once."""

    def start(self) -> Runner:
        with self._log.open("ab") as log:
            self._started = subprocess.Popen(
                [sys.executable, "-m", "tests.interleaving.light", str(self.home)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment,
            )  # fmt: skip
        Runner.alive.append(self)
        eventually(self._is_there, "the runner's health file")
        return self


class Stream:
    """One stream into an empty home for so many seconds; `found` is what was wrong."""

    def __init__(self, root: Path, seconds: float, seed: int, make: type[Runner] = Runner) -> None:
        self.home = Home(root)
        self.found: list[str] = []
        self.looks: list[_Look] = []
        self._seconds, self._draw, self._make = seconds, random.Random(seed), make
        self._runner = make(root)
        self._jobs: dict[str, int] = {}
        """The images of each job that was dropped."""
        self._odd: list[odd.Odd] = []
        self._told: Counter[str] = Counter()
        self._life = 1
        self._mounted = False

    def play(self) -> list[str]:
        """Play it to its end; what was wrong."""
        make_home(self.home.root)
        (self.home.root / "fluxdrop.yaml").write_text(_SETTINGS, encoding="utf-8")
        if self._make is Runner:
            self._mount()
        try:
            self._runner.start()
            self._drop("first")
            eventually(lambda: self._state("first") == "succeeded", "the first picture")
            self._stream()
            self._evening()
        finally:
            if self._runner.process.poll() is None:
                self._runner.kill()
            if self._mounted:
                subprocess.run(["umount", "--lazy", self.home.outbox], check=True)
        self._tell()
        return self.found

    def _stream(self) -> None:
        """Do each thing as often as it is due, until the time is over."""
        whole = self._seconds
        every: list[tuple[float, Callable[[], None]]] = [
            (0.7, self._drop_any), (6.0, self._cancel), (9.0, self._drop_wrong),
            (min(60.0, whole / 3), self._put_odd), (10.0, self._look),
            (whole / 8, self._kill_slot), (whole / 2.5, self._restart),
            (whole / 3.5, self._fill_disk), (whole / 1.6, self._kill),
        ]  # fmt: skip
        began = time.monotonic()
        due = [began + seconds for seconds, _ in every]
        while time.monotonic() - began < whole:
            for number, (seconds, act) in enumerate(every):
                if time.monotonic() >= due[number]:
                    due[number] = time.monotonic() + seconds
                    act()
            if self._runner.process.poll() is not None:
                self.found.append(f"wrong: the runner ended: {self._runner.log[-1500:]}")
                return
            time.sleep(0.05)

    # -- what happens ----------------------------------------------------------------------------

    def _drop(self, job: str, **fields: Any) -> None:
        self._jobs[job] = fields.get("count", 1)
        self._runner.put(f"{job}.yaml", spec(**fields))

    def _drop_any(self) -> None:
        number = len(self._jobs)
        self._drop(f"j{number}", **{"seed": number, **_KINDS[number % len(_KINDS)]})

    def _drop_wrong(self) -> None:
        self._drop(f"{_REJECTED}{len(self._jobs)}", stpes=1)

    def _cancel(self) -> None:
        job = f"{_CANCELLED}{len(self._jobs)}"
        self._drop(job, seed=None, count=20)
        self._runner.put(f"{job}.cancel")

    def _put_odd(self) -> None:
        def too_slow(each: odd.Odd) -> bool:
            return each.kind == "socket" or not each.data or is_control(each.text)

        drops = odd.odd_drops(self._draw.randrange(1 << 30), 2, without=too_slow)
        self._odd += [each for each in drops if odd.put(each, self.home.inbox)]

    def _kill_slot(self) -> None:
        """End the process that renders, wherever it is."""
        if self._make is Runner:
            children = psutil.Process(self._runner.pid).children(recursive=True)
            for child in sorted(children, key=lambda each: each.memory_info().rss)[-1:]:
                child.kill()
                self._told["slots killed"] += 1

    def _restart(self) -> None:
        if (code := self._runner.stop()) != 0:
            self.found.append(f"wrong: the runner ended with {code} when it was stopped")
        self._start("stopped")

    def _kill(self) -> None:
        self._runner.kill()
        self._start("killed")

    def _start(self, why: str) -> None:
        self._told[f"runner {why}"] += 1
        self._life += 1
        self._runner.start()

    def _mount(self) -> None:
        size = f"size={_DISK_BYTES}"
        command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.home.outbox)]
        with suppress(OSError):
            self._mounted = subprocess.run(command, capture_output=True).returncode == 0
        if not self._mounted:
            print("no disk is full: only root can mount a small one")

    def _fill_disk(self) -> None:
        """Leave no room in the outbox for a while."""
        if not self._mounted:
            return
        filler = self.home.outbox / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        until = time.monotonic() + _FULL_SECONDS
        while time.monotonic() < until:
            self._drop_any()
            time.sleep(1.0)
        filler.unlink()
        self._told["disk full"] += 1

    def _look(self) -> None:
        process = psutil.Process(self._runner.pid)
        children = sum(each.memory_info().rss for each in process.children(recursive=True))
        mib = process.memory_info().rss / 2**20
        files, threads = process.num_fds(), process.num_threads()
        self.looks.append(_Look(self._life, mib, files, threads, children / 2**20))

    # -- what is seen ----------------------------------------------------------------------------

    def _state(self, job: str) -> str:
        state: str = self._runner.status(job).get("state", "absent")
        return state

    def _evening(self) -> None:
        """Wait until all is over, and judge what became of it."""
        left = set(self._jobs)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while left and time.monotonic() < deadline:
            left = {job for job in left if self._state(job) not in FINAL_STATES}
            time.sleep(0.2)
        self.found += [f"lost: {job} is {self._state(job)}" for job in sorted(left)]
        self.found += [fault for job in self._jobs.keys() - left for fault in self._judged(job)]
        while missing := self._unanswered():
            if time.monotonic() > deadline:
                self.found += [f"lost: {name} {why}" for name, why in missing.items()]
                break
            time.sleep(0.2)
        self._look()
        if (code := self._runner.stop()) != 0:
            self.found.append(f"wrong: the runner ended with {code}")
        if "Traceback" in self._runner.log:
            self.found.append(f"wrong: {self._runner.log[-2000:]}")
        self.found += self._grown()

    def _judged(self, job: str) -> list[str]:
        status = self._runner.status(job)
        self._told[status["state"]] += 1
        images, folder = self._jobs[job], self._runner.folder(job)
        names = [file.name for file in folder.glob(f"{job}-[0-9]*") if "original" not in file.name]
        made = sum(name.endswith(".png") for name in names)
        told = sum(name.endswith(".json") for name in names)
        if not made == told == status["images"]["done"]:
            return [f"torn: {job} has {made} pictures, {told} sidecars: {status}"]
        fitting = {_REJECTED: ("rejected",), _CANCELLED: ("cancelled", "succeeded")}
        states = fitting.get(job[0], ("succeeded",))
        if status["state"] == "failed" and status["reason"] == "DiskFull" and self._mounted:
            self._told["failed for want of room"] += 1
        elif status["state"] not in states or (states == ("succeeded",) and made != images):
            return [f"wrong: {job} is {status['state']}, {made} of {images}: {status}"]
        return []

    def _unanswered(self) -> dict[str, str]:
        health = self._runner.read("runner.json")
        named = {fault["file"] for fault in health.get("faults", ())}
        return dict(odd.unanswered(self._odd, self.home, named))

    def _grown(self) -> list[str]:
        """What grew in a life, from its second quarter to its last."""
        found = []
        for life in range(1, self._life + 1):
            looks = [each for each in self.looks if each.life == life]
            quarter = len(looks) // 4
            if quarter < 3:
                continue
            for name, most in (("mib", 15.0), ("files", 3.0), ("threads", 1.0)):
                early = median(getattr(each, name) for each in looks[quarter : 2 * quarter])
                late = median(getattr(each, name) for each in looks[-quarter:])
                if late - early > most:
                    found.append(f"grew: {name} from {early:.0f} to {late:.0f} in life {life}")
        return found

    def _tell(self) -> None:
        print(f"{len(self._jobs)} jobs, {len(self._odd)} odd files: {json.dumps(self._told)}")
        print("| life | looks | MiB, first, median, last | open files | threads | slot, MiB |")
        print("|---|---|---|---|---|---|")
        for life in range(1, self._life + 1):
            if looks := [each for each in self.looks if each.life == life]:
                cells = (
                    f"{each[0]:.0f}, {median(each):.0f}, {each[-1]:.0f}"
                    for name in ("mib", "files", "threads", "slot_mib")
                    for each in [[getattr(look, name) for look in looks]]
                )
                print(f"| {life} | {len(looks)} | {' | '.join(cells)} |", flush=True)
