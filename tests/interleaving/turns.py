"""A scheduler by which threads take turns: one runs at a time, and a draw says who is next.

Before each lock, wait and file operation a thread gives its turn back. Time is virtual: a turn
takes a millisecond, and where all threads wait it goes on to the next deadline. So one draw gives
one order of events, again and again, and a night takes no longer than its work.

Stands in for `threading`, for the executor's queue and for the clock in the runner's modules while
`installed`; it never touches those of anybody else.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest import mock

TURN_SECONDS = 0.001
_WALL = 1_800_000_000.0
# A thread that is kept from its turn looks at the clock late: so much time may pass unseen.
_LATE_SECONDS = 1.0
_LATE = 0.01
_MOST_TURNS = 400_000
_AUDITED = {
    "open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link",
}  # fmt: skip
_PATCHED = (
    "runner.daemon.daemon", "runner.daemon.recording", "runner.daemon.writer",
    "runner.spool.inbox.compose_pool", "runner.spool.inbox.intake", "runner.spool.store.database",
    "runner.spool.store.outbox", "runner.threads",
)  # fmt: skip


class Killed(BaseException):
    """Ends a thread as the end of its process would.

    Of the runner's own code only the watch of its threads catches it.
    """


class Stuck(AssertionError):
    """Every thread waits for another one, or the night does not end."""


class Player:
    """One thread; `group` says whose it is, and dies together."""

    def __init__(self, name: str, group: str, act: Callable[[], None]) -> None:
        self.name, self.group, self.act = name, group, act
        self.gate = threading.Semaphore(0)
        self.ready: Callable[[], bool] | None = None
        self.until: float | None = None
        # Whether it is next as soon as what it waits for holds.
        self.urgent = False
        self.doomed = False
        self.over = False
        # Its file operations are one: a caller's, which no thread of ours may come between.
        self.undisturbed = False
        self.thread: threading.Thread | None = None


_mine = threading.local()
_playing: list[Turns] = []


class Turns:
    """The players of one night, of which one has the turn."""

    def __init__(self, draw: random.Random, root: str) -> None:
        self.now = 1000.0
        self.count = 0
        self.players: list[Player] = []
        self.failures: list[tuple[str, BaseException]] = []
        self.root = root
        self._draw = draw
        # From a thread that is hardly ever disturbed to one that is at every chance.
        self._staying = draw.choice((0.0, 0.5, 0.9, 0.98))
        self._finished = threading.Semaphore(0)

    # -- players ---------------------------------------------------------------------------------

    def spawn(self, name: str, group: str, act: Callable[[], None]) -> Player:
        """Add a thread, which waits for its first turn."""
        player = Player(name, group, act)
        player.thread = threading.Thread(target=self._life, args=(player,), daemon=True)
        self.players.append(player)
        player.thread.start()
        return player

    def _life(self, player: Player) -> None:
        _mine.player = player
        player.gate.acquire()
        try:
            if not player.doomed:
                player.act()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 it is told by whoever plays the night
            self.failures.append((player.name, error))
        player.over = True
        self.players.remove(player)
        if not player.doomed:
            self._pass_on()

    def play(self) -> None:
        """Let the players play until all are over; raises Stuck where they cannot."""
        _playing.append(self)
        try:
            self._pass_on()
            self._finished.acquire()
        finally:
            _playing.remove(self)
            self.kill()
        for name, error in self.failures:
            raise AssertionError(f"the thread {name} ended: {error!r}") from error

    def kill(self, group: str | None = None) -> None:
        """End the players of a group, or all; the caller is none of them."""
        for player in [each for each in self.players if group in (None, each.group)]:
            player.doomed = True
            player.gate.release()
            assert player.thread is not None
            player.thread.join(30)
            assert not player.thread.is_alive(), f"{player.name} does not end"

    # -- turns -----------------------------------------------------------------------------------

    def give(self) -> None:
        """Give the turn back, and go on when it is this thread's again."""
        player = _mine.player
        if player.doomed:
            raise Killed
        try:
            following = self._next()
        except Stuck as stuck:
            # `play` ends the others.
            player.doomed = True
            self._end(stuck)
            raise Killed from stuck
        if following is not player:
            following.gate.release()
            player.gate.acquire()
        if player.doomed:
            raise Killed

    def wait(
        self, ready: Callable[[], bool], seconds: float | None = None, *, urgent: bool = False
    ) -> bool:
        """Wait until something holds, or for so many virtual seconds at most; whether it holds.

        One that is `urgent` is next then, before any other.
        """
        player = _mine.player
        player.urgent = urgent
        player.ready = ready
        player.until = None if seconds is None else self.now + seconds
        try:
            self.give()
            return ready()
        finally:
            player.ready, player.until, player.urgent = None, None, False

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        self.wait(lambda: False, seconds)

    def _pass_on(self) -> None:
        """Give the turn of a thread that is over to another."""
        if not self.players:
            self._finished.release()
            return
        try:
            self._next().gate.release()
        except Stuck as stuck:
            self._end(stuck)

    def _end(self, stuck: Stuck) -> None:
        self.failures.append(("all", stuck))
        self._finished.release()

    def _next(self) -> Player:
        self.now += TURN_SECONDS
        self.count += 1
        if self.count > _MOST_TURNS:
            raise self._stuck(f"{self.count} turns, and no end")
        can = [p for p in self.players if p.ready is None or p.ready() or self._is_due(p)]
        waits = [p.until for p in self.players if p.until is not None and p not in can]
        if not can or (waits and self._draw.random() < _LATE):
            first = min(waits, default=None)
            if first is None:
                raise self._stuck("every thread waits")
            elif not can or first - self.now <= _LATE_SECONDS:
                self.now = max(self.now, first)
                can += [p for p in self.players if p.until == first]
        if urgent := [p for p in can if p.urgent]:
            return urgent[0]
        current = getattr(_mine, "player", None)
        if current in can and self._draw.random() < self._staying:
            return current
        return self._draw.choice(can)

    def _is_due(self, player: Player) -> bool:
        return player.until is not None and player.until <= self.now

    def _stuck(self, why: str) -> Stuck:
        return Stuck(f"{why}: {', '.join(player.name for player in self.players)}")

    # -- the clock -------------------------------------------------------------------------------

    @property
    def wall(self) -> float:
        """The virtual time of day, in seconds since the epoch."""
        return _WALL + self.now

    # -- stand-ins -------------------------------------------------------------------------------

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the runner's modules use these locks, threads and clocks."""
        threads = SimpleNamespace(
            Lock=lambda: _Lock(self),
            RLock=lambda: _Lock(self),
            Condition=lambda: _Condition(self),
            Event=lambda: _Event(self),
            Thread=lambda **given: _Thread(self, **given),
            current_thread=lambda: None,
            main_thread=threading.main_thread,
        )
        clock = SimpleNamespace(time=lambda: self.wall, monotonic=lambda: self.now)
        with ExitStack() as patches:
            patches.enter_context(mock.patch("runner.clock.time", clock))
            for module in _PATCHED:
                patches.enter_context(mock.patch(f"{module}.threading", threads))
            yield


