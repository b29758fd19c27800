"""Removes finished jobs as the setting `retention` says, in small steps while the runner is idle.

Which, and how, is `runner.retention`'s, as for `clean`; the intake then forgets them.
"""

import logging
from collections.abc import Callable, Iterator

from runner import client
from runner.clock import monotonic
from runner.daemon.writer import Writer
from runner.retention import Limits, choose, folders_in, remove, survey
from runner.spool.store.names import key_of
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# So much of each two seconds; and so long after the last look at all jobs.
_STEP_SECONDS = 0.1
_AGAIN_SECONDS = 1800.0


class Tidying:
    """The removals of one runner; `step` is called again and again while it is idle."""

    def __init__(self, spool: Spool, writer: Writer) -> None:
        self._spool, self._writer, self._home = spool, writer, spool.home
        self._limits = Limits()
        self._steps: Iterator[str] | None = None
        self._due = 0.0
        # A runner that was killed may have left a removal half done.
        self._is_done = False

    def step(self) -> None:
        """Go on for a tenth of a second. Raises what the removal does, and then begins anew."""
        limits, until = Limits.of(self._home.settings.retention), monotonic() + _STEP_SECONDS
        if limits != self._limits:
            self._limits, self._steps, self._due = limits, None, 0.0
        if limits == Limits() or (self._steps is None and monotonic() < self._due):
            return
        steps, self._steps = self._steps or self._run(limits), None
        self._due = monotonic() + _AGAIN_SECONDS
        for problem in steps:
            if problem:
                log.warning("%s", problem)
            if monotonic() > until:
                self._steps = steps
                return

    def _run(self, limits: Limits) -> Iterator[str]:
        jobs = []
        for job in survey(self._home, limits, log.warning):
            jobs += [job] if job else []
            yield ""
        if chosen := choose(jobs, limits):
            log.info("removing %d finished jobs, as the setting `retention` says", len(chosen))
            self._is_done = False
        if not self._is_done:
            yield from remove(self._home, self._spool.disk, chosen, self._needed())
            self._writer.tend_pages(changed=True)
            client.clean(self._home)
            self._is_done = True

    def _needed(self) -> Callable[[], Iterator[set[str]]]:
        """What the jobs need that are not over, each once, though they come meanwhile."""
        known = 0

        def newer() -> Iterator[set[str]]:
            nonlocal known
            for seq, job_id, spec in self._spool.ledger.unfinished(after=known):
                known = seq
                yield {key_of(job_id)} | folders_in(spec)

        return newer
