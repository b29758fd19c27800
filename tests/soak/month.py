"""A month in simulated time: jobs of every sort around a device that does nothing.

The zone is Casablanca's, whose clock goes back an hour on 15 February 2026 and forward on 22 March:
the hour from two to three comes twice, and then not at all. Time passes as ever while there is
work, and goes on by half an hour when there is none. Each noon what is over is looked at, removed
and forgotten.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as hour
from pathlib import Path
from types import SimpleNamespace
from unittest import mock
from zoneinfo import ZoneInfo

import psutil

from runner.daemon.daemon import Daemon
from runner.gallery.rebuild import remove_gone
from runner.gallery.store import FOLDER, Gallery
from runner.settings import Home, Settings
from runner.task import ImageTask
from runner.wire import read_json
from tests.interleaving.night import _Findings as Findings
from tests.spool.device import FlatColours

ZONE = "Africa/Casablanca"
FIRST, LAST = datetime(2026, 2, 13, 12, 25, tzinfo=UTC), datetime(2026, 3, 23, 12, tzinfo=UTC)
STEP = timedelta(minutes=30)
_AFTER = timedelta(days=3)
_PATIENCE_SECONDS = 600.0
_WAITS_HOURS = 26
# From the number of a job follow its sort and its end.
_SORTS = 20
_NIGHT = (hour(23), hour(7))
_TWICE_OR_NEVER = (hour(2, 15), hour(2, 45))
_WINDOWS = {2: _NIGHT, 3: _NIGHT, 4: _NIGHT, 6: _TWICE_OR_NEVER}
_BAD, _CANCELLED, _LATER, _TWO, _FAILS = 0, 1, 7, 8, 9
_STATES = {_BAD: "rejected", _CANCELLED: "cancelled", _FAILS: "failed"}


def moments() -> list[datetime]:
    """Every half hour of the month, and of the nights after it."""
    return [FIRST + n * STEP for n in range((LAST + _AFTER - FIRST) // STEP)]


@contextmanager
def in_zone() -> Iterator[None]:
    """Have this process live where the clock is changed twice within the month."""
    try:
        with mock.patch.dict(os.environ, {"TZ": ZONE}):
            time.tzset()
            yield
    finally:
        time.tzset()


class _Clock:
    """Both clocks, which go on by themselves and are moved."""

    def __init__(self, wall: float) -> None:
        self._wall, self._began, self._moved = wall, time.monotonic(), 0.0

    def monotonic(self) -> float:
        return 1000.0 + time.monotonic() - self._began + self._moved

    def time(self) -> float:
        return self._wall + self.monotonic() - 1000.0

    def reach(self, wall: float) -> None:
        self._moved += max(0.0, wall - self.time())


@dataclass(frozen=True)
class _Day:
    """What was measured at a noon."""

    jobs: int
    mib: float
    files: int
    threads: int
    data_mib: float
    left: int


class Month:
    """Plays so many jobs, dropped evenly at these moments until `LAST`."""

    def __init__(self, root: Path, jobs: int, at: Sequence[datetime]) -> None:
        self.home = Home(root, Settings(settle_seconds=0.0, settle_seconds_unknown=0.0))
        self.found: list[str] = []
        self.days: list[_Day] = []
        self._at, self._jobs = at, jobs
        self._clock = _Clock(at[0].timestamp())
        self._zone = ZoneInfo(ZONE)
        self._seen = bytearray(jobs)
        self._states: Counter[str] = Counter()
        self._ready_at: dict[int, float] = {}
        self._to_cancel: list[int] = []
        self._daemon: Daemon | None = None

    def play(self) -> list[str]:
        """Play it to its end; what was wrong."""
        print("| day | jobs | MiB | open files | threads | data, MiB | receipts |")
        print("|---|---|---|---|---|---|---|")
        self.home.prepare()
        began, findings = time.monotonic(), Findings(self.found)
        logging.getLogger("runner").addHandler(findings)
        times = sum(moment < LAST for moment in self._at)
        clock = SimpleNamespace(time=self._clock.time, monotonic=self._clock.monotonic)
        dropped = 0
        try:
            with mock.patch("runner.clock.time", clock):
                self._start()
                for number, moment in enumerate(self._at, 1):
                    self._clock.reach(moment.timestamp())
                    until = self._jobs * min(number, times) // times
                    self._drop(range(dropped, until))
                    dropped = until
                    self._turn()
                    if moment.hour == 12 and moment.minute < 30:
                        self._noon(dropped)
                    if moment.weekday() == 6 and moment.hour == 3 and moment.minute < 30:
                        self._start()
                self._noon(dropped)
                self._stop()
        finally:
            logging.getLogger("runner").removeHandler(findings)
        self.found += [f"lost: j{n:06}" for n in range(self._jobs) if not self._seen[n]][:20]
        self._judge()
        self._tell(self.days[-1])
        seconds = time.monotonic() - began
        print(f"{self._jobs:,} jobs in {seconds:.0f} s: {dict(self._states)}")
        return self.found

    def _start(self) -> None:
        self._stop()
        device = FlatColours(side=16)
        device.on_start = self._begins
        # Those of the first image of every job of that sort.
        device.failing = _Failing()
        self._daemon = Daemon(self.home, device)
        self._daemon.open()

    def _stop(self) -> None:
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None

    # -- what callers do -------------------------------------------------------------------------

    def _drop(self, numbers: range) -> None:
        cancels, self._to_cancel = self._to_cancel, []
        for n in cancels:
            (self.home.inbox / f"j{n:06}.cancel").touch()
        aside = self.home.inbox / ".tmp"
        aside.mkdir(exist_ok=True)
        for n in numbers:
            (aside / "spec").write_text(self._spec(n), encoding="utf-8")
            os.replace(aside / "spec", self.home.inbox / f"j{n:06}.yaml")

    def _spec(self, n: int) -> str:
        sort = n % _SORTS
        lines = ["kind: text2img", "model: tiny", f"prompt: picture {n}", f"seed: {n}"]
        if window := _WINDOWS.get(sort):
            lines.append('window: "{:%H:%M}-{:%H:%M}"'.format(*window))
        elif sort == _BAD:
            lines.append("stpes: 4")
        elif sort in (_LATER, _CANCELLED):
            ready = datetime.fromtimestamp(self._clock.time(), UTC) + timedelta(hours=_WAITS_HOURS)
            self._ready_at[n] = ready.timestamp() // 60 * 60
            lines.append(f"not_before: {ready:%Y-%m-%dT%H:%M}Z")
            self._to_cancel += [n] if sort == _CANCELLED else []
        elif sort == _TWO:
            lines += ["count: 2", "priority: 5"]
        return "\n".join(lines) + "\n"

    def _turn(self) -> None:
        """Let the runner do all that can be done now."""
        daemon = self._daemon
        assert daemon is not None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        # As at the beginning of a drain: what was dropped since the last turn is not scanned yet.
        daemon._scans_wanted = 0
        while not daemon._is_drained(wait_for_hours=False):
            assert daemon.worker.exit_code is None and time.monotonic() < deadline, "it hangs"
            daemon.step(0.01)

    # -- what is seen ----------------------------------------------------------------------------

    def _begins(self, task: ImageTask) -> None:
        """An image begins: within its hours, whatever the clock of the zone has done."""
        n = int(task.job[1:])
        sort, wall = n % _SORTS, self._clock.time()
        shown = datetime.fromtimestamp(wall, self._zone).time()
        start, end = _WINDOWS.get(sort, (hour(0), hour(0)))
        if not (start <= shown < end if start < end else shown >= start or shown < end):
            self.found.append(f"illegal: {task.job} begins at {shown}, outside {start}-{end}")
        if sort == _CANCELLED or wall < self._ready_at.pop(n, 0.0):
            self.found.append(f"illegal: {task.job} begins at {shown}")

    def _noon(self, dropped: int) -> None:
        """Look at what is over, and have it removed and forgotten; then measure."""
        assert self._daemon is not None
        for entry in list(os.scandir(self.home.outbox)):
            if entry.name.startswith("j"):
                status = read_json(Path(entry.path) / "status.json")
                if status is None:
                    self.found.append(f"wrong: {entry.name} has only {os.listdir(entry.path)}")
                elif status["finished_at"] is not None:
                    self._over(entry.name, status["state"], status["images"]["done"], entry.path)
        # As `clean` does.
        gallery = Gallery(self.home.data / FOLDER, writing=True)
        remove_gone(gallery, self.home.outbox)
        gallery.close()
        (self.home.inbox / "runner.clean").touch()
        self._turn()
        process = psutil.Process()
        data = sum(f.stat().st_size for f in self.home.data.rglob("*") if f.is_file())
        left = len(os.listdir(self.home.drops))
        figures = process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()
        self.days.append(day := _Day(dropped, *figures, data / 2**20, left))
        if len(self.days) == 1 or len(self.days) % 5 == 0:
            self._tell(day)

    def _over(self, job: str, state: str, done: int, folder: str) -> None:
        n = int(job[1:])
        expected = _STATES.get(n % _SORTS, "succeeded")
        pictures = 0 if expected != "succeeded" else 1 + (n % _SORTS == _TWO)
        there = sum(name.endswith(".png") for name in os.listdir(folder))
        if (state, done, there) != (expected, pictures, pictures) or self._seen[n]:
            self.found.append(f"wrong: {job} is {state} with {done} of {pictures}, {there} there")
        self._seen[n] = 1
        self._states[state] += 1
        self._ready_at.pop(n, None)
        os.replace(folder, self.home.root / job)
        shutil.rmtree(self.home.root / job)

    def _judge(self) -> None:
        """Nothing grows once the first days are over."""
        settled = self.days[len(self.days) // 4 :]
        if len(settled) < 4:
            return
        half = len(settled) // 2
        for name, most in (("mib", 15.0), ("files", 3), ("threads", 1), ("data_mib", 8.0)):
            before = max(getattr(day, name) for day in settled[:half])
            after = max(getattr(day, name) for day in settled[half:])
            if after - before > most:
                self.found.append(f"grew: {name} from {before:.1f} to {after:.1f}")

    def _tell(self, day: _Day) -> None:
        print(
            f"| {len(self.days)} | {day.jobs:,} | {day.mib:.0f} | {day.files} | {day.threads} "
            f"| {day.data_mib:.1f} | {day.left:,} |",
            flush=True,
        )


class _Failing(dict[tuple[str, int], tuple[str, str]]):
    """What fails, without a list of it."""

    def get(self, key: tuple[str, int], default: object = None) -> object:  # type: ignore[override]
        fails = int(key[0][1:]) % _SORTS == _FAILS
        return ("OutOfMemory", "too large") if fails else None
