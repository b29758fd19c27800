"""One night: a home, the lives of a runner in it, its callers, and what was wrong in the morning.

The runner is the real Daemon with its threads, on a device of flat colours that is a thread too.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from runner.daemon.daemon import Daemon
from runner.executor import Executor, Failed, Progressed, StoppedEarly
from runner.job import Phase
from runner.settings import Home, Settings
from runner.spool.disk.disk import Disk, StrPath
from runner.spool.store.ledger import Ledger
from runner.task import ImageTask
from tests.crash.oracle import FINAL_STATES
from tests.interleaving import turns as taking_turns
from tests.interleaving.callers import FAILS_AT, Caller, Memory, Plan
from tests.interleaving.judge import faults_of_step, judge, stem_of
from tests.interleaving.turns import Queue, Turns
from tests.spool.device import FlatColours

_STEP_SECONDS = 0.02
_EVENING_SECONDS = 6.0
# A job of three images takes about a hundred.
_MOST_OPERATIONS = 50
_SETTINGS = Settings(settle_seconds=0.0, settle_seconds_unknown=0.0, rescan_seconds=5.0)


class _Device(FlatColours):
    """Flat colours made by a thread of its own, step by step."""

    def __init__(self, night: Night) -> None:
        super().__init__()
        self._night = night
        self._turns = night.turns
        self.events = Queue(night.turns)  # type: ignore[assignment]
        self._stop = self._closed = False
        self._thread = night.turns.spawn("gpu", "runner", self._run)

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        (task,) = tasks
        assert self.task is None and not self._closed, "the slot is busy"
        self._night.begins(task)
        self._stop = False
        self.models.add(task.model)
        self.task = task

    def stop(self, slot: str) -> None:
        self._stop = True

    def close(self) -> None:
        self._stop = self._closed = True
        self._turns.wait(lambda: self._thread.over)

    def _run(self) -> None:
        while True:
            self._turns.wait(lambda: self.task is not None or self._closed)
            if self.task is None:
                return
            self._make(self.task)

    def _make(self, task: ImageTask) -> None:
        for step in range(2):
            self._turns.sleep(_STEP_SECONDS)
            if self._stop:
                self._answered()
                self.events.put(StoppedEarly("gpu0", task))
                return
            self.events.put(Progressed("gpu0", task, Phase.DENOISING, step + 1, 2))
        self._turns.give()
        if task.prompt.startswith(f"{FAILS_AT}{task.index} "):
            self._answered()
            self.events.put(Failed("gpu0", task, "OutOfMemory", "too large"))
        else:
            self.finish()


class _Disk(Disk):
    """Gives the turn back before each operation, and looks at every status that is published."""

    def __init__(self, night: Night) -> None:
        super().__init__()
        self._night = night

    def before(self, operation: str, path: StrPath, **details: Any) -> None:
        self._night.turns.give()
        self._night.operates()
        if operation == "rename":
            self._night.renames(os.fspath(details["old"]), os.fspath(path))
        elif operation == "remove":
            self._night.removes(os.path.basename(path))


class _Watcher:
    """A watch that tells at once, and now and then nothing."""

    mode = "events"

    def __init__(self, wake: Any) -> None:
        self.wake = wake
        self._renamed_in: set[str] = set()

    def tend(self, moment: float) -> None:
        pass

    def told(self, name: str) -> None:
        if name:
            self._renamed_in.add(name)
        self.wake.set()

    def take_renamed_in(self) -> set[str]:
        names, self._renamed_in = self._renamed_in, set()
        return names

    def stop(self) -> None:
        pass


class _Findings(logging.Handler):
    """Keeps what the runner logs as its own mistake."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info and record.exc_info[1]
        if error and not isinstance(error, (OSError, taking_turns.Killed)):
            self._found.append(f"wrong: logged {record.getMessage()}: {error!r}")


