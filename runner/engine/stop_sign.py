"""The stop sign of one task, and its clock: one `check` at every step and joint asks both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner.errors import Stopped, TimedOut


class StopSign:
    """Set from any thread, checked by the one that renders.

    The time limit counts from the making of the sign; what `not_counted` wraps (loading) is
    given back, and added up in `given_back`.
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
        """Raises where the task must end now: `Stopped` first, then `TimedOut`."""
        if self._event.is_set():
            raise Stopped("the stop sign was seen")
        if self._until is not None and self._clock() > self._until:
            raise TimedOut(
                f"the image took longer than its timeout of {self._limit:g} s:"
                " raise `timeout`, or lower `steps` or the size"
            )

    def restart_clock(self) -> None:
        """The task is in hand from now; what it waited before does not count."""
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