class _Lock:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._owner: Player | None = None
        self._depth = 0

    def acquire(self) -> bool:
        player = _player()
        if self._owner is not player:
            self._turns.wait(lambda: self._owner is None)
            self._depth = 0
        self._owner, self._depth = player, self._depth + 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def __enter__(self) -> _Lock:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class _Condition(_Lock):
    def __init__(self, turns: Turns) -> None:
        super().__init__(turns)
        self._notified = 0

    def wait(self, timeout: float | None = None) -> bool:
        depth, before = self._depth, self._notified
        self._owner, self._depth = None, 0
        told = self._turns.wait(lambda: self._notified > before, timeout)
        self.acquire()
        self._depth = depth
        return told

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        assert timeout is None
        while not (value := predicate()):
            self.wait()
        return value

    def notify(self) -> None:
        self._notified += 1


class _Event:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._set = False

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        return self._turns.wait(self.is_set, timeout)


class Queue:
    """The part of a SimpleQueue that an executor and the worker use."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self, timeout: float | None = None) -> Any:
        if not self._turns.wait(lambda: bool(self._items), timeout):
            raise Empty
        return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)


class _Thread:
    def __init__(
        self, turns: Turns, target: Callable[..., None], name: str, args: tuple[Any, ...] = (),
        daemon: bool = True,
    ) -> None:  # fmt: skip
        self._turns, self._target, self._args, self.name = turns, target, args, name
        self._player: Player | None = None

    def start(self) -> None:
        self._player = self._turns.spawn(self.name, "runner", lambda: self._target(*self._args))

    def is_alive(self) -> bool:
        return self._player is not None and not self._player.over

    def join(self, timeout: float | None = None) -> None:
        self._turns.wait(lambda: not self.is_alive(), timeout)


def _player() -> Player:
    return _mine.player  # type: ignore[no-any-return]


def own_name() -> str:
    """The name of this thread."""
    return _player().name


def _hook(event: str, given: tuple[Any, ...]) -> None:
    if not _playing or event not in _AUDITED:
        return
    player = getattr(_mine, "player", None)
    if player is None or player.undisturbed:
        return
    path = given[0]
    if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(_playing[-1].root):
        _playing[-1].give()


def watch_files() -> None:
    """Have every file operation below a night's home give the turn back, from now on."""
    if not getattr(_hook, "added", False):
        sys.addaudithook(_hook)
        _hook.added = True  # type: ignore[attr-defined]


def undisturbed() -> None:
    """Let this thread's file operations be one: nothing comes between those of one act."""
    _mine.player.undisturbed = True