class Night:
    """Plays one plan by one draw; `found` is what was wrong."""

    def __init__(self, root: Path, plan: Plan, draw: random.Random) -> None:
        self.root = root
        self.plan = plan
        self.found: list[str] = []
        self.turns = Turns(draw, str(root))
        self.memory = Memory()
        self._draw = draw
        self._daemon: Daemon | None = None
        self._watcher: _Watcher | None = None
        self._stopping = False
        self._main: taking_turns.Player | None = None
        self._lives = Queue(self.turns)
        # Of each job: the last status published, as its readers saw it.
        self._shown: dict[str, tuple[int, dict[str, Any]]] = {}
        self._removed: dict[str, float] = {}
        self._accepted: dict[int, tuple[str, str]] = {}
        self._operations = 0
        self._life = 0

    def play(self) -> list[str]:
        """Play it to its end; what was wrong."""
        taking_turns.watch_files()
        Home(self.root, _SETTINGS).prepare()
        findings = _Findings(self.found)
        logging.getLogger("runner").addHandler(findings)
        with ExitStack() as stack:
            stack.callback(logging.getLogger("runner").removeHandler, findings)
            stack.enter_context(self.turns.installed())
            intake = "runner.spool.inbox.intake"
            stack.enter_context(mock.patch(f"{intake}.Watcher", self._watch))
            stack.enter_context(mock.patch.object(Ledger, "accept", self._accepting()))
            over = []
            for number, acts in enumerate(self.plan.callers):
                caller = Caller(
                    self.turns, self.root, self.plan, self.memory, self._tell,
                    {"stop": self._stop, "kill": self._kill},
                )  # fmt: skip

                def do(caller: Caller = caller, acts: Any = acts) -> None:
                    taking_turns.undisturbed()
                    caller.do(acts)
                    over.append(caller)

                self.turns.spawn(f"caller {number}", "callers", do)
            self.turns.spawn("evening", "callers", lambda: self._evening(over))
            self._lives.put("morning")
            self._begin()
            try:
                self.turns.play()
            except AssertionError as error:
                self.found.append(f"wrong: {error}")
                self._clear_away()
        if not self.found:
            made = {seq: name for seq, (name, _) in self._accepted.items()}
            self.found += judge(self.root, self.plan.jobs, self.memory, self._removed, made)
        return self.found

    # -- the runner's lives ----------------------------------------------------------------------

    def _begin(self, *, drain: bool = False) -> None:
        self._stopping = False
        self._main = self.turns.spawn("main", "runner", lambda: self._live(drain=drain))

    def _live(self, *, drain: bool) -> None:
        while True:
            self._life += 1
            home = Home(self.root, _SETTINGS)
            self._daemon = daemon = Daemon(home, self._device, disk=_Disk(self))
            if self._stopping:
                return
            daemon.open()
            if self._stopping:
                daemon.ask_to_stop()
            if drain:
                daemon.drain()
            else:
                daemon.serve()
            daemon.close()
            if daemon.worker.exit_code is None:
                return

    def _device(self, home: Home) -> Executor:
        return _Device(self)

    def _watch(self, folder: Path, wake: Any) -> _Watcher:
        self._watcher = _Watcher(wake)
        return self._watcher

    def _tell(self, name: str) -> None:
        if self._watcher is not None and self._draw.random() < 0.95:
            self._watcher.told(name)

    def _stop(self) -> None:
        """Stop the runner as SIGTERM does, and start it again."""
        self._wait_for_work()
        # One at a time: a runner that is gone cannot be stopped.
        self._lives.get()
        self._end_of_life()
        self._begin()
        self._lives.put("again")

    def _end_of_life(self) -> None:
        self._stopping = True
        if self._daemon is not None:
            self._daemon.ask_to_stop()
        self.turns.wait(lambda: self._main is None or self._main.over)

    def _kill(self) -> None:
        """End the runner in the middle of whatever it does, and start it again."""
        self._wait_for_work()
        self._lives.get()
        self.turns.kill("runner")
        self._clear_away()
        self._begin()
        self._lives.put("again")

    def _wait_for_work(self) -> None:
        """Wait for some operations: most turns are spent in waiting, where a kill does no harm."""
        until = self._operations + self._draw.randrange(_MOST_OPERATIONS)
        self.turns.wait(lambda: self._operations >= until, 1.0)

    def _clear_away(self) -> None:
        """Let go of what the end of a process lets go."""
        daemon, self._daemon, self._watcher = self._daemon, None, None
        if daemon is not None:
            if hasattr(daemon, "ledger"):
                daemon.ledger._connection.close()
            daemon.home.places.unpin()
            daemon._release()

    def _evening(self, over: list[Caller]) -> None:
        """Once the callers are done, stop the runner and have another do what is left."""
        taking_turns.undisturbed()
        self.turns.wait(lambda: len(over) == len(self.plan.callers))
        # Whatever waits for the end of a pause without reason is late by then.
        self.turns.sleep(_EVENING_SECONDS)
        (self.root / "inbox" / "runner.pause").unlink(missing_ok=True)
        self._lives.get()
        self._end_of_life()
        self._begin(drain=True)

    # -- what is seen on the way -----------------------------------------------------------------

    def begins(self, task: ImageTask) -> None:
        """The device begins an image: one that is there already is made twice."""
        picture = self.root / "outbox" / task.job / f"{task.job}-{task.index:04d}.json"
        if picture.exists():
            self.found.append(f"twice: {task.job} makes image {task.index} again")

    def operates(self) -> None:
        """The runner does something to a file, or commits."""
        self._operations += 1

    def renames(self, old: str, new: str) -> None:
        """A file gets its name; a status is compared with the last one."""
        if not new.endswith("/status.json"):
            return
        job = new.split("/")[-2]
        status = json.loads(Path(old).read_bytes())
        life, before = self._shown.get(job, (0, None))
        if before is not None:
            self.found += faults_of_step(before, status)
            said = {**status, "revision": before["revision"], "updated_at": before["updated_at"]}
            again = before["state"] in FINAL_STATES and life == self._life and said == before
            if again and not self._may_be_said_again(job):
                self.found.append(f"twice: the end of {job} is published again")
        self._shown[job] = (self._life, status)

    def _may_be_said_again(self, job: str) -> bool:
        """Whether an answer is made again after a kill, or callers removed what was said."""
        if job in self.memory.meddled | self.memory.without_status:
            return True
        file = self.plan.jobs[job].file if job in self.plan.jobs else f"{stem_of(job)}.retry"
        names = (file, f".taken-{file}")
        return any((self.root / "inbox" / name).exists() for name in names)

    def removes(self, name: str) -> None:
        """A file goes."""
        self._removed[name.removeprefix(".taken-")] = self.turns.wall

    def _accepting(self) -> Callable[..., Any]:
        true = Ledger.accept

        def accept(ledger: Ledger, record: Any, identity: str, *given: Any) -> Any:
            made = true(ledger, record, identity, *given)
            self._accepted[made.seq] = (made.source_name, identity)
            return made

        return accept


def play(root: Path, plan: Plan, draw: random.Random) -> list[str]:
    """What was wrong with one night in a folder, which is removed."""
    try:
        return Night(root, plan, draw).play()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def memory() -> str | None:
    """Where nothing needs a disk."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None
