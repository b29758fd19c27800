"""Removes finished jobs as the setting `retention` says, in a thread of its own while it is idle.

Which, and how, is `runner.retention`'s, as for `clean`; the intake then forgets them.
"""

import logging
from collections.abc import Callable
from threading import Event, Thread

from runner import client
from runner.clock import monotonic
from runner.daemon.writer import Writer
from runner.errors import Stopped
from runner.retention import Limits, choose, remove, survey
from runner.spool.store.spool import Spool
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

# Before each job, for others need the interpreter; and while the runner has work.
_TURN_SECONDS, _BUSY_SECONDS = 0.002, 0.5
_AGAIN_SECONDS = 1800.0


class Tidying:
    """The removals of one runner, one after another."""

    def __init__(self, spool: Spool, writer: Writer, is_idle: Callable[[], bool]) -> None:
        self._spool, self._writer, self._home = spool, writer, spool.home
        self._is_idle = is_idle
        self._limits: Limits = {}
        self._due = 0.0
        # A runner that was killed may have left a removal half done.
        self._is_done = False
        self._closing, self._thread = Event(), Thread()

    def look(self) -> None:
        """Begin a removal where the setting asks for it, every half hour and when it changes."""
        limits = self._home.settings.retention
        is_due = limits != self._limits or monotonic() >= self._due
        if limits and is_due and not self._thread.is_alive():
            self._limits, self._due = limits, monotonic() + _AGAIN_SECONDS
            self._thread = self._home.threads.start("tidying", self._run)

    def close(self) -> None:
        """Break off what is under way."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            jobs = survey(self._home, self._limits, log.warning, self._pause)
            if chosen := choose(jobs, self._limits):
                log.info("removing %d finished jobs, as the setting `retention` says", len(chosen))
                self._is_done = False
            if not self._is_done:
                for problem in remove(self._home, self._spool.disk, chosen, self._pause):
                    log.warning("%s", problem)
                self._writer.tend_pages(changed=True)
                client.clean(self._home)
                self._is_done = True
        except (OSError, FluxdropError) as error:
            log.warning("not all finished jobs are removed yet: %s", error)

    def _pause(self) -> None:
        """Wait until the runner is idle. Raises Stopped where it ends, or the setting changed."""
        self._home.threads.moved("tidying")
        while not (self._closing.wait(_TURN_SECONDS) or self._is_idle()):
            self._closing.wait(_BUSY_SECONDS)
        if self._closing.is_set() or self._home.settings.retention != self._limits:
            raise Stopped("the runner ends, or the setting `retention` has changed")
