"""What callers do during a night, as a plan that is drawn first, and what they remember of it.

A plan has two or three callers, each with a list of acts that it does one after another; how they
fall between the runner's steps is the scheduler's. Each act is one to the runner: a careful caller
renames. Never reads the ledger: callers cannot.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.crash.oracle import FINAL_STATES
from tests.crash.scenario import EDIT, SPEC

# None, shorter than an image, a look at the health, longer than an unknown control file may lie.
_PAUSES = (0.0, 0.0, 0.01, 0.05, 0.3, 2.5)
# So many turns of a millisecond a request takes at most.
_SOON = 80
# Longer than a control file waits for a job that nobody knows.
_SLOW_SECONDS = 70.0
_REQUESTS = ("cancel", "cancel", "retry", "retry", "keep", "pause", "resume")
_DISTURBANCES = ("stop", "forget folder", "forget status")
KILLS = ("kill", "kill stopping")
"""At work, and after it was asked to stop."""
LOSSES = ("lose slot", "lose machine")
"""Of a slot: its process ends, which its image is charged with; its machine, which nobody is."""
FAILS_AT = "fails at "
"""In a prompt, with the number of the image that the device fails."""
LONG = "takes long "
"""In a prompt: an image takes seconds."""
MOST_KILLS = 3
"""So many may cost an image its life."""


@dataclass(frozen=True)
class Job:
    """One job to drop: so many images, of which one may fail, made of another job's first one.

    Its id is `stem`. A `named` one has it in its spec, in a file of another name; the file of a
    `slow` one is there for long before anything is in it. A `long` one takes seconds for an image;
    the prompts of a `composed` one come from a pack.
    """

    stem: str
    images: int = 1
    fails: int = 0
    made_of: str = ""
    priority: int = 0
    named: bool = False
    slow: bool = False
    long: bool = False
    composed: bool = False

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.stem}{'-named' if self.named else ''}.yaml"

    @property
    def spec(self) -> bytes:
        """Its spec."""
        if self.made_of:
            text = f"{EDIT}image: outbox/{self.made_of}/{self.made_of}-0001.png\n"
        else:
            start = sum(self.stem.encode()) % 200
            text = f"{SPEC}seeds: {{start: {start}, count: {self.images}}}\n"
        text += f"priority: {self.priority}\n"
        if self.fails:
            text = text.replace("\nprompt: ", f"\nprompt: {FAILS_AT}{self.fails} ")
        if self.long:
            text = text.replace("\nprompt: ", f"\nprompt: {LONG}")
        if self.composed:
            text = re.sub("\nprompt: .*", "\ncompose: {pack: small, subjects: a}", text)
        return (f"{text}id: {self.stem}\n" if self.named else text).encode()


@dataclass(frozen=True)
class Act:
    """Something that a caller does after a while, mostly to one job."""

    what: str
    stem: str = ""
    after: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The jobs of a night, the acts of its callers, and how many slots its device has."""

    jobs: dict[str, Job]
    callers: tuple[tuple[Act, ...], ...]
    slots: int = 1


def draw_plan(draw: random.Random) -> Plan:
    """A plan of up to four jobs."""
    jobs: dict[str, Job] = {}
    slots = draw.choice((1, 1, 2))
    # Of few jobs more comes together, and the night is short.
    for stem in "abcd"[: draw.choice((1, 1, 1, 2, 3, 4))]:
        made_of = draw.choice(("", "", *jobs))
        images = 1 if made_of else draw.randint(1, 3 * slots)
        fails = draw.choice((0, 0, 0, images))
        priority, named, slow = draw.choice((0, 0, 0, 5)), draw.random() < 0.2, draw.random() < 0.1
        kind = "" if fails else draw.choice(("", "", "", "", "long", "" if made_of else "composed"))
        flags = {kind: True} if kind else {}
        jobs[stem] = Job(stem, images, fails, made_of, priority, named, slow, **flags)
    stems = list(jobs)
    callers: list[list[Act]] = [[], []]
    dropper = {stem: draw.choice(callers) for stem in stems}
    for stem, acts in dropper.items():
        acts.append(Act("drop", stem, draw.choice(_PAUSES)))
    for _ in range(draw.randint(1, 8)):
        what = draw.choice(_REQUESTS if draw.random() < 0.7 else _DISTURBANCES)
        stem = draw.choice(stems)
        # Mostly while what came before it is being done.
        after = draw.choice(_PAUSES) if draw.random() < 0.4 else draw.randint(1, _SOON) * 0.001
        # Of what is not there yet little can be asked.
        acts = draw.choice((*callers, dropper[stem], dropper[stem]))
        acts.insert(draw.randint(acts is dropper[stem], len(acts)), Act(what, stem, after))
    for _ in range(draw.choice((0, 1, 1, 2, MOST_KILLS))):
        # Right behind a word to the runner, and a kill maybe: then the runner recovers.
        acts = draw.choice([a for a in callers if any(b.what not in _DISTURBANCES for b in a)])
        place = draw.choice([n for n, act in enumerate(acts, 1) if act.what not in _DISTURBANCES])
        what, after = draw.choice(("kill", *KILLS)), draw.choice((0.0, 0.0, 0.0, 0.1))
        acts.insert(place, Act(what, after=after))
    for _ in range(draw.choice((0, 1, 2, 4) if slots > 1 else (0, 0, 0, 1))):
        acts = draw.choice(callers)
        after = draw.choice((0.0, draw.uniform(0.0, 0.1)))
        acts.insert(draw.randint(0, len(acts)), Act(draw.choice(LOSSES), after=after))
    return Plan(jobs, tuple(map(tuple, callers)), slots)


