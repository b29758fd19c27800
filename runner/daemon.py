"""The daemon: wires the spool, the worker and an executor together, supervises, and stops cleanly.

Threads: main (worker turns, health), intake, writer, and the executor's own. Between them they
share the ledger (its lock), the executor's queue, and two events; nothing else.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from runner.catalogue import RegistryCatalogue
from runner.errors import FluxdropError
from runner.executor import Executor
from runner.job import FINAL, State
from runner.saving import Writer
from runner.settings import Home
from runner.spool.backlog import Backlog
from runner.spool.clock import monotonic, now, timestamp
from runner.spool.effects import Disk
from runner.spool.intake import Intake
from runner.spool.ledger import Ledger
from runner.spool.outbox import Outbox
from runner.spool.platform import RunnerLock, allow_writer_probe
from runner.spool.recovery import recover
from runner.wire import SCHEMA, RunnerHealth
from runner.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

HEALTH_SECONDS = 2.0
LOCK_FILE = "runner.lock"
_UPCOMING = 10
_RECENT = 20


@dataclass(frozen=True)
class Outcome:
    """What a drain did: how many jobs ended each way, and why it stopped early, if it did."""

    counts: dict[str, int]
    note: str | None = None

    @property
    def all_well(self) -> bool:
        """Whether nothing failed and nothing was rejected."""
        bad = self.counts.get(State.FAILED, 0) + self.counts.get(State.REJECTED, 0)
        return bad == 0 and self.note is None


class Daemon:
    """One runner of one home; `open` it, then `serve` or `drain`, then `close` it."""

    def __init__(
        self,
        home: Home,
        executor: Callable[[Home], Executor],
        *,
        disk: Disk | None = None,
    ) -> None:
        self.home = home
        self._make_executor = executor
        self._disk = disk or Disk()
        self._stop = threading.Event()
        self._lock = RunnerLock(home.data / LOCK_FILE, f"the home {home.root}")
        self._started_at = timestamp()
        self._health_due = 0.0
        self._looks_wanted = 0

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the home's lock, recover, and start the threads. Raises RunnerBusy."""
        self._lock.acquire()
        if threading.current_thread() is threading.main_thread():
            allow_writer_probe()
        home, disk = self.home, self._disk
        self.ledger = Ledger(home.data / "ledger.sqlite", disk)
        self.outbox = Outbox(home, self.ledger, disk)
        disk.make_folder(home.drops)
        disk.make_folder(home.inbox / ".tmp")
        recover(home, self.ledger, self.outbox, disk)
        self._counts_before = self.ledger.counts()
        self.backlog = Backlog(home, self.ledger, self.outbox)
        self.executor = self._make_executor(home)
        self.writer = Writer(self.ledger, self.outbox, self._written)
        self.worker = Worker(home, self.ledger, self.backlog, self.executor, self.writer)
        self.intake = Intake(
            home,
            self.ledger,
            self.outbox,
            disk,
            RegistryCatalogue(home.settings),
            on_change=self.worker.wake,
            on_cancel=self.worker.cancel,
        )
        self._intake_thread = threading.Thread(
            target=self.intake.run, args=(self._stop,), name="intake"
        )
        self._intake_thread.start()

    def close(self) -> None:
        """Requeue what is in hand, write what is rendered, and give everything back."""
        self.worker.stopping = True
        deadline = monotonic() + 10
        self.worker.wake()
        while not self.worker.idle and monotonic() < deadline:
            self.worker.turn(0.5)
        self._stop.set()
        self.intake.wake.set()
        self._intake_thread.join()
        if self.worker.lost is None:
            # A thread that hangs, or waits for a dead GPU, would never come to its end.
            self.executor.close()
        self.writer.close()
        with suppress(OSError, FluxdropError):
            self._write_health("stopping")
        self.ledger.close()
        self._lock.release()

    def __enter__(self) -> Daemon:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask_to_stop(self) -> None:
        """Make `serve` and `drain` return; safe in a signal handler."""
        self._stop.set()
        if hasattr(self, "worker"):
            self.worker.wake()

    # -- work ------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until asked to stop."""
        while not self._stop.is_set() and self.worker.lost is None:
            self._turn(HEALTH_SECONDS)

    def drain(self, *, until: float | None = None) -> Outcome:
        """Work until nothing is left that can run now, or until a wall-clock time."""
        note = None
        while not self._stop.is_set() and self.worker.lost is None:
            if until is not None and now() >= until:
                break
            if self._is_drained(wait_for_hours=until is not None):
                if self.worker.paused and self._has_queued():
                    note = "paused: `fluxdrop resume` lets the queued jobs run"
                break
            self._turn(0.02 if self._looks_wanted else 0.2)
        after = self.ledger.counts()
        return Outcome({s: after[s] - self._counts_before[s] for s in FINAL}, note)

    def newest_jobs(self) -> list[str]:
        """The ids of the newest jobs, oldest of them first, to show to people."""
        newest = self.ledger.select("1 = 1", order="seq DESC", limit=_RECENT)
        fresh = [record.id for record in newest if record.accepted_at >= self._started_at]
        unfinished = self.ledger.select("state = 'running'")
        return list(dict.fromkeys([*(record.id for record in unfinished), *reversed(fresh)]))

    def work(self, seconds: float) -> bool:
        """One turn of the loop that `serve` and `drain` own, for a caller with its own."""
        self._turn(seconds)
        return True

    def _turn(self, seconds: float) -> None:
        self.worker.paused = self.intake.controls.paused
        self.worker.turn(min(seconds, self._seconds_to_health()))
        if self._seconds_to_health() <= 0:
            self._health_due = monotonic() + HEALTH_SECONDS
            self._mend()
            try:
                self._write_health()
            except (OSError, FluxdropError) as error:
                log.warning("cannot write the health file: %s", error)

    def _seconds_to_health(self) -> float:
        return max(self._health_due - monotonic(), 0.0)

    def _is_drained(self, *, wait_for_hours: bool) -> bool:
        """Whether nothing is left to do, and a fresh look at the inbox found nothing new."""
        if not self._is_quiet(wait_for_hours=wait_for_hours):
            self._looks_wanted = 0
            return False
        if not self._looks_wanted:
            # A look that is under way may be past the file that has just come.
            self._looks_wanted = self.intake.looks + 2
        if self.intake.looks >= self._looks_wanted:
            return True
        self.intake.wake.set()
        return False

    def _is_quiet(self, *, wait_for_hours: bool) -> bool:
        if self.intake.unsettled or self.writer.waiting or not self.worker.idle:
            return False
        if self.worker.paused:
            return True
        waits = self.ledger.select("state = 'queued' AND reason = 'WaitingForInput'", limit=1)
        if waits or self.backlog.upcoming(now(), limit=1):
            return False
        return not (wait_for_hours and self._has_queued())

    def _has_queued(self) -> bool:
        return bool(self.ledger.select("state = 'queued'", limit=1))

    def _written(self) -> None:
        self.worker.wake()
        if self.intake.waits_for_inputs:
            self.intake.wake.set()

    def _mend(self) -> None:
        """Publish the ends of jobs that could not be published when they came."""
        if self.writer.waiting:
            return
        finals = ", ".join(f"'{state}'" for state in FINAL)
        for record in self.ledger.select(f"behind = 1 AND state IN ({finals})", limit=50):
            self.writer.publish_end(record)

    # -- health ----------------------------------------------------------------------------------

    def _write_health(self, state: str | None = None) -> None:
        current = self.worker.current
        if state is None:
            state = "working" if current else "paused" if self.worker.paused else "idle"
        counts = self.ledger.counts()
        health = RunnerHealth(
            schema=SCHEMA,
            pid=os.getpid(),
            host=platform.node(),
            version=version("fluxdrop"),
            state=state,
            job=current.id if current else None,
            models=sorted({m for slot in self.executor.slots() for m in slot.models}),
            queued=counts[State.QUEUED],
            next=[record.id for record in self.backlog.upcoming(now(), _UPCOMING)],
            counts=counts,
            recent=self._recent(),
            watch=self.intake.watcher.mode,
            gpu=None,
            started_at=self._started_at,
            updated_at=timestamp(),
            interval_seconds=HEALTH_SECONDS,
        )
        self.outbox.write_health(health)

    def _recent(self) -> list[dict[str, Any]]:
        newest = self.ledger.select("1 = 1", order="seq DESC", limit=_RECENT)
        return [
            {
                "id": record.id,
                "state": str(record.state),
                "kind": record.kind,
                "model": record.model,
                "reason": record.reason,
                "message": record.message,
                "total": record.total,
                **self.ledger.tally(record.seq),
            }
            for record in newest
        ]


@contextmanager
def stopping_on_signals(daemon: Daemon) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the daemon at the next step; a second one ends it at once."""
    before: dict[int, Any] = {}

    def handle(number: int, frame: object) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        daemon.ask_to_stop()

    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, handle)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def gpu_thread(home: Home) -> Executor:
    """The executor that a home uses: one GPU thread in this process."""
    from runner.engine.gpu_thread import GpuThread

    return GpuThread(home.data, device=home.settings.device)
