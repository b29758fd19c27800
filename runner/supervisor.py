"""Keeping a runner alive: start it, and start it again when something ended it that was not asked.

A GPU driver, a kernel out of memory or a broken library can end the whole process; the next one
takes up the queue where it stood, and a job that keeps ending it fails after three attempts. Knows
nothing of jobs and imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from types import FrameType

from runner.launch import command

EXIT_DEVICE_LOST = 86
"""A runner leaves with this when its GPU answers nothing any more."""

EXIT_HUNG = 87
"""A runner leaves with this when the image in hand does not come to its next step any more."""

_SOON_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 60.0


def keep_running(
    arguments: Sequence[str],
    *,
    meant: Collection[int],
    say: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Run `fluxdrop` with these arguments until it ends with a code it may end with; that code.

    SIGINT and SIGTERM are handed on. A runner that ends soon after its start is started again after
    a pause that doubles, up to a minute.
    """
    stopping = False
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if child is not None and child.poll() is None:
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in _handed_on()}
    seconds = 1.0
    try:
        while True:
            began = time.monotonic()
            # Its own session: Ctrl-C reaches it once, through here, and not a second time.
            child = subprocess.Popen([*command(), *arguments], start_new_session=os.name != "nt")
            code = child.wait()
            if stopping or code in meant:
                return code if code >= 0 else 128 - code
            seconds = 1.0 if time.monotonic() - began > _SOON_SECONDS else seconds
            say(f"the runner ended ({_how(code)}); starting it again")
            pause(seconds)
            seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handed_on() -> tuple[signal.Signals, ...]:
    # On Windows the console sends Ctrl-C to the child itself.
    if sys.platform == "win32":
        return (signal.SIGTERM,)
    else:
        return (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _how(code: int) -> str:
    if code == EXIT_DEVICE_LOST:
        return "the GPU was lost"
    if code == EXIT_HUNG:
        return "an image hung"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
