"""The threads of one runner, watched: when each last moved, and whether one of them ended.

A runner that lost a thread looks alive and does half of its work. So the daemon looks here at each
step and as it closes, and ends the process. Starts threads, and never ends one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from runner.clock import AwakeClock, monotonic


class Threads:
    """Starts threads by name; safe to use from any thread."""

    def __init__(self, on_broken: Callable[[], object] | None = None) -> None:
        self._on_broken = on_broken
        self.broken: str | None = None
        """Which thread ended by an exception, as a sentence; None while none has."""
        self.awake = AwakeClock()
        """What the limits of images go by."""
        self._moved: dict[str, float] = {}

    def start(self, name: str, act: Callable[[], object]) -> threading.Thread:
        """Start a thread. Raises RuntimeError where none can be started."""

        def run() -> None:
            self.moved(name)
            try:
                act()
            except BaseException as error:
                # Here, for most commands start no thread.
                import logging

                logging.getLogger(__name__).critical("%s ended", name, exc_info=error)
                self.broken = f"its thread {name} ended by a mistake ({type(error).__name__})"
                if self._on_broken is not None:
                    self._on_broken()
            self._moved.pop(name, None)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def moved(self, name: str) -> None:
        """Note that a thread goes on with its work."""
        self._moved[name] = monotonic()

    def still(self) -> dict[str, float]:
        """For how many seconds each thread has not moved, by name; it may have nothing to do."""
        moment = monotonic()
        return {name: round(moment - at, 1) for name, at in sorted(self._moved.copy().items())}
