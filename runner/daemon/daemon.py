"""The daemon: wires the spool, the worker and an executor together, supervises, and stops cleanly.

Threads: main (worker turns, health), intake, writer, and the executor's own. Between them they
share the ledger (its lock), the executor's queue, and two events; nothing else.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from runner.catalogue import RegistryCatalogue
from runner.clock import monotonic, now, timestamp
from runner.daemon.health import HEALTH_SECONDS, Health
from runner.daemon.pages import Pages
from runner.daemon.scheduler import Scheduler
from runner.daemon.worker import Worker
from runner.daemon.writer import Writer
from runner.errors import RunnerBusy
from runner.executor import Executor
from runner.holds import PAUSED, disk_hold
from runner.job import FINAL_STATES, State
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.locks import locks_of
from runner.spool.disk.platform import allow_writer_probe
from runner.spool.inbox.intake import Intake
from runner.spool.startup.opening import open_spool
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_NEWEST = 20
# Outside the hours models leave soon, but not between two drops of somebody at work.
_BETWEEN_DROPS_SECONDS = 60.0


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
        gpu: str | None = None,
    ) -> None:
        self.home = home
        self._make_executor = executor
        self._disk = disk or Disk()
        self._stop = threading.Event()
        self._locks = locks_of(home, gpu)
        self._started_at = timestamp()
        self._health_due = 0.0
        self._scans_wanted = 0
        self._idle_since: float | None = None

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the home's lock, recover, and start the threads.

        Raises RunnerBusy; LedgerUnusable, DiskFull or OSError where a disk does not do its part.
        """
        self._acquire()
        if threading.current_thread() is threading.main_thread():
            allow_writer_probe()
        home, disk = self.home, self._disk
        catalogue = RegistryCatalogue(home.settings, home.data)
        try:
            spool = open_spool(home, disk, catalogue)
        except BaseException:
            self._release()
            raise
        self.spool, self.ledger, self.faults = spool, spool.ledger, spool.faults
        self._counts_before = self.ledger.counts()
        self.scheduler = Scheduler(spool)
        self.executor = self._make_executor(home)
        self.writer = Writer(spool, Pages(spool), self._written)
        self.worker = Worker(spool, self.scheduler, self.executor, self.writer)
        self.intake = Intake(
            spool, catalogue, on_change=self.worker.wake, on_cancel=self.worker.cancel
        )
        self._health = Health(spool, self.scheduler, self.worker, self.executor, self.intake)
        self._mend()
        with suppress(OSError, FluxdropError):
            # Before the first job begins: a pause or a cancel may have come since the last runner.
            self.intake.obey()
        self._intake_thread = threading.Thread(
            target=self.intake.run, args=(self._stop,), name="intake", daemon=True
        )
        self._intake_thread.start()

    def close(self) -> None:
        """Requeue what is in hand, write what is rendered, and give everything back."""
        self.worker.stopping = True
        deadline = monotonic() + 10
        self.worker.wake()
        while not self.worker.idle and monotonic() < deadline:
            self.worker.step(0.5)
        self._stop.set()
        self.intake.wake.set()
        self._intake_thread.join()
        if self.worker.lost is None:
            # A thread that hangs, or waits for a dead GPU, would never come to its end.
            self.executor.close()
        self.writer.close()
        self._health.write("stopping")
        self.ledger.close()
        self._release()

    def _acquire(self) -> None:
        try:
            for lock in self._locks:
                lock.acquire()
        except RunnerBusy:
            self._release()
            raise

    def _release(self) -> None:
        for lock in self._locks:
            lock.release()

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
            self.work(HEALTH_SECONDS)

    def drain(self, *, until: float | None = None) -> Outcome:
        """Work until nothing is left that can run now, or until a wall-clock time."""
        note, mended = None, False
        while not self._stop.is_set() and self.worker.lost is None:
            if until is not None and now() >= until:
                break
            if self._is_drained(wait_for_hours=until is not None):
                if not mended:
                    # Once: a disk that stays full must not keep a drain from its end.
                    mended = True
                    self._mend()
                    continue
                if self.worker.hold is not None and self.ledger.has_queued():
                    note = self.worker.hold.message
                break
            self.work(0.02 if self._scans_wanted else 0.2)
        if self._stop.is_set() and self.ledger.has_queued():
            note = "stopped: the other jobs are still queued"
        after = self.ledger.counts()
        counts = {str(s): after[s] - self._counts_before[s] for s in FINAL_STATES}
        return Outcome(counts, note or self.faults.note)

    def newest_jobs(self) -> list[str]:
        """The ids of the newest jobs, oldest of them first, to show to people."""
        newest = self.ledger.latest(_NEWEST)
        fresh = [record.id for record in newest if record.accepted_at >= self._started_at]
        running = [record.id for record in self.ledger.running()]
        return list(dict.fromkeys([*running, *reversed(fresh)]))

    def work(self, seconds: float) -> None:
        """One turn of the loop that `serve` and `drain` own, for a caller with its own."""
        hold = PAUSED if self.intake.controls.paused else disk_hold(self.home)
        if hold not in (None, PAUSED) and self.worker.hold is None:
            log.error("%s", hold.message)
        self.worker.hold = hold
        self.worker.step(min(seconds, self._seconds_to_health()))
        if self._seconds_to_health() <= 0:
            self._health_due = monotonic() + HEALTH_SECONDS
            self._mend()
            self.writer.tend_pages()
            self._rest()
            self._health.write(self._state())

    def _rest(self) -> None:
        """Take the models off the device: unused for long, while paused, or until hours open."""
        if not self.worker.idle:
            self._idle_since = None
            return
        loaded = any(slot.models for slot in self.executor.slots())
        moment = monotonic()
        since = self._idle_since = self._idle_since or moment
        rested = moment - since >= self.home.settings.idle_minutes * 60
        closed = (
            moment - since >= _BETWEEN_DROPS_SECONDS
            and (self.scheduler.seconds_to_opening(now()) or 0.0) > _BETWEEN_DROPS_SECONDS
        )
        if loaded and (rested or closed or self.worker.hold is not None):
            self.executor.release()

    def _state(self) -> str:
        if not self.worker.idle:
            return "working"
        return "idle" if self.worker.hold is None else "paused"

    def _seconds_to_health(self) -> float:
        return max(self._health_due - monotonic(), 0.0)

    def _is_drained(self, *, wait_for_hours: bool) -> bool:
        """Whether nothing is left to do, and a fresh look at the inbox found nothing new."""
        if not self._is_quiet(wait_for_hours=wait_for_hours):
            self._scans_wanted = 0
            return False
        if not self._scans_wanted:
            # A look that is under way may be past the file that has just come.
            self._scans_wanted = self.intake.scans + 2
        if self.intake.scans >= self._scans_wanted:
            return True
        self.intake.wake.set()
        return False

    def _is_quiet(self, *, wait_for_hours: bool) -> bool:
        if self.intake.unsettled or not (self.writer.is_idle and self.worker.idle):
            return False
        if self.worker.hold is not None and not (wait_for_hours and self.worker.hold != PAUSED):
            return True
        waits = self.ledger.waiting_for_input(limit=1)
        if waits or self.scheduler.upcoming(now(), limit=1):
            return False
        return not (wait_for_hours and self.ledger.has_queued())

    def _written(self) -> None:
        self.worker.wake()
        if self.intake.waits_for_inputs:
            self.intake.wake.set()

    def _mend(self) -> None:
        """Publish what became of jobs and could not be published when it came."""
        if self.writer.waiting:
            return
        for record in self.ledger.unpublished():
            if record.state in FINAL_STATES:
                self.writer.publish_end(record)
            else:
                self.writer.show(record)


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
    from runner.engine.gpu_thread import of_home

    return of_home(home)
