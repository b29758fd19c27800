"""Rounds of chaos: a real runner process that is stopped, killed and made to stand still.

Meanwhile callers drop, chain, cancel, retry, keep, pause and delete, and commands clean and
rebuild. Each round is drawn by a seed, though what comes first is the machine's; the oracle looks
at each status on the way and at everything in the end.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from runner.launch import command
from runner.settings import Home
from tests.harness import clean_environment
from tests.interleaving.callers import Act, Caller, Job, Memory
from tests.interleaving.judge import faults_of_step, judge
from tests.interleaving.light import SETTINGS

KEPT: tuple[int, ...] = (50,)
"""Seeds that once found something: each is played first."""

# The built-in model in so many rounds; its process takes seconds to start.
_ONE_IN = 6
# A lease, or a health file, is taken for old after half a minute.
_LONG_FREEZE_SECONDS = 40.0
_QUIET_SECONDS = 120.0
_LOOK_SECONDS = 0.02
_ACTS = {
    "drop": 12, "cancel": 5, "retry": 5, "keep": 2, "pause": 2, "resume": 4,
    "forget folder": 1, "forget status": 2,
    "stop": 2, "kill": 2, "freeze": 2, "clean": 1, "rebuild": 1,
}  # fmt: skip
_ROUND_JOBS = 60
_LEFT = "finished_at IS NULL OR shown < version"
_TELLING = "id, state, inputs_missing, waits_for, put_back, cancel_at, shown, version"


class _World:
    """The clock of callers who are real."""

    @property
    def wall(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Round:
    """One round in an empty folder; `found` is what was wrong."""

    def __init__(self, root: Path, seed: int, seconds: float) -> None:
        self.root = root
        self.home = Home(root, SETTINGS)
        self.found: list[str] = []
        self.acts = 0
        self._draw = random.Random(seed)
        self._real = self._draw.randrange(_ONE_IN) == 0
        self._supervised = self._real and self._draw.random() < 0.5
        self._seconds = seconds
        self._memory = Memory()
        self._plan: dict[str, Job] = {}
        self._removed: dict[str, list[float]] = {}
        self._there: set[str] = set()
        self._shown: dict[str, dict[str, Any]] = {}
        self._made: dict[int, str] = {}
        self._frozen: psutil.Process | None = None
        self._frozen_until = 0.0
        self._run: subprocess.Popen[bytes] | None = None
        orders: dict[str, Callable[[], None]] = {
            "stop": lambda: self._end(signal.SIGTERM), "kill": lambda: self._end(signal.SIGKILL),
            "freeze": self._freeze, "clean": self._clean,
            "rebuild": lambda: self._command("gallery", "rebuild"),
        }  # fmt: skip
        plan: Any = type("Drawn", (), {"jobs": self._plan})()
        self._caller = Caller(_World(), root, plan, self._memory, lambda name: None, orders)

    def play(self) -> list[str]:
        """Play it to its end; what was wrong."""
        self.home.prepare()
        (self.root / "fluxdrop.yaml").write_text(
            "settle_seconds: 0.05\nsettle_seconds_unknown: 0.05\nrescan_seconds: 2\n"
            "input_wait_seconds: 5\n",
            encoding="utf-8",
        )
        try:
            self._start()
            until = time.monotonic() + self._seconds
            while time.monotonic() < until and not self.found:
                self._wait(self._draw.choice((0.0, 0.02, 0.1, 0.3, 0.8)))
                self._act()
            if not self.found:
                self._evening()
        finally:
            runner = self._runner()
            # First what would start another.
            if self._run is not None:
                self._run.kill()
                self._run.wait()
            with suppress(psutil.NoSuchProcess):
                if runner is not None:
                    runner.kill()
        if not self.found:
            self.found += judge(
                self.root, self._plan, self._memory, self._removed, self._made,
                colours=not self._real, soon=_QUIET_SECONDS,
            )  # fmt: skip
        return self.found

    # -- what happens ----------------------------------------------------------------------------

    def _act(self) -> None:
        self.acts += 1
        what = self._draw.choices([*_ACTS], [*_ACTS.values()])[0]
        if what in ("stop", "kill", "clean", "rebuild") and self._stands_for_long():
            return
        if what == "drop":
            if len(self._plan) < _ROUND_JOBS:
                job = self._job()
                self._plan[job.stem] = job
                self._caller.act(Act("drop", job.stem))
        elif what in ("stop", "kill", "freeze", "clean", "rebuild", "pause", "resume"):
            self._caller.act(Act(what))
        elif self._plan:
            # The last ones are those of which something may still come.
            self._caller.act(Act(what, self._draw.choice([*self._plan][-6:])))
        if what in ("cancel", "retry", "keep"):
            self._there.update(n for n in self._names() if n.endswith((".cancel", ".retry")))

    def _job(self) -> Job:
        draw = self._draw
        stem = "j" + "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
        made_of = draw.choice(("", "", *[*self._plan][-3:]))
        images = 1 if made_of else draw.randint(1, 4)
        fails = 0 if self._real else draw.choice((0, 0, 0, images))
        return Job(stem, images, fails, made_of, draw.choice((0, 0, 5)), draw.random() < 0.2)

    def _freeze(self) -> None:
        seconds = self._draw.choice((0.5, 0.5, 2.0, 2.0, 6.0, 6.0, _LONG_FREEZE_SECONDS))
        if self._frozen is None and (runner := self._runner()) is not None:
            runner.suspend()
            self._frozen, self._frozen_until = runner, time.monotonic() + seconds

    def _stands_for_long(self) -> bool:
        return self._frozen is not None and self._frozen_until > time.monotonic() + 7.0

    def _thaw(self) -> None:
        if self._frozen is not None:
            with suppress(psutil.NoSuchProcess):
                self._frozen.resume()
            self._frozen = None

    def _clean(self) -> None:
        self._command("clean", "--older-than", "0m", "--yes")
        over = {job for (job,) in self._ask("SELECT id FROM job WHERE finished_at IS NOT NULL")}
        self._memory.meddled.update(over - {path.name for path in self.home.outbox.iterdir()})

    def _command(self, *arguments: str) -> None:
        done = subprocess.run(
            [*command(), *arguments, "--home", str(self.root)], capture_output=True, text=True,
            encoding="utf-8", env=clean_environment(),
        )  # fmt: skip
        if "Traceback" in done.stderr:
            self.found.append(f"wrong: {arguments[0]} said {done.stderr[-600:]}")

    # -- the runner ------------------------------------------------------------------------------

    def _runner(self) -> psutil.Process | None:
        """The process that holds the home, if there is one now."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._run.pid) if self._run is not None else None
            if process is not None and self._supervised:
                process = next(iter(process.children()), None)
            return process
        return None

    def _start(self) -> None:
        light = [sys.executable, "-m", "tests.interleaving.light", str(self.root)]
        alone = [] if self._supervised else ["--one-process"]
        real = [*command(), "run", *alone, "--home", str(self.root)]
        with (self.root / "data" / "log").open("ab") as log:
            self._run = subprocess.Popen(
                real if self._real else light, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=clean_environment(),
            )  # fmt: skip

    def _end(self, number: int, *, again: bool = True) -> None:
        """End the runner by a signal, and start it again."""
        self._thaw()
        assert self._run is not None
        runner = self._runner()
        if runner is not None and self._supervised and number == signal.SIGKILL:
            if self._draw.random() < 0.5:
                # Its supervisor starts the next one.
                runner.kill()
                return
        else:
            runner = None
        self._run.send_signal(number)
        try:
            code = self._run.wait(60)
            if runner is not None:
                # It stops because its supervisor is gone.
                runner.wait(60)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            self.found.append(f"wrong: the runner does not end at signal {number}")
            return
        # A signal that comes before its handler is there ends the process as ever.
        if code not in (0, -number, 128 + number):
            self.found.append(f"wrong: the runner ended with {code}: {self._log()}")
        if again:
            self._start()

    def _log(self) -> str:
        return (self.root / "data" / "log").read_text(encoding="utf-8", errors="replace")[-1500:]

    # -- what is seen ----------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Let time pass, and look meanwhile."""
        until = time.monotonic() + seconds
        while True:
            self._look()
            if time.monotonic() >= self._frozen_until:
                self._thaw()
            if time.monotonic() >= until:
                return
            time.sleep(_LOOK_SECONDS)

    def _names(self) -> list[str]:
        return [path.name for path in self.home.inbox.iterdir() if not path.name.startswith(".")]

    def _look(self) -> None:
        assert self._run is not None
        if self._run.poll() is not None:
            self.found.append(f"wrong: the runner ended by itself ({self._run.returncode}): "
                              f"{self._log()}")  # fmt: skip
            self._start()
        names = set(self._names())
        for name in self._there - names:
            self._removed.setdefault(name, []).append(time.time())
        self._there &= names
        for file in self.home.outbox.glob("*/status.json"):
            with suppress(FileNotFoundError):
                try:
                    status = json.loads(file.read_bytes())
                except ValueError:
                    self.found.append(f"torn: {file}")
                    continue
                before = self._shown.get(file.parent.name)
                # Of a job that `clean` removed, or a caller, the next one may get the id.
                if before is not None and before["accepted_at"] == status["accepted_at"]:
                    self.found += faults_of_step(before, status)
                self._shown[file.parent.name] = status
        self._remember_jobs()

    def _remember_jobs(self) -> None:
        self._made.update(self._ask("SELECT seq, source_name FROM job"))

    def _ask(self, query: str) -> list[Any]:
        """Rows of the ledger; none while it cannot be read."""
        with suppress(sqlite3.Error):
            file = f"file:{self.home.data / 'ledger.sqlite'}?mode=ro"
            with closing(sqlite3.connect(file, uri=True)) as ledger:
                return ledger.execute(query).fetchall()
        return []

    def _evening(self) -> None:
        """Wait until nothing is left to do, and stop the runner."""
        if self._frozen is not None:
            self._wait(max(0.0, self._frozen_until - time.monotonic()))
        self._caller.act(Act("resume"))
        until = time.monotonic() + _QUIET_SECONDS
        while not self._is_quiet():
            self._wait(0.2)
            if time.monotonic() > until:
                left = self._ask(f"SELECT {_TELLING} FROM job WHERE {_LEFT}")
                self.found.append(f"lost: {self._names()}, {left} never end: {self._log()}")
                return
        self._wait(0.5)
        self._end(signal.SIGTERM, again=False)
        self._remember_jobs()
        if "Traceback" in (log := self._log()):
            self.found.append(f"wrong: {log}")

    def _is_quiet(self) -> bool:
        if any(not name.endswith((".png", ".md")) for name in self._names()):
            return False
        query = f"SELECT count(*) + (SELECT count(*) FROM unanswered) FROM job WHERE {_LEFT}"
        return self._ask(query) == [(0,)]


def play(minutes: float, first: int, root: Path, seconds: float = 40.0) -> int:
    """Play rounds for so long, those that were kept first; 1 if anything was wrong."""
    until, rounds, acts, bad = time.monotonic() + 60 * minutes, 0, 0, 0
    seeds = iter([*KEPT, *range(first, first + 1_000_000)])
    while time.monotonic() < until:
        seed, folder = next(seeds), root / "home"
        each = Round(folder, seed, seconds)
        for fault in each.play():
            print(f"seed {seed}: {fault}", flush=True)
        rounds, acts, bad = rounds + 1, acts + each.acts, bad + bool(each.found)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{rounds} rounds of chaos, {acts} acts: {bad} with findings")
    return 1 if bad else 0
