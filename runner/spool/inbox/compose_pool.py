"""Planning aside: a spec with `compose` is judged in another process while the intake goes on.

Ten thousand prompts take ten seconds and more to make and audit. In a thread of this process that
would hold up all others, the GPU's among them, at every turn of the interpreter. A spec that may
have ended this process once is judged there too. Nothing is recorded here: a drop that is being
planned lies in the inbox as before. So a runner that ends loses only the work, and a file that is
removed or replaced is planned no further.
"""

from __future__ import annotations

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
from runner.spool.inbox.assess import Assessment, Catalogue, assess
from runner.spool.inbox.compose_process import ComposeProcess, ComposeProcessDied
from runner.spool.inbox.settle import Drop

log = logging.getLogger(__name__)

_COMPOSE = re.compile(rb"""(?:^|[\s{,"'])compose["']?\s*:""")
# A second one, so that a small plan need not wait for a large one.
_AT_ONCE = 2
_MOST_DEATHS = 2


def may_compose(drop: Drop) -> bool:
    """Whether a drop looks as if it had a `compose`; most do not, and are not read for it."""
    return _COMPOSE.search(drop.data) is not None


@dataclass
class PendingDrop:
    """A drop that is planned aside: its place in the order, and its verdict once there is one.

    `unplanned` is what was known before; it becomes the verdict of a drop that is cancelled.
    """

    drop: Drop
    uncomposed: Assessment
    seq: int
    verdict: Assessment | None = None
    planner: ComposeProcess | None = None
    given_up: bool = False


class ComposePool:
    """The drops that are planned aside; for the intake's thread alone."""

    def __init__(self, home: Home, catalogue: Catalogue, wake: threading.Event) -> None:
        self._home = home
        self._catalogue = catalogue
        self._wake = wake
        self._asides: dict[str, PendingDrop] = {}
        # Shared with the threads that wait for the planners.
        self._lock = threading.Lock()
        self._waiting: deque[PendingDrop] = deque()
        self._threads = 0

    def __len__(self) -> int:
        return len(self._asides)

    def __iter__(self) -> Iterator[PendingDrop]:
        return iter(list(self._asides.values()))

    def begin(self, aside: PendingDrop) -> None:
        """Plan a drop; `wake` is set when its verdict is there."""
        log.info("planning %s aside", aside.drop.name)
        self._asides[aside.drop.name] = aside
        with self._lock:
            self._waiting.append(aside)
            if self._threads == _AT_ONCE:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="planning", daemon=True).start()
        except RuntimeError:
            # No thread to be had now: the drop lies where it lay, and is looked at again.
            with self._lock:
                self._threads -= 1
            self.forget([aside.drop.name])
            raise

    def find(self, file: Path) -> PendingDrop | None:
        """What is planned of this file of the inbox; it is forgotten when the file is another."""
        aside = self._asides.get(file.name)
        if aside is None:
            return None
        try:
            unchanged = signature_of(os.lstat(file)) == aside.drop.signature
        except FileNotFoundError:
            unchanged = False
        if not unchanged:
            self.forget([file.name])
        return aside if unchanged else None

    def of(self, drop: Drop) -> PendingDrop | None:
        """What is planned of this very drop."""
        aside = self._asides.get(drop.name)
        return aside if aside is not None and aside.drop is drop else None

    def cancel(self, aside: PendingDrop) -> None:
        """Plan this one no further: what was known before is its verdict."""
        self._give_up(aside)
        aside.verdict = aside.uncomposed
        self._wake.set()

    def keep_only(self, names: set[str]) -> None:
        """Forget drops whose files are no longer there."""
        self.forget(self._asides.keys() - names)

    def forget(self, names: Iterable[str]) -> None:
        """Forget these drops: they are answered, or gone."""
        for name in names:
            aside = self._asides.pop(name, None)
            if aside is not None:
                self._give_up(aside)

    def close(self) -> None:
        """Forget every drop, and end the planners."""
        self.forget(list(self._asides))

    def _give_up(self, aside: PendingDrop) -> None:
        with self._lock:
            aside.given_up = True
            if aside.planner is not None:
                aside.planner.kill()

    def _work(self) -> None:
        """One planner's drops until none is left; runs in a thread that only waits for it."""
        with ComposeProcess() as planner:
            while (aside := self._next(planner)) is not None:
                verdict = self._plan(aside, planner)
                with self._lock:
                    aside.planner = None
                    if not aside.given_up:
                        aside.verdict = verdict
                if aside.given_up:
                    planner.end()
                self._wake.set()

    def _next(self, planner: ComposeProcess) -> PendingDrop | None:
        with self._lock:
            while self._waiting:
                aside = self._waiting.popleft()
                if not aside.given_up:
                    aside.planner = planner
                    return aside
            self._threads -= 1
            return None

    def _plan(self, aside: PendingDrop, planner: ComposeProcess) -> Assessment:
        for _ in range(_MOST_DEATHS):
            try:
                with self._lock:
                    if aside.given_up:
                        break
                    planner.start()
                return planner.assess(aside.drop, self._home, self._catalogue)
            except ComposeProcessDied:
                continue
            except Exception:
                # No room for a process: slower for all others, but no drop is left unanswered.
                log.exception("no process can plan %s: it is planned here", aside.drop.name)
                return assess(aside.drop, self._home, self._catalogue)
        return Assessment(
            reason="CrashLoop",
            message=f"judging this spec ended its process {_MOST_DEATHS} times: change it, or see "
            "the runner's log",
        )
