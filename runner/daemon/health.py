"""The health file: what the runner does, for people and programs that look from outside.

Also the summary that `fluxdrop status` reads, so that nobody has to read every job's file.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from runner.clock import now, timestamp
from runner.daemon.scheduler import Scheduler
from runner.daemon.worker import Worker
from runner.executor import Executor
from runner.job import State
from runner.log_once import LogOnce
from runner.spool.inbox.intake import Intake
from runner.spool.store.spool import Spool
from runner.wire import SCHEMA, RunnerHealth
from specs.errors import FluxdropError

HEALTH_SECONDS = 2.0
_UPCOMING = 10
_RECENT = 20


class Health:
    """Writes one runner's health file."""

    def __init__(
        self, spool: Spool, scheduler: Scheduler, worker: Worker, executor: Executor, intake: Intake
    ) -> None:
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._faults = spool.faults
        self._scheduler = scheduler
        self._worker = worker
        self._executor = executor
        self._intake = intake
        self._log_once = LogOnce("writing the health file")
        self._started_at = timestamp()

    def write(self, state: str) -> None:
        """Replace the file; a disk that does not take it stops nothing."""
        try:
            self._outbox.write_health(self._now(state))
            self._log_once.recovered()
        except (OSError, FluxdropError) as error:
            self._log_once.failed(error)

    def _now(self, state: str) -> RunnerHealth:
        current = self._worker.current
        counts = self._ledger.counts()
        return RunnerHealth(
            schema=SCHEMA,
            pid=os.getpid(),
            host=platform.node(),
            version=version("fluxdrop"),
            state=state,
            note=self._worker.hold.message if self._worker.hold else None,
            faults=self._faults.told(),
            job=current.id if current else None,
            models=sorted({m for slot in self._executor.slots() for m in slot.models}),
            queued=counts[State.QUEUED],
            next=[record.id for record in self._scheduler.upcoming(now(), _UPCOMING)],
            counts=counts,
            recent=self._recent(),
            watch=self._intake.watcher.mode,
            gpu=None,
            started_at=self._started_at,
            updated_at=timestamp(),
            interval_seconds=HEALTH_SECONDS,
        )

    def _recent(self) -> list[dict[str, Any]]:
        newest = self._ledger.latest(_RECENT)
        return [
            {
                "id": record.id,
                "state": str(record.state),
                "kind": record.kind,
                "model": record.model,
                "reason": record.reason,
                "message": record.message,
                "total": record.total,
                **self._ledger.tally(record.seq),
            }
            for record in newest
        ]
