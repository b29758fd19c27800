"""The keys that are pressed at a terminal, at once and unseen, on POSIX systems and Windows.

Ctrl-C interrupts as it always does.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_SECONDS = 0.02


@contextmanager
def pressed() -> Iterator[Callable[[float], str | None]]:
    """Yields what waits at most so many seconds for keys: those, "", or None where none can come.

    Leaves the terminal as it was.
    """
    if sys.platform == "win32":
        yield _of_console
        return
    import termios
    import tty
    from select import select

    terminal = sys.stdin.fileno()

    def read(seconds: float) -> str | None:
        if not select([terminal], [], [], seconds)[0]:
            return ""
        # Nothing is read where the terminal was closed.
        return os.read(terminal, 64).decode(errors="replace") or None

    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield read
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _of_console(seconds: float) -> str:
    import msvcrt

    deadline = time.monotonic() + seconds
    while not msvcrt.kbhit():  # type: ignore[attr-defined,unused-ignore]
        if time.monotonic() >= deadline:
            return ""
        time.sleep(_POLL_SECONDS)
    return str(msvcrt.getwch())  # type: ignore[attr-defined,unused-ignore]
