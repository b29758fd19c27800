"""A process that assesses the drops it is sent, one after another, and its use from the runner.

It writes no file, ignores Ctrl-C, and ends at once when the process that started it dies.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from typing import Any, Self

from runner.logs import log_to_stderr
from runner.settings import Home
from runner.spool.disk.platform import let_others_go_first
from runner.spool.inbox.assess import Assessment, Catalogue, assess
from runner.spool.inbox.settle import Drop


class ComposeProcessDied(Exception):
    """The process ended before it returned an assessment."""


class ComposeProcess:
    """One such process, a context manager that ends it."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._pipe: Any = None

    def start(self) -> None:
        """Start the process, if there is none. Raises OSError where none can be started."""
        if self._process is None:
            self._process, self._pipe = _start()

    def assess(self, drop: Drop, home: Home, catalogue: Catalogue) -> Assessment:
        """The result of `assess` in the process, without the plan; the catalogue is pickled too.

        Raises ComposeProcessDied, after which `start` starts another process.
        """
        try:
            self._pipe.send((drop.data, drop.name, home, catalogue))
            assessment: Assessment = self._pipe.recv()
        except (EOFError, OSError):
            self.end()
            raise ComposeProcessDied from None
        return assessment

    def kill(self) -> None:
        """Kill the process: `assess` raises ComposeProcessDied. Safe to call from any thread."""
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """End the process and wait for it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()
            self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


def _start() -> tuple[SpawnProcess, Any]:
    """A process, and the end of its pipe for this one."""
    # Not forked: of the threads and locks of this process it must have none.
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    with its:
        process = context.Process(target=_work, args=(its,), daemon=True)
        process.start()
    return process, ours


def _work(pipe: Any) -> None:
    """Assess the drops that come through a pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    let_others_go_first()
    # What a command prints may be read as JSON.
    sys.stdout = sys.stderr
    log_to_stderr()
    threading.Thread(target=_end_with_runner, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(assessed(*pipe.recv()))


def assessed(data: bytes, name: str, home: Home, catalogue: Catalogue) -> Assessment:
    """The result of `assess` without the plan; rejected where the system refuses to look."""
    try:
        return replace(assess(data, name, home, catalogue), plan=None)
    except OSError as error:
        message = f"{error}: drop the spec again when that can be read"
        return Assessment(reason="Unreadable", message=message)


def _end_with_runner() -> None:
    runner = multiprocessing.parent_process()
    assert runner is not None
    runner.join()
    # In the middle of an assessment too: its result is of no use any more.
    os._exit(0)
