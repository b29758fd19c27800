"""What comes next, told to the executor: so that the prompts of everything waiting can be encoded
in one go. Reads the backlog and never changes it; a job is told once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from runner.catalogue import RegistryCatalogue
from runner.daemon.scheduler import Scheduler
from runner.executor import Executor
from runner.job import ImageTask
from runner.settings import Home
from runner.spool.inbox import loras
from runner.spool.store.ledger import Ledger
from runner.spool.store.record import Record
from specs.expand import image, seeds_each

log = logging.getLogger(__name__)

# Enough for a night's jobs to share one load of the text encoders, few enough to look at quickly.
_MOST_JOBS = 200
_MOST_PROMPTS = 512


class Lookahead:
    """Tells an executor about the jobs that wait; used by the worker."""

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        scheduler: Scheduler,
        catalogue: RegistryCatalogue,
        executor: Executor,
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._scheduler = scheduler
        self._catalogue = catalogue
        self._executor = executor
        self._told: set[int] = set()

    def begins(self, record: Record, wall: float) -> None:
        """A job begins: the executor is told of it and of those behind it, unless it was before."""
        if record.seq in self._told:
            self._told.discard(record.seq)
        else:
            self.look(wall, record)

    def look(self, wall: float, *first: Record) -> None:
        """Tell the executor of every waiting job that it has not been told of."""
        waiting = [*first, *self._scheduler.upcoming(wall, limit=_MOST_JOBS)]
        tasks: list[ImageTask] = []
        for record in waiting:
            if record.seq not in self._told and len(tasks) < _MOST_PROMPTS:
                self._told.add(record.seq)
                tasks.extend(self._tasks(record, _MOST_PROMPTS - len(tasks)))
        self._told &= {record.seq for record in waiting}
        if tasks:
            self._executor.prepare(tasks)

    def _tasks(self, record: Record, most: int) -> Iterator[ImageTask]:
        """One task for each prompt, model and precision of a job, as far as they can be made."""
        composed = [fields for fields, _ in self._ledger.composed(record.seq)] or None
        step = seeds_each(record.realised)
        for index in range(0, min(record.total, most * step), step):
            try:
                spec = image(record.realised, index, record.base_seed or 0, composed)
                worn = loras.for_task(spec, self._home, self._catalogue.snapshot)
                yield self._catalogue.task(
                    spec, job=record.id, index=index + 1, inputs={}, loras=worn
                )
            except Exception:
                # Told again, as the job's failure, when its turn comes.
                log.debug("%s cannot be looked at ahead", record.id, exc_info=True)
                return
