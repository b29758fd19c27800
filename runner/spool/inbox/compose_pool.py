"""Assesses specs with `compose` or a `table` in other processes while the intake goes on.

Ten thousand prompts take ten seconds and more to make and audit; a thread for that would slow down
all others, the GPU's among them, by holding the interpreter's lock. A spec that may have ended this
process once is assessed there too. Nothing is recorded here: the file of a pending drop stays in
the inbox. So only the work is lost if the runner ends, or if the file is removed or replaced.
"""

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.settings import Home
from runner.spool.disk.platform import signature_of
from runner.spool.inbox.assess import Assessment, Catalogue
from runner.spool.inbox.compose_process import ComposeProcess, ComposeProcessDied, assessed
from runner.spool.inbox.settle import Drop

log = logging.getLogger(__name__)

_COMPOSE = re.compile(rb"""(?:^|[\s{,"'])(?:compose|table)["']?\s*:""")
# A second process, so that a small spec need not wait for a large one.
_MOST_PROCESSES = 2
_MOST_DEATHS = 2


def may_compose(drop: Drop) -> bool:
    """Whether a drop may have `compose` or `table`, by its bytes: most specs need no parsing."""
    return _COMPOSE.search(drop.data) is not None


@dataclass
class PendingDrop:
    """A drop in the pool: its `seq` in the ledger, and its assessment once there is one.

    `uncomposed` is the assessment before its prompts are made, also used when it is cancelled.
    """

    drop: Drop
    uncomposed: Assessment
    seq: int
    assessment: Assessment | None = None
    process: ComposeProcess | None = None
    given_up: bool = False


class ComposePool:
    """The pending drops; used by the intake's thread only."""

    def __init__(self, home: Home, catalogue: Catalogue, wake: threading.Event) -> None:
        self._start_thread = home.threads.start
        self._home = home
        self._catalogue = catalogue
        self._wake = wake
        self._pending: dict[str, PendingDrop] = {}
        # Guards what the threads that wait for the processes use too.
        self._lock = threading.Lock()
        self._waiting: deque[PendingDrop] = deque()
        self._threads = 0
        self._started = 0

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[PendingDrop]:
        return iter(list(self._pending.values()))

    def begin(self, pending: PendingDrop) -> None:
        """Have a drop assessed; `wake` is set when that is done."""
        log.info("assessing %s in another process", pending.drop.name)
        self._pending[pending.drop.name] = pending
        with self._lock:
            self._waiting.append(pending)
            if self._threads == _MOST_PROCESSES:
                return
            self._threads += 1
            # One that finds nothing more to do still ends its process: no other may have its name.
            self._started += 1
            name = f"compose {self._started}"
        try:
            self._start_thread(name, self._work)
        except RuntimeError:
            # No thread can be started now: the drop is still in the inbox, and is tried again.
            with self._lock:
                self._threads -= 1
            self.forget([pending.drop.name])
            raise

    def find(self, file: Path) -> PendingDrop | None:
        """The pending drop of a file in the inbox; it is forgotten when the file has changed."""
        pending = self._pending.get(file.name)
        if pending is None:
            return None
        try:
            unchanged = signature_of(os.lstat(file)) == pending.drop.signature
        except FileNotFoundError:
            unchanged = False
        if not unchanged:
            self.forget([file.name])
        return pending if unchanged else None

    def of(self, drop: Drop) -> PendingDrop | None:
        """The pending drop of this drop, not of another one with its name."""
        pending = self._pending.get(drop.name)
        return pending if pending is not None and pending.drop is drop else None

    def cancel(self, pending: PendingDrop) -> None:
        """Stop working on a drop: its assessment is the one before its prompts are made."""
        self._give_up(pending)
        pending.assessment = pending.uncomposed
        self._wake.set()

    def keep_only(self, names: set[str]) -> None:
        """Forget drops whose files are no longer there."""
        self.forget(self._pending.keys() - names)

    def forget(self, names: Iterable[str]) -> None:
        """Forget these drops: they are acknowledged, or gone."""
        for name in names:
            pending = self._pending.pop(name, None)
            if pending is not None:
                self._give_up(pending)

    def _give_up(self, pending: PendingDrop) -> None:
        with self._lock:
            pending.given_up = True
            if pending.process is not None:
                pending.process.kill()

    def _work(self) -> None:
        """Have one process assess drops until none is left; the thread only waits for it."""
        with ComposeProcess() as process:
            while (pending := self._next(process)) is not None:
                assessment = self._assess(pending, process)
                with self._lock:
                    pending.process = None
                    if not pending.given_up:
                        pending.assessment = assessment
                if pending.given_up:
                    process.end()
                self._wake.set()

    def _next(self, process: ComposeProcess) -> PendingDrop | None:
        with self._lock:
            while self._waiting:
                pending = self._waiting.popleft()
                if not pending.given_up:
                    pending.process = process
                    return pending
            self._threads -= 1
            return None

    def _assess(self, pending: PendingDrop, process: ComposeProcess) -> Assessment:
        # What is sent to the process: threads and places stay with this one.
        home = Home(self._home.root, self._home.settings)
        for _ in range(_MOST_DEATHS):
            try:
                with self._lock:
                    if pending.given_up:
                        break
                    process.start()
                return process.assess(pending.drop, home, self._catalogue)
            except ComposeProcessDied:
                continue
            except Exception:
                # No process can be started: slower for all others, but the drop is assessed.
                log.exception("no process for %s: it is assessed here", pending.drop.name)
                drop = pending.drop
                return assessed(drop.data, drop.name, home, self._catalogue)
        return Assessment(
            reason="CrashLoop",
            message=f"judging this spec ended its process {_MOST_DEATHS} times: change it, or see "
            "the runner's log",
        )
