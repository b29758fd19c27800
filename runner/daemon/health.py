"""The health file: the state of the runner, for people and programs outside of it.

Also the summary that `fluxdrop status` reads instead of every job's file, and the metrics.
"""

import os
import platform
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata

from runner.clock import now, timestamp
from runner.daemon.metrics import FILE, Metrics
from runner.daemon.settings_watch import SettingsWatch
from runner.daemon.telling import Telling
from runner.daemon.worker import Worker
from runner.executor import Executor, Slot, SlotState, absence
from runner.job import State
from runner.log_once import LogOnce
from runner.spool.inbox.intake import Intake
from runner.spool.store.outbox import to_json
from runner.spool.store.spool import Spool
from runner.wire import SCHEMA, RecentJob, RunnerHealth, SlotHealth
from specs.errors import FluxdropError

HEALTH_SECONDS = 2.0
_UPCOMING = 10
_RECENT = 20


@dataclass(frozen=True)
class Health:
    """Writes one runner's health file."""

    spool: Spool
    worker: Worker
    executor: Executor
    intake: Intake
    settings: SettingsWatch
    telling: Telling
    metrics: Metrics
    started_at: str = field(default_factory=timestamp)
    log_once: LogOnce = field(default_factory=lambda: LogOnce("writing the health file"))

    def write(self, state: str) -> None:
        """Replace the file, and that of the metrics; where a disk refuses, that is logged only."""
        home, failed = self.spool.home, False
        try:
            content = self._content(state)
        except (OSError, FluxdropError) as error:
            self.log_once.failed(error)
            return
        text = self.metrics.text(content, len(self.spool.faults))
        for file, data in ((home.health, to_json(content)), (home.data / FILE, text)):
            try:
                self.spool.disk.replace(file, data)
            except (OSError, FluxdropError) as error:
                self.log_once.failed(error)
                failed = True
        if not failed:
            self.log_once.recovered()

    def _content(self, state: str) -> RunnerHealth:
        current = self.worker.current
        counts, slots = self.spool.ledger.counts(), self.executor.slots()
        return RunnerHealth(
            schema=SCHEMA,
            pid=os.getpid(),
            host=platform.node(),
            system=sys.platform,
            version=_version("fluxdrop"),
            state=state,
            note=self.worker.hold.message if self.worker.hold else absence(slots),
            settings=self.settings.note,
            faults=self.spool.faults.listed(),
            job=current.id if current else None,
            models=sorted({m for slot in slots for m in slot.models}),
            slots=[self._slot(slot) for slot in slots],
            queued=counts[State.QUEUED],
            next=[record.id for record in self.spool.ledger.ready(now(), _UPCOMING)],
            counts=counts,
            recent=self._recent(),
            watch=self.intake.watcher.mode,
            threads=self.spool.home.threads.still(),
            receivers=self.telling.health(),
            gpu=None,
            lent=self.worker.hold.lent if self.worker.hold else None,
            started_at=self.started_at,
            updated_at=timestamp(),
            interval_seconds=HEALTH_SECONDS,
        )

    def _slot(self, slot: Slot) -> SlotHealth:
        dispatch = self.worker.dispatches.get(slot.name)
        latest = dispatch.latest if dispatch else None
        state: str = slot.state
        return SlotHealth(
            name=slot.name,
            host=slot.host,
            device=slot.device,
            model=latest.task.model if latest else next(reversed(slot.models), None),
            job=dispatch.job.record.id if dispatch else None,
            image=latest.task.index if latest else min(dispatch.images) if dispatch else None,
            step=latest.step if latest else 0,
            steps=latest.steps if latest else 0,
            memory=slot.memory,
            state=("working" if dispatch else "idle") if slot.state == SlotState.READY else state,
            note=slot.note or None,
        )

    def _recent(self) -> list[RecentJob]:
        wall = now()
        return [
            RecentJob(
                id=record.id,
                state=str(record.state),
                kind=record.kind,
                model=record.model,
                reason=why.reason,
                message=why.message or None,
                total=record.total,
                done=record.done,
                failed=record.failed,
                skipped=record.skipped,
                reused=record.reused,
            )
            for record in self.spool.ledger.latest(_RECENT)
            for why in [record.why(wall, self.worker.hold)]
        ]


# Once: it is looked for in a folder and in a file.
_version = cache(metadata.version)
