"""One night: a home, the lives of a runner in it, its callers, and what was wrong in the morning.

The runner is the real Daemon with its threads, on a device of flat colours that is a thread too.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any
from unittest import mock

from runner.daemon.daemon import Daemon
from runner.executor import Executor, Failed, Progressed, SlotState
from runner.job import Phase
from runner.settings import Home, Settings
from runner.spool.disk.disk import Disk, StrPath
from runner.spool.inbox.assess import Assessment, Catalogue, assess
from runner.spool.inbox.compose_process import ComposeProcess, ComposeProcessDied
from runner.spool.inbox.settle import Drop
from runner.spool.store.ledger import Ledger
from runner.task import ImageTask
from tests.crash.oracle import FINAL_STATES
from tests.crash.scenario import SCENARIOS, furnish
from tests.interleaving import turns as taking_turns
from tests.interleaving.callers import FAILS_AT, LONG, Caller, Memory, Plan
from tests.interleaving.judge import faults_of_step, judge, stem_of
from tests.interleaving.turns import Queue, Turns
from tests.spool.device import FlatColours, SeveralSlots

_STEP_SECONDS = 0.02
_LONG_STEP_SECONDS = 0.5
_LONG_STEPS = 20
_EVENING_SECONDS = 6.0
# What obeys a request has about ten, a job of three images about a hundred.
_MOST_OPERATIONS = (15, 15, 50)
_THREADS = ("", "main", "intake", "writer", "writer", "writer")
# A file leaves the inbox by a rename, a removal, a sync and a commit.
_LEAVING_OPERATIONS = 5
_COMPOSE_SECONDS = 0.05
# Then statuses that stayed behind are published: by turns often.
_HEALTH_SECONDS = (2.0, 2.0, 0.2)
_PACK = next(scenario for scenario in SCENARIOS if scenario.pack)
# A retry waits for the end of its job.
_WORK_SECONDS = 5.0
# A request that was told is obeyed so soon, any other when the inbox is looked at anyway.
_SOON_SECONDS = 3.0
_SCANNED_SECONDS = 9.0
_READY = (
    "SELECT id, priority FROM job WHERE state = 'queued' AND NOT inputs_missing AND ready_at <= ?"
    " AND NOT EXISTS (SELECT 1 FROM unanswered WHERE unanswered.seq = job.seq)"
)
_MADE = "SELECT 1 FROM image WHERE outcome = 'done' AND json_extract(output, '$.file') = ?"
# Most slots are lost in mid-image, some for as long as a process needs to start.
_BUSY = 0.8
_BUSY_SECONDS = 1.0
_AWAY_SECONDS = (0.0, 0.0, 0.05, 1.0)
_SETTINGS = Settings(settle_seconds=0.0, settle_seconds_unknown=0.0, rescan_seconds=5.0)


class _Device(SeveralSlots):
    """Flat colours made by a thread of each slot, step by step."""

    def __init__(self, night: Night) -> None:
        # Large enough to be encoded beside the writer.
        super().__init__(*(f"gpu{number}" for number in range(night.plan.slots)), side=256)
        self._night = night
        self._turns = night.turns
        self.events = Queue(night.turns)  # type: ignore[assignment]
        for each in self.each.values():
            each.events = self.events
        self._stopped: set[str] = set()
        self._closed = False
        self._threads = [
            night.turns.spawn(slot, "runner", partial(self._run, slot)) for slot in self.each
        ]

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        assert self[slot].task is None and not self._closed, "the slot is busy"
        self._stopped.discard(slot)
        others = {*self.at_work.values()}
        super().start(slot, tasks)
        self._night.begins(tasks[0], others)

    def stop(self, slot: str) -> None:
        self._stopped.add(slot)

    def close(self) -> None:
        self._closed = True
        self._stopped.update(self.each)
        self._turns.wait(lambda: all(thread.over for thread in self._threads))

    def _run(self, slot: str) -> None:
        while True:
            self._turns.wait(lambda: self[slot].task is not None or self._closed)
            task = self[slot].task
            if task is None:
                return
            self._make(self[slot], task)

    def _make(self, slot: FlatColours, task: ImageTask) -> None:
        long = LONG in task.prompt
        steps = _LONG_STEPS if long else 2
        for step in range(1, steps + 1):
            self._turns.sleep(_LONG_STEP_SECONDS if long else _STEP_SECONDS)
            if slot.task is not task:
                return
            if slot.slot in self._stopped:
                slot.stop(slot.slot)
                return
            self.events.put(Progressed(slot.slot, task, Phase.DENOISING, step, steps))
        self._turns.give()
        if slot.task is not task:
            return
        if task.prompt.startswith(f"{FAILS_AT}{task.index} "):
            slot.task = None
            self.events.put(Failed(slot.slot, task, "OutOfMemory", "too large"))
        else:
            slot.finish()


@dataclass
class _Loss:
    """A slot that was lost with what it had in hand, and how often that was charged."""

    at: float
    charged: bool
    task: ImageTask | None
    times: int = 0


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
            self._night.leaves(os.fspath(path))


class _Composer(ComposeProcess):
    """Composes in a thread of the runner's, and is killed like the process it stands for."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._killed = False

    def start(self) -> None:
        self._killed = False

    def assess(self, drop: Drop, home: Home, catalogue: Catalogue) -> Assessment:
        self._turns.sleep(_COMPOSE_SECONDS)
        if self._killed:
            raise ComposeProcessDied
        return assess(drop.data, drop.name, home, catalogue)

    def kill(self) -> None:
        self._killed = True


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
        self._stopping = self._closed = False
        self._main: taking_turns.Player | None = None
        self._lives = Queue(self.turns)
        # Of each job: the last status published, as its readers saw it.
        self._shown: dict[str, tuple[int, dict[str, Any]]] = {}
        self._removed: defaultdict[str, list[float]] = defaultdict(list)
        self._made: dict[int, str] = {}
        self._before: set[tuple[str, int]] = set()
        self._operations: Counter[str] = Counter()
        self._life = 0
        self._life_began = 0.0
        self._told_all = True
        self._killed_at = 0.0
        self._device_now: _Device | None = None
        # By why it was lost.
        self._losses: dict[str, _Loss] = {}

    def play(self) -> list[str]:
        """Play it to its end; what was wrong."""
        taking_turns.watch_files()
        Home(self.root, _SETTINGS).prepare()
        furnish(_PACK, Home(self.root))
        findings = _Findings(self.found)
        logging.getLogger("runner").addHandler(findings)
        with ExitStack() as stack:
            stack.callback(logging.getLogger("runner").removeHandler, findings)
            stack.enter_context(self.turns.installed())
            inbox = "runner.spool.inbox"
            stack.enter_context(mock.patch(f"{inbox}.intake.Watcher", self._watch))
            composer = partial(_Composer, self.turns)
            stack.enter_context(mock.patch(f"{inbox}.compose_pool.ComposeProcess", composer))
            stack.enter_context(mock.patch.object(Ledger, "accept", self._accepting()))
            stack.enter_context(mock.patch.object(Ledger, "lost", self._charging()))
            seconds = self._draw.choice(_HEALTH_SECONDS)
            stack.enter_context(mock.patch("runner.daemon.daemon.HEALTH_SECONDS", seconds))
            over = []
            for number, acts in enumerate(self.plan.callers):
                caller = Caller(
                    self.turns, self.root, self.plan, self.memory, self._tell,
                    {
                        "stop": self._stop,
                        "kill": self._kill,
                        "kill stopping": self._kill_stopping,
                        "lose slot": partial(self._lose, charged=True),
                        "lose machine": partial(self._lose, charged=False),
                    },
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
        self.found += self._uncharged()
        if not self.found:
            self.found += judge(self.root, self.plan.jobs, self.memory, self._removed, self._made)
        return self.found

    # -- the runner's lives ----------------------------------------------------------------------

    def _begin(self, *, drain: bool = False) -> None:
        self._stopping = self._closed = False
        self._main = self.turns.spawn("main", "runner", lambda: self._live(drain=drain))

    def _live(self, *, drain: bool) -> None:
        while True:
            self._life += 1
            self._life_began = self.turns.wall
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
                self._closed = True
                return

    def _device(self, home: Home) -> Executor:
        self._device_now = _Device(self)
        return self._device_now

    def _watch(self, folder: Path, wake: Any) -> _Watcher:
        self._watcher = _Watcher(wake)
        return self._watcher

    def _tell(self, name: str) -> None:
        if self._watcher is not None and self._draw.random() < 0.95:
            self._watcher.told(name)
        else:
            self._told_all = False

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
        self.turns.wait(self._main_is_over)
        # A stop may come between two lives: then nobody has closed what a kill left.
        for file in self.root.glob("outbox/*/status.json") if self._closed else ():
            if json.loads(file.read_bytes())["state"] == "running":
                self.found.append(f"illegal: {file.parent.name} runs, and the runner has stopped")

    def _kill(self) -> None:
        """End the runner in the middle of whatever it does, and start it again."""
        self._wait_for_work()
        self._lives.get()
        self._start_after_kill()

    def _kill_stopping(self) -> None:
        """End the runner after it recorded that it stops: nobody may be charged with that."""
        self._wait_for_work()
        self._lives.get()
        self._stopping = True
        if self._daemon is not None:
            self._daemon.ask_to_stop()
        # The first operation after that records it.
        self.turns.wait(lambda: self._main_is_over() or self._is_closing(), urgent=True)
        until = self._operations["main"] + self._draw.randint(1, _LEAVING_OPERATIONS)
        self.turns.wait(
            lambda: self._main_is_over() or self._operations["main"] >= until, urgent=True
        )
        self._start_after_kill()

    def _main_is_over(self) -> bool:
        return self._main is None or self._main.over

    def _is_closing(self) -> bool:
        worker = getattr(self._daemon, "worker", None)
        return worker is not None and worker.stopping

    def _start_after_kill(self) -> None:
        self._killed_at = self.turns.wall
        self.turns.kill("runner")
        self._clear_away()
        self._begin()
        self._lives.put("again")

    def _lose(self, *, charged: bool) -> None:
        """Lose a slot, mostly in mid-image, which comes back after a while."""
        if self._draw.random() < _BUSY:
            self.turns.wait(self._is_at_work, _BUSY_SECONDS, urgent=True)
            self.turns.sleep(self._draw.uniform(0.0, 3 * _STEP_SECONDS))
        device = self._device_now
        if device is None or self._stopping:
            return
        slot = self._draw.choice([*device.at_work] or [*device.each])
        task, why = device[slot].task, f"ended for the {len(self._losses) + 1}. time"
        self._losses[why] = _Loss(self.turns.wall, charged, task)
        if task is not None and charged:
            self.memory.losses[task.job] += 1
        device.lose(slot, why, charged=charged)
        if (away := self._draw.choice(_AWAY_SECONDS)) > 0.0:
            device.be(slot, SlotState.STARTING)
            self.turns.sleep(away)
            device.be(slot, SlotState.READY)

    def _is_at_work(self) -> bool:
        return self._device_now is not None and bool(self._device_now.at_work)

    def _wait_for_work(self) -> None:
        """Wait for some operations, of one thread or all, and come before the next one.

        Most turns are spent in waiting, where a kill does no harm; what it may break lies between
        two operations, often those that follow what a caller has just done.
        """
        name = self.memory.last
        if (self.root / "inbox" / name).is_file() and self._draw.random() < 0.7:
            # What it asks for must hold by the time it leaves, and not be done again.
            before = len(self._removed[name])
            self.turns.wait(lambda: len(self._removed[name]) > before, _WORK_SECONDS, urgent=True)
            until = self._operations["intake"] + self._draw.randrange(_LEAVING_OPERATIONS)
            self.turns.wait(lambda: self._operations["intake"] >= until, 1.0, urgent=True)
            return
        thread = self._draw.choice(_THREADS)
        until = self._operations[thread] + self._draw.randrange(self._draw.choice(_MOST_OPERATIONS))
        self.turns.wait(lambda: self._operations[thread] >= until, _WORK_SECONDS, urgent=True)

    def _clear_away(self) -> None:
        """Let go of what the end of a process lets go."""
        daemon, self._daemon, self._watcher, self._device_now = self._daemon, None, None, None
        if daemon is not None:
            if hasattr(daemon, "ledger"):
                daemon.ledger._connection.close()
            daemon.home.places.unpin()
            for lock in daemon._locks:
                lock.release()

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

    def begins(self, task: ImageTask, others: Collection[tuple[str, int]]) -> None:
        """A slot begins an image: none that is there, made by others, paused or outranked."""
        job = task.job
        if (job, task.index) in others:
            self.found.append(f"twice: {job} makes image {task.index}, which another slot has")
        if (self.root / "outbox" / job / f"{job}-{task.index:04d}.json").exists():
            self.found.append(f"twice: {job} makes image {task.index} again")
        if job not in self._shown:
            self.found.append(f"illegal: {job} begins before it has a status")
        # A runner looks at these before its first image, a scan before it takes the specs.
        pause, cancel = (self._lies_since(name) for name in ("runner.pause", f"{job}.cancel"))
        late = self.turns.wall - (_SOON_SECONDS if self._told_all else _SCANNED_SECONDS)
        if pause < max(self._life_began, late):
            self.found.append(f"swallowed: the pause, in which {job} begins")
        if cancel < max(self._life_began, self.memory.dropped.get(job, 0.0)):
            self.found.append(f"swallowed: the cancel of {job}, which begins all the same")
        ready = self._ready()
        for other, priority in ready & self._before:
            if priority > self._ready_priority(job):
                self.found.append(f"illegal: {job} begins another image before {other}")
        self._before = ready

    def _lies_since(self, name: str) -> float:
        with suppress(FileNotFoundError):
            return (self.root / "inbox" / name).stat().st_mtime
        return inf

    def _ready_priority(self, job: str) -> int:
        return self.plan.jobs[stem_of(job)].priority

    def _ready(self) -> set[tuple[str, int]]:
        """The jobs that could run now, with their priorities."""
        file = self.root / "data" / "ledger.sqlite"
        with closing(sqlite3.connect(file)) as ledger:
            return set(ledger.execute(_READY, (self.turns.wall,)))

    def operates(self) -> None:
        """The runner does something to a file, or commits."""
        self._operations[""] += 1
        self._operations[taking_turns.own_name()] += 1

    def renames(self, old: str, new: str) -> None:
        """A file gets its name; a status is compared with the last one."""
        if "/.taken-" in new:
            self.leaves(new)
        *_, job, name = new.split("/")
        if name.startswith(f"{job}-") and job not in self.memory.meddled and self._is_made(name):
            self.found.append(f"twice: {name} is put there again")
        if name != "status.json":
            return
        status = json.loads(Path(old).read_bytes())
        life, before = self._shown.get(job, (0, None))
        if before is not None:
            self.found += faults_of_step(before, status)
            said = {**status, "revision": before["revision"], "updated_at": before["updated_at"]}
            again = before["state"] in FINAL_STATES and life == self._life and said == before
            # What callers have taken away is not there twice.
            if again and Path(new).exists() and not self._is_answered_again(job):
                self.found.append(f"twice: the end of {job} is published again")
        self._shown[job] = (self._life, status)

    def _is_answered_again(self, job: str) -> bool:
        """Whether the job's file is there yet: an earlier life, or a caller, cut the answer short.

        Who removes the folder of one job of a batch has all of them answered again.
        """
        file = self.plan.jobs[job].file if job in self.plan.jobs else f"{stem_of(job)}.retry"
        since = min(map(self._lies_since, (file, f".taken-{file}")))
        return since < self._life_began or (since < inf and bool(self.memory.meddled))

    def leaves(self, path: str) -> None:
        """A file goes: one of the inbox has its answer by then."""
        name = os.path.basename(path).removeprefix(".taken-")
        self._removed[name].append(self.turns.wall)
        if "/inbox/" in path and name.endswith((".yaml", ".retry")):
            receipt = self.root / "outbox" / "drops" / f"{name}.json"
            if not receipt.exists():
                self.found.append(f"illegal: {name} leaves before its receipt")

    def _is_made(self, name: str) -> bool:
        """Whether the ledger counts the picture of this name."""
        with closing(sqlite3.connect(self.root / "data" / "ledger.sqlite")) as ledger:
            return ledger.execute(_MADE, (name,)).fetchone() is not None

    def _charging(self) -> Callable[..., None]:
        true = Ledger.lost

        def lost(ledger: Ledger, seq: int, why: str, numbers: Any = None) -> None:
            loss = self._losses.get(why)
            if loss is not None:
                loss.times += 1
                images = {(ledger.get(seq).id, number) for number in numbers}
                own = {(loss.task.job, loss.task.index)} if loss.task and loss.charged else set()
                if images != own:
                    self.found.append(f"wrong: {images} are charged for {own}: the slot {why}")
            true(ledger, seq, why, numbers)

        return lost

    def _uncharged(self) -> list[str]:
        """What is wrong with how often each loss was charged; that a kill follows need not be."""
        return [
            f"wrong: that the slot {why} is charged {loss.times} times"
            for why, loss in self._losses.items()
            if loss.times > 1
            or (loss.charged and loss.task and not loss.times and self._killed_at < loss.at)
        ]

    def _accepting(self) -> Callable[..., Any]:
        true = Ledger.accept

        def accept(ledger: Ledger, record: Any, *given: Any) -> Any:
            made = true(ledger, record, *given)
            self._made[made.seq] = made.source_name
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
