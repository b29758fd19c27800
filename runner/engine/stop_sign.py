"""The stop sign of a task and its time limit: `check` tests both at every cancellation point."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner.errors import Stopped, TimedOut


class StopSign:
    """Set by any thread, checked by the one that renders.

    `limit` is in seconds from the creation of the sign or the last `restart_clock`. The seconds
    inside `not_counted` (loading) are added to it again, and summed in `given_back`.
    """

    def __init__(
        self, limit: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._event = threading.Event()
        self._limit = limit
        self._clock = clock
        self._until = None if limit is None else clock() + limit
        self.given_back = 0.0

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise Stopped if the sign is set, else TimedOut if the limit is over."""
        if self._event.is_set():
            raise Stopped("the stop sign is set")
        if self._until is not None and self._clock() > self._until:
            raise TimedOut(
                f"the image took longer than its timeout of {self._limit:g} s:"
                " raise `timeout`, or lower `steps` or the size"
            )

    def restart_clock(self) -> None:
        """Start the time limit anew; the time that the task waited before does not count."""
        if self._limit is not None:
            self._until = self._clock() + self._limit

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - began
            self.given_back += seconds
            if self._until is not None:
                self._until += seconds
