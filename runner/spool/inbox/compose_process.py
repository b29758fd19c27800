"""The process that plans, from both sides: it judges the drops it is handed, one after another.

It speaks pickles through its pipes, writes no file, takes no Ctrl-C, and ends at once when whoever
started it dies or closes the pipe.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from queue import SimpleQueue
from typing import Any, Self

from runner.launch import command
from runner.settings import Home
from runner.spool.inbox.assess import Assessment, Catalogue, assess
from runner.spool.inbox.settle import Drop

_NICENESS = 10
# What writing to a process that ended raises, and reading an answer that breaks off anywhere.
_CUT_SHORT = (EOFError, OSError, ValueError, IndexError, AttributeError, ImportError)


class ComposeProcessDied(Exception):
    """The process ended before it answered."""


class ComposeProcess:
    """One such process; ended when the `with` is left."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, if there is none. Raises OSError where none can be started."""
        self._process = self._process or _start()

    def assess(self, drop: Drop, home: Home, catalogue: Catalogue) -> Assessment:
        """What `assess` finds there. Raises ComposeProcessDied; then `start` starts another.

        The catalogue travels too, so it must be one that can be pickled.
        """
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        order = pickle.dumps((drop, home, catalogue))
        try:
            process.stdin.write(order)
            process.stdin.flush()
            verdict: Assessment = pickle.load(process.stdout)
        except (*_CUT_SHORT, pickle.UnpicklingError):
            self.end()
            raise ComposeProcessDied from None
        return verdict

    def kill(self) -> None:
        """Have what is being judged end in ComposeProcessDied; from any thread."""
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """End the process and give everything of it back."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


def _start() -> subprocess.Popen[bytes]:
    quietly = 0
    if sys.platform == "win32":
        quietly = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    return subprocess.Popen(
        command(__name__),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, creationflags=quietly,
    )  # fmt: skip


def program() -> None:
    """Answer every order with its verdict."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        os.nice(_NICENESS)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever prints must not get between the pickles.
    sys.stdout = sys.stderr
    orders: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        pickle.dump(assess(*orders.get()), answers)
        answers.flush()


def _listen(orders: SimpleQueue[Any]) -> None:
    while True:
        try:
            orders.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            # In the middle of a plan too: nobody waits for it.
            os._exit(0)
