"""The signals that ask a process to stop. Must never end one that is told twice to hang up."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

if sys.platform == "win32":
    SIGNALS = (signal.SIGINT, signal.SIGTERM)
else:
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether this process is to stop; `set` may be called in a signal handler.

    There, threading.Event waits for ever for a lock that the code which it interrupts may hold.
    """

    def __init__(self) -> None:
        self._asked = False
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Ask to stop."""
        self._asked = True
        self._wakes.put(None)

    def is_set(self) -> bool:
        """Whether it is to stop."""
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Whether it is to stop, or is told so within these seconds."""
        with suppress(Empty):
            # For who waits beside.
            self._wakes.put(self._wakes.get(timeout=seconds))
        return self._asked


@contextmanager
def taken_by(
    handle: Callable[[int, FrameType | None], object], without: int | None = None
) -> Iterator[dict[int, Any]]:
    """Let `handle` take these signals; yields what took them before.

    SIGHUP stays ignored where it was: `nohup` ignores it for what it starts. It is ignored from the
    first one on, to the end of the process: a terminal that is closed sends more than one, by its
    shell and by the system, and what stops at the first needs time for it.
    """
    before: dict[int, Any] = {}

    def take(number: int, frame: FrameType | None) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
            # Another may have come in between, and called this first.
            before.pop(number, None)
        handle(number, frame)

    for each in SIGNALS:
        hangs_up = each not in (signal.SIGINT, signal.SIGTERM)
        if each != without and not (hangs_up and signal.getsignal(each) == signal.SIG_IGN):
            before[each] = signal.signal(each, take)
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
