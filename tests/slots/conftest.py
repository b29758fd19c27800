"""What the tests of slots share: child processes that are ended, and their events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from runner.executor import Event, Executor, Progressed, Woken
from runner.slots.process import ProcessExecutor
from runner.threads import Threads
from tests.harness import eventually
from tests.slots.inner import Inner


class Told:
    """The events of an executor, as they come."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def next(self, seconds: float = 50.0) -> Event:
        """The next event that is neither progress nor a mere waking."""
        while isinstance(event := self._executor.events.get(timeout=seconds), Progressed | Woken):
            pass
        return event

    def reaches(self, seconds: float = 50.0) -> Progressed:
        """The next progress with a step."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            event = self._executor.events.get(timeout=seconds)
            if isinstance(event, Progressed) and event.step:
                return event
        raise AssertionError("no step was made")

    def all_to_the_answer(self) -> list[Event]:
        """All that comes, up to what is no progress."""
        events: list[Event] = []
        while not events or isinstance(events[-1], Progressed):
            if not isinstance(event := self._executor.events.get(timeout=50), Woken):
                events.append(event)
        return events

    def rest(self) -> list[Event]:
        """What else has come by now."""
        found: list[Event] = []
        while True:
            try:
                event = self._executor.events.get_nowait()
            except Empty:
                return found
            if not isinstance(event, Woken):
                found.append(event)


def ready(executor: Executor, count: int = 1) -> list[str]:
    """The names of its slots, once so many take tasks."""

    def names() -> list[str] | None:
        found = [slot.name for slot in executor.slots() if slot.is_free]
        return found if len(found) >= count else None

    return eventually(names, f"{count} free slots")


@pytest.fixture
def child_of() -> Iterator[Callable[..., ProcessExecutor]]:
    """Makes children, and ends them and their threads."""
    made: list[ProcessExecutor] = []

    def make(make: Callable[..., Executor] = Inner, *arguments: Any, **named: Any) -> Any:
        events: SimpleQueue[Event] = named.pop("events", None) or SimpleQueue()
        threads = named.pop("threads", None) or Threads()
        named.setdefault("name", "child")
        made.append(ProcessExecutor(make, arguments, events=events, threads=threads, **named))
        return made[-1]

    yield make
    for each in made:
        if each._process is not None:
            each._process.kill()
        each.close()
