"""Several executors as one."""

import threading
from collections.abc import Sequence
from queue import SimpleQueue

from runner.executor import Event, Executor, Slot
from runner.task import ImageTask


class Several:
    """The slots of several executors, whose names must differ, with one queue of events."""

    def __init__(self, executors: Sequence[Executor], events: SimpleQueue[Event]) -> None:
        self.events = events
        self._executors = executors
        for each in executors:
            each.events = events

    def slots(self) -> Sequence[Slot]:
        return [slot for each in self._executors for slot in each.slots()]

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        for each in self._executors:
            each.prepare(upcoming)

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        found = self._having(slot)
        if found is None:
            raise ValueError(f"slot {slot} cannot start a task: it is not there")
        found.start(slot, tasks)

    def stop(self, slot: str) -> None:
        if (found := self._having(slot)) is not None:
            found.stop(slot)

    def abandon(self, slot: str, why: str) -> bool:
        found = self._having(slot)
        return found is None or found.abandon(slot, why)

    def release(self) -> None:
        for each in self._executors:
            each.release()

    def close(self) -> None:
        """Close all at once: one may take seconds."""
        closing = [threading.Thread(target=each.close, daemon=True) for each in self._executors]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _having(self, slot: str) -> Executor | None:
        return next(
            (e for e in self._executors if any(each.name == slot for each in e.slots())), None
        )
