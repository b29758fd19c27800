"""Tells the executor which jobs come next, so that their prompts are encoded in one go.

Reads the queue and never changes it; each job is told once.
"""

from __future__ import annotations

import logging

from runner.daemon.scheduler import Scheduler
from runner.daemon.tasks import TaskBuilder
from runner.executor import Executor
from runner.job import ImageTask
from runner.spool.store.ledger import Ledger
from runner.spool.store.record import Record

log = logging.getLogger(__name__)

# Enough for a night's jobs to share one load of the text encoders, few enough to look at quickly.
_MOST_JOBS = 200
_MOST_PROMPTS = 512


class Lookahead:
    """Tells an executor about the jobs that wait; used by the worker."""

    def __init__(
        self, ledger: Ledger, scheduler: Scheduler, builder: TaskBuilder, executor: Executor
    ) -> None:
        self._ledger = ledger
        self._scheduler = scheduler
        self._builder = builder
        self._executor = executor
        self._announced: set[int] = set()

    def begins(self, record: Record, wall: float) -> None:
        """A job begins: announce it and those behind it, unless that was done before."""
        if record.seq in self._announced:
            self._announced.discard(record.seq)
        else:
            self.announce(wall, record)

    def announce(self, wall: float, *first: Record) -> None:
        """Tell the executor of every waiting job that it has not been told of."""
        waiting = [*first, *self._scheduler.upcoming(wall, limit=_MOST_JOBS)]
        tasks: list[ImageTask] = []
        for record in waiting:
            if record.seq not in self._announced and len(tasks) < _MOST_PROMPTS:
                self._announced.add(record.seq)
                self._add_tasks(record, tasks)
        self._announced &= {record.seq for record in waiting}
        if tasks:
            self._executor.prepare(tasks)

    def _add_tasks(self, record: Record, tasks: list[ImageTask]) -> None:
        """The tasks of a job, as far as they can be built."""
        composed = self._ledger.composed(record.seq)
        try:
            tasks.extend(self._builder.prompts(record, composed, _MOST_PROMPTS - len(tasks)))
        except Exception:
            # Reported when the job's turn comes, as its failure.
            log.debug("%s cannot be built ahead", record.id, exc_info=True)
