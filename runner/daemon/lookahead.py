"""Announces queued jobs to the executor, so that their prompts are encoded together.

Reads the queue and never changes it; a job is announced once while it is among the next.
"""

import logging

from runner.clock import now
from runner.daemon.tasks import TaskBuilder
from runner.executor import Executor
from runner.spool.store.ledger import Ledger
from runner.spool.store.record import Record
from runner.task import ImageTask

log = logging.getLogger(__name__)

# Enough for a night's jobs to share one load of the text encoders, few enough to be read quickly.
_MOST_JOBS = 200
_MOST_PROMPTS = 512


class Lookahead:
    """Announces the jobs of one ledger to one executor; used by the worker."""

    def __init__(self, ledger: Ledger, builder: TaskBuilder, executor: Executor) -> None:
        self._ledger = ledger
        self._builder = builder
        self._executor = executor
        self._announced: set[int] = set()

    def begins(self, record: Record) -> None:
        """Announce a job that begins and those behind it, unless that was done before."""
        if record.seq in self._announced:
            self._announced.discard(record.seq)
        else:
            self.announce(record)

    def announce(self, *first: Record) -> None:
        """Announce `first` and the queued jobs, those that have not been announced."""
        upcoming = [*first, *self._ledger.ready(now(), _MOST_JOBS)]
        tasks: list[ImageTask] = []
        for record in upcoming:
            if record.seq in self._announced or len(tasks) >= _MOST_PROMPTS:
                continue
            self._announced.add(record.seq)
            composed = self._ledger.composed(record.seq)
            try:
                tasks.extend(self._builder.prompts(record, composed, _MOST_PROMPTS - len(tasks)))
            except Exception:
                # Reported when the job begins, as its failure.
                log.debug("job %s cannot be built ahead", record.id, exc_info=True)
        self._announced &= {record.seq for record in upcoming}
        if tasks:
            self._executor.prepare(tasks)
