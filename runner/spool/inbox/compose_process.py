"""A process that assesses the drops it is sent, one after another, and its use from the runner.

It reads and writes pickles through its pipes, writes no file, ignores Ctrl-C, and ends at once when
the process that started it dies or closes the pipe.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Self

from runner.launch import command
from runner.settings import Home
from runner.spool.inbox.assess import Assessment, Catalogue, assess
from runner.spool.inbox.settle import Drop
from runner.terminal import log_to_stderr

_NICENESS = 10
# Raised by writing to a process that ended, and by reading a pickle that breaks off anywhere.
_BROKEN_OFF = (EOFError, OSError, ValueError, IndexError, AttributeError, ImportError)


class ComposeProcessDied(Exception):
    """The process ended before it returned an assessment."""


class ComposeProcess:
    """One such process, a context manager that ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, if there is none. Raises OSError where none can be started."""
        self._process = self._process or _start()

    def assess(self, drop: Drop, home: Home, catalogue: Catalogue) -> Assessment:
        """The result of `assess` in the process, without the plan; the catalogue is pickled too.

        Raises ComposeProcessDied, after which `start` starts another process.
        """
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        order = pickle.dumps((drop.data, drop.name, home, catalogue))
        try:
            process.stdin.write(order)
            process.stdin.flush()
            assessment: Assessment = pickle.load(process.stdout)
        except (*_BROKEN_OFF, pickle.UnpicklingError):
            self.end()
            raise ComposeProcessDied from None
        return assessment

    def kill(self) -> None:
        """Kill the process: `assess` raises ComposeProcessDied. Safe to call from any thread."""
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """End the process, close its pipes and wait for it."""
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
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    return subprocess.Popen(
        command(__name__),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, creationflags=flags,
    )  # fmt: skip


def program() -> None:
    """Read drops from stdin and write their assessments to stdout until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        os.nice(_NICENESS)
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Anything that prints must not write between the pickles.
    sys.stdout = sys.stderr
    log_to_stderr()
    orders: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        while True:
            pickle.dump(replace(assess(*orders.get()), plan=None), results)
            results.flush()
    # Not by a return: the thread that reads stdin would make the interpreter's end a fatal error.
    os._exit(0)


def _listen(orders: SimpleQueue[Any]) -> None:
    try:
        with contextlib.suppress(EOFError):
            while True:
                orders.put(pickle.load(sys.stdin.buffer))
    except BaseException:
        logging.getLogger(__name__).exception("an order could not be read")
    # In the middle of an assessment too: its result is of no use any more.
    os._exit(0)
