"""Contestants in processes of their own that run in turns: what disturbs the machine hits them all.

Each is frozen by the system while another has its turn, in the midst of whatever it does, so what
one would do beside its work it still does, and never on another's time. Only the time of its own
turns counts. What a contestant needs first (imports, loading, warming up) is over before the clock
starts. A contestant is `f(stage, **arguments) -> dict`, at the top of a module.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import psutil

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_READY_SECONDS = 600.0


class Stage:
    """What a contestant tells: that it is ready, and each time that a part of its work is done."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._cpu = 0.0
        self._began = 0.0
        self._done: tuple[float, float] | None = None

    def ready(self) -> None:
        """All that is not measured is done; returns when the first turn begins."""
        self._say("ready")
        self._line.recv()
        self._cpu, self._began = time.process_time(), time.perf_counter()

    def mark(self) -> None:
        """One more part is done; callable from any thread."""
        self._say("mark")

    def done(self) -> None:
        """All that is measured is done; what follows is putting away."""
        self._done = time.perf_counter(), time.process_time() - self._cpu

    def over(self, said: Mapping[str, Any]) -> None:
        """The contestant has returned."""
        if self._done is None:
            self.done()
        self._say("over", self._done, self._began, dict(said))

    def _say(self, what: str, *more: object) -> None:
        with self._lock:
            self._line.send((what, time.perf_counter(), *more))


@dataclass(frozen=True)
class Contestant:
    """A function of a module (`module:function`) and what it is called with."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One contestant's own seconds: at each of its marks, in all, and of the processor."""

    marks: Sequence[float]
    seconds: float
    cpu: float
    said: Mapping[str, Any]

    def blocks(self, size: int) -> list[float]:
        """The seconds of each block of so many marks; the rest is left out."""
        at = [0.0, *self.marks]
        return [at[n + size] - at[n] for n in range(0, len(at) - size, size)]


class _Player:
    """A contestant's process, its turns so far, and what it said at which moment."""

    def __init__(self, name: str, contestant: Contestant) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self.line, theirs = context.Pipe()
        self._process = context.Process(target=_play, args=(theirs, contestant), daemon=True)
        with _one_thread_each():
            self._process.start()
        theirs.close()
        self._jobs: list[tuple[float, float]] = []
        self._marks: list[float] = []
        if self._heard(_READY_SECONDS) is None:
            raise RuntimeError(f"{name} was not ready within {_READY_SECONDS:.0f} s")
        self._system = psutil.Process(self._process.pid)
        self._system.suspend()
        self.line.send("go")
        self.run: Run | None = None

    def turn(self, seconds: float) -> None:
        """Let it work for so long, or until it is done."""
        began = time.perf_counter()
        until = began + seconds
        self._system.resume()
        over: tuple[Any, ...] | None = None
        while over is None and (left := until - time.perf_counter()) > 0:
            over = self._heard(left)
        if over is None:
            self._system.suspend()
        self._jobs.append((began, time.perf_counter()))
        if over is not None:
            _, _, (at, cpu), first, said = over
            # What it took to wake up before the first turn is nobody's work.
            late = self._own(first)
            marks = [self._own(mark) - late for mark in self._marks]
            self.run = Run(marks, self._own(at) - late, cpu, said)
            self.end()

    def _heard(self, seconds: float) -> tuple[Any, ...] | None:
        """Note marks for so long; what it said of its end, or that it is ready."""
        if not self.line.poll(seconds):
            return None
        try:
            said = self.line.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"{self._name} ended before its time (exit code {self._process.exitcode})"
            ) from None
        if said[0] == "mark":
            self._marks.append(said[1])
            return None
        return tuple(said)

    def _own(self, moment: float) -> float:
        return sum(min(moment, to) - since for since, to in self._jobs if since < moment)

    def end(self) -> None:
        """End the process, frozen or not."""
        self.line.close()
        if self.run is None:
            self._process.kill()
        self._process.join()


def take_turns(contestants: Mapping[str, Contestant], seconds: float = 1.0) -> dict[str, Run]:
    """Let each do all its work, `seconds` at a time; what each took."""
    players: dict[str, _Player] = {}
    try:
        for name, contestant in contestants.items():
            players[name] = _Player(name, contestant)
        while any(player.run is None for player in players.values()):
            for player in players.values():
                if player.run is None:
                    player.turn(seconds)
        return {name: player.run for name, player in players.items() if player.run is not None}
    finally:
        for player in players.values():
            if player.run is None:
                player.end()


def _play(line: Connection, contestant: Contestant) -> None:
    module, _, name = contestant.function.partition(":")
    act: Callable[..., Mapping[str, Any]] = getattr(importlib.import_module(module), name)
    stage = Stage(line)
    stage.over(act(stage, **contestant.arguments))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes started inside: arithmetic in one thread, as the runner does for small models.

    A library reads this when it is loaded, so it has to stand there before.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
