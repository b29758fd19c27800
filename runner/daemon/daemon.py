"""The daemon: connects the spool, the worker and an executor, runs their loop, and stops cleanly.

Its threads are main (steps of the worker, the health file), intake, writer with its encoders, and
the executor's own. ARCHITECTURE.md, section Threads, says what they share.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from runner import exit_codes
from runner.catalogue import RegistryCatalogue
from runner.clock import monotonic, now, timestamp
from runner.daemon.health import HEALTH_SECONDS, Health
from runner.daemon.metrics import Metrics
from runner.daemon.pages import Pages
from runner.daemon.scheduler import Scheduler
from runner.daemon.settings_watch import SettingsWatch
from runner.daemon.telling import Telling
from runner.daemon.tidying import Tidying
from runner.daemon.worker import Worker
from runner.daemon.writer import Writer
from runner.errors import LedgerUnusable
from runner.executor import Executor, SlotState, absence
from runner.holds import PAUSED, Hold, disk_hold
from runner.job import FINAL_STATES, State
from runner.log_once import LogOnce
from runner.places import mounts_of, read_mounts
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.locks import Lock, home_lock
from runner.spool.disk.platform import allow_writer_probe
from runner.spool.inbox.intake import Intake
from runner.spool.startup.opening import name_quarantined, open_spool
from runner.spool.startup.recovery import recover_running
from runner.spool.store.lending import hold_of
from runner.stop_signals import StopRequest, taken_by
from runner.wire import Lent
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_NEWEST = 20
# Outside the hours models are released soon, but not between two drops of a person at work.
_BETWEEN_DROPS_SECONDS = 60.0
_LET_GO_SECONDS = 10.0
_EMPTY_SECONDS = 0.05
# So long a drain waits for a slot, which may be made again, or on a machine that comes back.
_SLOTLESS_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """The result of a drain: how many jobs ended in each state, and why it stopped early, if so."""

    counts: dict[str, int]
    note: str | None = None

    @property
    def all_well(self) -> bool:
        """Whether nothing failed and nothing was rejected."""
        bad = self.counts.get(State.FAILED, 0) + self.counts.get(State.REJECTED, 0)
        return bad == 0 and self.note is None


class Daemon:
    """One runner of one home: `open` it, then `serve` or `drain`, then `close` it.

    `executor` makes the executor of a home; it is called once the home's lock is held, and `locks`,
    those of what no other runner may use meanwhile.
    """

    def __init__(
        self,
        home: Home,
        executor: Callable[[Home], Executor],
        *,
        disk: Disk | None = None,
        locks: Sequence[Lock] = (),
    ) -> None:
        self.home = home
        self._make_executor = executor
        self._disk = disk or Disk()
        self._stop = StopRequest()
        self._locks: list[Lock] = [home_lock(home), *locks]
        self._started_at = timestamp()
        self._health_due = 0.0
        self._scans_wanted = 0
        self._idle_since: float | None = None
        self._lent: tuple[Lent | None, bool] = (None, False)
        """To whom the device is lent, and whether it is empty, as far as that was said."""
        self._log_once = LogOnce("mending what is at fault")

    # -- start and stop --------------------------------------------------------------------------

    def open(self) -> None:
        """Take the home's lock, recover, and start the threads.

        Raises RunnerBusy; LedgerUnusable, DiskFull or OSError where a disk refuses a read or write.
        """
        home = self.home
        home.threads.broken = None
        with ExitStack() as undo:
            for lock in self._locks:
                lock.acquire()
                undo.callback(lock.release)
            if home.settings.umask is not None:
                os.umask(int(home.settings.umask, 8))
            if threading.current_thread() is threading.main_thread():
                allow_writer_probe()
            catalogue = RegistryCatalogue(home.settings, home.data)
            spool = open_spool(home, self._disk, catalogue)
            undo.callback(spool.ledger.close, clean=False)
            undo.callback(home.places.unpin)
            self._pin_places()
            self.telling = Telling(spool)
            undo.callback(self.telling.close)
            self.executor = self._make_executor(home)
            undo.pop_all()
        self.spool, self.ledger, self.faults = spool, spool.ledger, spool.faults
        self._counts_before = self.ledger.counts()
        self.scheduler = Scheduler(spool)
        self.metrics = Metrics()
        self.writer = Writer(spool, Pages(spool), self.metrics, self._written)
        self.worker = Worker(spool, self.scheduler, self.executor, self.writer, self.metrics)
        self.intake = Intake(
            spool, catalogue, on_change=self.worker.wake, on_cancel=self.worker.cancel
        )
        self._settings = SettingsWatch(home)
        self._tidying = Tidying(spool, self.writer, self._is_idle)
        self._health = Health(
            spool, self.worker, self.executor, self.intake, self._settings, self.telling,
            self.metrics,
        )  # fmt: skip
        self._publish_unpublished()
        with suppress(OSError, FluxdropError):
            # Before the first job begins: a pause or a cancel may have come since the last runner.
            self.intake.obey()
        self._intake_thread = home.threads.start("intake", lambda: self.intake.run(self._stop))

    def close(self) -> None:
        """Requeue the jobs in flight, write what is rendered, and release the device and locks."""
        self.worker.stopping = True
        self.telling.stop.set()
        if self.worker.exit_code is None:
            with suppress(LedgerUnusable):
                self.ledger.stopping()
        self.worker.wake()
        self._let_jobs_go()
        self._stop.set()
        self.intake.wake.set()
        self._intake_thread.join()
        if self.worker.exit_code is None:
            # A thread that hangs, or waits for a lost GPU, would never end.
            self.executor.close()
            # A load cannot be cut short: its image has been answered only now.
            self._let_jobs_go()
        self._tidying.close()
        self.writer.close()
        self._health.write("stopping")
        self._look_for_events()
        self.telling.close()
        # The next runner has to know of a thread that ended: an image in flight may have done it.
        self.ledger.close(clean=not self._is_broken())
        self.home.places.unpin()
        for lock in self._locks:
            lock.release()

    def _let_jobs_go(self) -> None:
        """Have every job leave its slot, as far as the device answers within seconds."""
        deadline = monotonic() + _LET_GO_SECONDS
        while not self.worker.idle and monotonic() < deadline and not self._is_broken():
            if self.worker.exit_code is not None:
                return
            self.worker.step(0.5)

    def _is_broken(self) -> bool:
        """Whether a thread ended by a mistake; the process ends with a code that says so."""
        if self.home.threads.broken is not None and self.worker.exit_code is None:
            self.worker.exit_code = exit_codes.BROKEN
        return self.worker.exit_code == exit_codes.BROKEN

    def _pin_places(self) -> None:
        """Know the folders of the home again, and on which disks they lie, from now on."""
        home = self.home
        home.places.pin(inbox=home.inbox, outbox=home.outbox, data=home.data)
        self._disk.places = home.places
        mounts = mounts_of((home.inbox, home.outbox), home.data)
        if mounts != read_mounts(home.mounts):
            self._disk.replace(home.mounts, json.dumps(mounts).encode())

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

    def is_asked_to_stop(self, seconds: float) -> bool:
        """Whether it is to stop, or is told so within these seconds."""
        return self._stop.wait(seconds)

    # -- work ------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until asked to stop."""
        while not self._stop.is_set() and self.worker.exit_code is None:
            self.step(HEALTH_SECONDS)

    def drain(
        self, *, until: float | None = None, notify: Callable[[str], None] = lambda text: None
    ) -> Outcome:
        """Work until nothing is left that can run now, or until a time in seconds since the epoch.

        With such a time, jobs outside their hours are waited for. `notify` is told, once, of each
        file that is waited for and may take minutes, and of each slot that gets no images.
        """
        note, retried = None, False
        ready_at = self.home.threads.awake()
        told: set[tuple[str, str]] = set()
        while not self._stop.is_set() and self.worker.exit_code is None:
            for name, why in self.intake.waiting_files.items() - told:
                told.add((name, why))
                notify(f"waiting for inbox/{name}, which {why}")
            if (hold := self.worker.hold) and hold.lent and ("", hold.message) not in told:
                told.add(("", hold.message))
                notify(hold.message)
            slots = self.executor.slots()
            if any(slot.state == SlotState.READY for slot in slots):
                ready_at = self.home.threads.awake()
            elif until is None and self.home.threads.awake() - ready_at > _SLOTLESS_SECONDS:
                note = absence(slots)
                break
            for slot in slots:
                if slot.note and (slot.name, slot.note) not in told:
                    told.add((slot.name, slot.note))
                    notify(f"slot {slot.name}: {slot.note}")
            if until is not None and now() >= until:
                break
            if self._is_drained(wait_for_hours=until is not None):
                if not retried:
                    # Once: a disk that stays full must not keep a drain from ending.
                    retried = True
                    self._publish_unpublished()
                    continue
                if self.worker.hold is not None and self.ledger.has_queued():
                    note = self.worker.hold.message
                note = self.home.places.away() or note
                break
            self.step(0.02 if self._scans_wanted else 0.2)
        if self._stop.is_set() and (self.ledger.has_queued() or self.ledger.running()):
            note = "stopped: the other jobs are still queued"
        after = Counter(self.ledger.counts()) + self.ledger.forgotten
        counts = {str(s): after[s] - self._counts_before[s] for s in FINAL_STATES}
        with suppress(OSError, FluxdropError):
            # They were named before.
            name_quarantined(self.spool)
        return Outcome(counts, note or self.faults.note)

    def newest_jobs(self) -> list[str]:
        """The ids of the running jobs, then of the newest since the start, the oldest first."""
        newest = self.ledger.latest(_NEWEST)
        fresh = [record.id for record in newest if record.accepted_at >= self._started_at]
        running = [record.id for record in self.ledger.running()]
        return list(dict.fromkeys([*running, *reversed(fresh)]))

    def step(self, seconds: float) -> None:
        """One pass of the loop of `serve` and `drain`, for callers that have a loop of their own.

        Waits at most `seconds` for an event.
        """
        self.home.threads.moved("main")
        self.home.threads.awake.tick()
        if self._is_broken():
            return
        lent, is_empty = self._lent
        if lent and self.worker.idle and not is_empty:
            # No event tells that it has become so.
            seconds = min(seconds, _EMPTY_SECONDS)
        self.worker.step(min(seconds, max(self._health_due - monotonic(), 0.0)), self._hold)
        self._lend()
        if monotonic() >= self._health_due:
            self._health_due = monotonic() + HEALTH_SECONDS
            self.home.places.tend_marks()
            try:
                name_quarantined(self.spool)
                if self.worker.exit_code is None and self._is_idle():
                    recover_running(self.spool)
                    self.ledger.shrink()
                    self._tidying.look()
            except (OSError, FluxdropError) as error:
                self._log_once.failed(error)
            self._publish_unpublished()
            self.writer.tend_pages()
            self._settings.look(idle=self._is_idle())
            self._release_idle_models()
            self._health.write(self._state())
            self._look_for_events()

    def _look_for_events(self) -> None:
        idle = self._is_idle() and not self.intake.unsettled
        self.telling.look(self.worker.hold, self.executor.slots(), is_idle=idle)

    def _is_idle(self) -> bool:
        return self.worker.idle and self.writer.is_idle

    def _hold(self) -> Hold | None:
        """Why no image may begin now, or None."""
        controls, before = self.intake.controls, self.worker.hold
        if (lent := controls.lent) is not None:
            # First: who has the device waits to be told so.
            return hold_of(lent)
        disks = disk_hold(self.home)
        if disks is not None and (before is None or before.wanted):
            log.error("%s", disks.message)
        return disks or (PAUSED if controls.paused else None)

    def _lend(self) -> None:
        """Empty a device that is lent as soon as its image is over, and say at once that it is."""
        hold, before = self.worker.hold, self._lent
        lent = hold.lent if hold else None
        self._lent = lent, bool(lent) and self.worker.idle and self._is_empty()
        if self._lent != before:
            self._health_due = 0.0
            if hold and lent and lent != before[0]:
                log.info("%s", hold.message)
                self.executor.release()

    def _is_empty(self) -> bool:
        return all(slot.has_nothing for slot in self.executor.slots())

    def _release_idle_models(self) -> None:
        """Release idle models: long unused, while no image may begin, or until hours open."""
        if not self.worker.idle:
            self._idle_since = None
            return
        moment = monotonic()
        since = self._idle_since = self._idle_since or moment
        unused = moment - since >= self.home.settings.idle_minutes * 60
        outside_hours = (
            moment - since >= _BETWEEN_DROPS_SECONDS
            and (self.scheduler.seconds_to_opening(now()) or 0.0) > _BETWEEN_DROPS_SECONDS
        )
        to_go = unused or outside_hours or self.worker.hold is not None
        if to_go and not self._is_empty():
            self.executor.release()

    def _state(self) -> str:
        lent, is_empty = self._lent
        if not self.worker.idle or (lent and not is_empty):
            return "working"
        return "lent" if lent else "idle" if self.worker.hold is None else "paused"

    def _is_drained(self, *, wait_for_hours: bool) -> bool:
        """Whether nothing is left to do, and a scan of the inbox begun since then found nothing."""
        if self.home.places.away() and not wait_for_hours:
            # Nothing is scanned until it is back.
            return self.worker.idle
        if not self._is_quiet(wait_for_hours=wait_for_hours):
            self._scans_wanted = 0
            return False
        if not self._scans_wanted:
            # A scan under way may be past a file that has just come: the one after it is not.
            self._scans_wanted = self.intake.scans + 2
        if self.intake.scans >= self._scans_wanted:
            return True
        self.intake.wake.set()
        return False

    def _is_quiet(self, *, wait_for_hours: bool) -> bool:
        unsettled = self.intake.unsettled or self.intake.controls.forgetting
        if unsettled or not self._is_idle():
            return False
        hold = self.worker.hold
        if hold is not None and not (hold.passes and (wait_for_hours or hold.lent)):
            return True
        if self.ledger.ready(now(), limit=1) or self._waits_for_inputs():
            return False
        return not (wait_for_hours and self.ledger.has_queued())

    def _waits_for_inputs(self) -> bool:
        """Whether a job waits for inputs, other than one whose inputs cannot be copied."""
        # One more than can be at fault: thousands may wait, and a drain asks at every step.
        most = 1 + len(self.faults.below(self.home.outbox))
        return any(
            not self.faults.below(self.spool.outbox.folder(record.id))
            for record in self.ledger.waiting_for_input(most)
        )

    def _written(self) -> None:
        self.worker.wake()
        if self.intake.waits_for_inputs:
            self.intake.wake.set()

    def _publish_unpublished(self) -> None:
        """Publish the statuses that could not be written when the ledger changed."""
        if self.writer.waiting:
            return
        for record in self.ledger.behind():
            if record.is_final:
                self.writer.publish_end(record)
            else:
                self.writer.show(record)


@contextmanager
def stopping_on_signals(daemon: Daemon) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the daemon at the next step; a second SIGINT at once."""

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[number])
        daemon.ask_to_stop()

    with taken_by(handle) as before:
        yield