@dataclass
class Memory:
    """What callers remember: when each file was put, and what they removed of which job."""

    dropped: dict[str, float] = field(default_factory=dict)
    cancels: dict[str, list[float]] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    meddled: set[str] = field(default_factory=set)
    without_status: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The final statuses that callers removed, by id."""
    kills: list[float] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    """How often a slot ended that was at work on a job, by its id."""
    last: str = ""
    """The name of the file that was put last."""


class Clock(Protocol):
    """What callers need of a scheduler, or of the world."""

    @property
    def wall(self) -> float:
        """The time of day, in seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""


class Caller:
    """One caller: does its acts, each in one turn."""

    def __init__(
        self, turns: Clock, home: Path, plan: Plan, memory: Memory, tell: Callable[[str], None],
        orders: dict[str, Callable[[], None]],
    ) -> None:  # fmt: skip
        self._turns = turns
        self._inbox, self._outbox = home / "inbox", home / "outbox"
        self._plan = plan
        self._memory = memory
        self._tell = tell
        self._orders = orders

    def do(self, acts: tuple[Act, ...]) -> None:
        """Do everything, one after another."""
        for act in acts:
            self._turns.sleep(act.after)
            self.act(act)

    def act(self, act: Act) -> None:
        """Do one thing."""
        stem, memory = act.stem, self._memory
        match act.what:
            case "drop":
                self._drop(self._plan.jobs[stem])
            case "cancel":
                asked = self._turns.wall
                if self._put(f"{stem}.cancel"):
                    memory.cancels.setdefault(stem, []).append(asked)
            case "retry":
                # Of what is not there yet nothing can be asked again, but for a minute.
                if stem in memory.dropped and self._put(f"{stem}.retry"):
                    memory.retries[stem] = memory.retries.get(stem, 0) + 1
            case "keep":
                if stem in memory.dropped and self._put(f"{stem}.keep"):
                    memory.kept.add(stem)
            case "pause":
                self._put("runner.pause")
            case "resume":
                (self._inbox / "runner.pause").unlink(missing_ok=True)
                self._tell("")
            case "forget folder":
                if (self._outbox / stem).exists():
                    memory.meddled.add(stem)
                    # In one step, as a person does; the runner may be writing there.
                    aside = self._inbox.parent / "taken-away"
                    os.replace(self._outbox / stem, aside)
                    shutil.rmtree(aside)
            case "forget status":
                self._forget_status(self._outbox / stem / "status.json")
            case order:
                self._orders[order]()
                if order == "kill":
                    memory.kills.append(self._turns.wall)

    def _drop(self, job: Job) -> None:
        self._memory.dropped[job.stem] = self._turns.wall
        if job.slow:
            self._put(job.file)
            self._turns.sleep(_SLOW_SECONDS)
            (self._inbox / job.file).write_bytes(job.spec)
            self._tell("")
        else:
            self._put(job.file, job.spec)

    def _forget_status(self, file: Path) -> None:
        if file.exists():
            status = json.loads(file.read_bytes())
            if status["state"] in FINAL_STATES:
                # What is over is its callers': nobody writes it again.
                self._memory.without_status[file.parent.name] = status
            file.unlink()

    def _put(self, name: str, data: bytes = b"") -> bool:
        """Rename a file into the inbox; False where one of that name lies there: it is one word."""
        if (self._inbox / name).exists():
            return False
        aside = self._inbox / ".tmp" / name
        aside.parent.mkdir(exist_ok=True)
        aside.write_bytes(data)
        moment = int(self._turns.wall * 1e9)
        os.utime(aside, ns=(moment, moment))
        os.replace(aside, self._inbox / name)
        self._memory.last = name
        self._tell(name)
        return True
