"""A runner of its own process whose pictures are flat colours: the real daemon, there at once.

python -m tests.interleaving.light HOME
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

from runner.daemon.daemon import Daemon, stopping_on_signals
from runner.executor import Executor, Failed, Progressed, StoppedEarly
from runner.job import Phase
from runner.logs import log_to_stderr
from runner.settings import Home, Settings
from runner.task import ImageTask
from tests.interleaving.callers import FAILS_AT
from tests.spool.device import FlatColours

SETTINGS = Settings(
    settle_seconds=0.05, settle_seconds_unknown=0.05, rescan_seconds=2.0, input_wait_seconds=5.0
)
_STEPS = 4
_STEP_SECONDS = 0.03


class _Device(FlatColours):
    """Flat colours, made by a thread, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._sign = threading.Event()
        self._orders: SimpleQueue[ImageTask | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, home: Home) -> Executor:
        self._thread = home.threads.start("gpu0", self._run)
        return self

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        (self.task,) = tasks
        self._sign.clear()
        self.models.add(self.task.model)
        self._orders.put(self.task)

    def stop(self, slot: str) -> None:
        self._sign.set()

    def close(self) -> None:
        self.stop("gpu0")
        self._orders.put(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (task := self._orders.get()) is not None:
            for step in range(1, _STEPS + 1):
                time.sleep(_STEP_SECONDS)
                if self._sign.is_set():
                    self._answered()
                    self.events.put(StoppedEarly("gpu0", task))
                    break
                self.events.put(Progressed("gpu0", task, Phase.DENOISING, step, _STEPS))
            else:
                if task.prompt.startswith(f"{FAILS_AT}{task.index} "):
                    self._answered()
                    self.events.put(Failed("gpu0", task, "OutOfMemory", "too large"))
                else:
                    self.finish()


def main(root: str) -> int:
    """Run until a signal; the exit code."""
    log_to_stderr()
    daemon = Daemon(Home(Path(root), SETTINGS), _Device())
    with stopping_on_signals(daemon), daemon:
        daemon.serve()
    if daemon.worker.exit_code is not None:
        os._exit(daemon.worker.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
