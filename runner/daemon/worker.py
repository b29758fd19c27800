"""The worker: gives the next image to the executor, and turns each answer into one outcome.

    Rendered      → saved by the writer
    Failed        → that image failed, the next one goes on
    StoppedEarly  → the job is cancelled, or goes back into the queue
    all are over  → the job's final state

One step waits for one event and then fills every idle slot; the thread that owns the loop is the
daemon's. The worker never touches a pipeline, and only it starts and stops slots.
"""

from __future__ import annotations

import logging
from collections import deque
from queue import Empty

from runner import exit_codes
from runner.catalogue import RegistryCatalogue
from runner.clock import monotonic, now, ready_at, timestamp
from runner.daemon.active_job import ActiveJob
from runner.daemon.lookahead import Lookahead
from runner.daemon.scheduler import Scheduler
from runner.daemon.sidecar import Finished
from runner.daemon.tasks import InFlight, TaskBuilder
from runner.daemon.writer import Writer
from runner.errors import JobFailed
from runner.executor import (
    CancelAsked,
    Event,
    Executor,
    Failed,
    Progressed,
    Rendered,
    Slot,
    StoppedEarly,
    Woken,
)
from runner.holds import HOURS_OVER, PREEMPTED, STOPPING, Hold
from runner.job import Phase, State
from runner.log_once import LogOnce
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from specs.errors import FluxdropError

log = logging.getLogger(__name__)


class Worker:
    """Runs the queued jobs on an executor."""

    def __init__(
        self, spool: Spool, scheduler: Scheduler, executor: Executor, writer: Writer
    ) -> None:
        self._ledger = ledger = spool.ledger
        self._scheduler = scheduler
        self._executor = executor
        self._writer = writer
        self._builder = TaskBuilder(
            spool.home, RegistryCatalogue(spool.home.settings, spool.home.data)
        )
        self._lookahead = Lookahead(ledger, scheduler, self._builder, executor)
        self._jobs: dict[str, ActiveJob] = {}
        self.stopping = False
        self._log_once = LogOnce("beginning the next job")
        self.hold: Hold | None = None
        """Why no image may begin now."""
        self.lost: int | None = None
        """The exit code with which this process has to end, once it can render no more."""

    @property
    def idle(self) -> bool:
        """Whether no job has a slot."""
        return not self._jobs

    @property
    def current(self) -> Record | None:
        """A job that has a slot now."""
        return next((job.record for job in self._jobs.values()), None)

    def wake(self) -> None:
        """Make the next step look at the queue; callable from any thread."""
        self._executor.events.put(Woken())

    def cancel(self, seq: int) -> None:
        """Stop a running job at its next cancellation point; callable from any thread."""
        self._executor.events.put(CancelAsked(seq))

    def step(self, seconds: float) -> bool:
        """Handle one event, waiting for it at most `seconds`, then fill the idle slots.

        Returns whether there was an event.
        """
        try:
            event = self._executor.events.get(timeout=seconds)
        except Empty:
            happened = False
        else:
            happened = True
            self._handle(event)
        self._give_up_hung()
        if self.lost is not None:
            return happened
        if self.stopping:
            for slot in self._executor.slots():
                if slot.busy:
                    self._executor.stop(slot.name)
        try:
            for slot in self._executor.slots():
                if not slot.busy:
                    self._fill(slot)
            self._log_once.recovered()
        except (OSError, FluxdropError) as error:
            # What cannot be recorded does not begin; the next step tries again.
            self._log_once.failed(error)
        return happened

    # -- events ----------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case Progressed():
                self._report(event)
            case Rendered():
                job, made = self._answered(event)
                job.rendered += 1
                job.seconds += event.seconds
                self._writer.save(Finished(job.record, event, made.realised, made.origin))
            case Failed() if event.reason == "DeviceLost":
                # The attempt stays charged: the next process finds the job running.
                self._jobs.pop(event.slot, None)
                self.lost = exit_codes.DEVICE_LOST
                log.error("%s", event.message)
            case Failed():
                job, _ = self._answered(event)
                log.warning("%s image %d: %s", event.task.job, event.task.index, event.message)
                self._writer.fail_image(job.record, event.task.index, event.reason, event.message)
            case StoppedEarly():
                job, _ = self._answered(event)
                if not job.cancelled and not job.in_flight:
                    # Stopped for the runner's sake: this image is still to be made.
                    self._requeue(event.slot, STOPPING)
            case CancelAsked():
                self._cancel(event.seq)

    def _give_up_hung(self) -> None:
        """Fail an image that will never answer: its thread cannot be ended, so the process must."""
        for slot, job in list(self._jobs.items()):
            if job.in_flight and job.is_hung(monotonic()):
                message = "the image did not come to its next step within its timeout"
                for number in job.in_flight:
                    log.error("%s image %d hangs", job.record.id, number)
                    self._writer.fail_image(job.record, number, "Timeout", message)
                self._requeue(slot, STOPPING)
                self.lost = exit_codes.HUNG

    def _answered(self, event: Rendered | Failed | StoppedEarly) -> tuple[ActiveJob, InFlight]:
        job, number = self._jobs[event.slot], event.task.index
        job.over.add(number)
        return job, job.in_flight.pop(number)

    def _cancel(self, seq: int) -> None:
        for slot, job in self._jobs.items():
            if job.record.seq == seq:
                job.cancelled = True
                if job.in_flight:
                    self._executor.stop(slot)
        record = self._ledger.unpublished_cancel(seq)
        if record is not None:
            # It waited for its next slot: there is nothing to stop, but an end to publish.
            self._writer.publish_end(record)

    def _report(self, event: Progressed) -> None:
        job = self._jobs.get(event.slot)
        if job is not None and job.in_flight:
            job.heard_at, job.phase = monotonic(), event.phase
            if event.phase in (Phase.LOADING, Phase.ENCODING) and not event.step:
                # What has come meanwhile may be encoded along with this one.
                self._lookahead.announce(now())
            self._writer.progress(job.record.seq, job.progress(event))

    # -- slots -----------------------------------------------------------------------------------

    def _fill(self, slot: Slot) -> None:
        """Give an idle slot its next images, ending or changing jobs as needed."""
        name = slot.name
        while True:
            job = self._jobs.get(name)
            if job is None:
                if self.stopping or self.hold is not None:
                    return
                record = self._scheduler.next(monotonic(), now())
                if record is None:
                    return
                self._begin(name, record)
                continue
            if job.in_flight:
                # The slot is free already, but its answers are still in the queue.
                return
            if job.cancelled:
                self._end(name)
                continue
            if not job.numbers:
                # A job whose images are all over waits for nobody.
                self._end(name)
                continue
            if self._writer.is_full:
                # The writer wakes the worker when it has written some.
                return
            if self._must_yield(name, job):
                continue
            if self._start(slot, job):
                return

    def _begin(self, slot: str, record: Record) -> None:
        moved = self._ledger.move(
            record.seq,
            State.RUNNING,
            attempt=record.attempt + 1,
            started_at=record.started_at or timestamp(),
            reason=None,
            message=None,
        )
        if not moved:
            return
        record = self._ledger.get(record.seq)
        self._lookahead.begins(record, now())
        over = set(self._ledger.images(record.seq))
        numbers = deque(n for n in range(1, record.total + 1) if n not in over)
        self._jobs[slot] = ActiveJob(
            record,
            set(over),
            numbers,
            cancelled=record.cancelled,
            composed=self._ledger.composed(record.seq),
        )
        self._scheduler.took(record.model, monotonic())
        # Before the device begins: it leaves the other threads little of the interpreter.
        self._writer.show(record)

    def _start(self, slot: Slot, job: ActiveJob) -> bool:
        """Start the next image, and with it those after it that the slot can make at once."""
        while job.numbers and len(job.in_flight) < slot.batch_size:
            number = job.numbers[0]
            built = self._built(job, number)
            first = next(iter(job.in_flight.values()), None)
            if built is not None and first is not None and not built.task.is_like(first.task):
                break
            job.numbers.popleft()
            if built is not None:
                job.in_flight[number] = built
        if not job.in_flight:
            return False
        job.heard_at, job.phase = monotonic(), Phase.LOADING
        self._executor.start(slot.name, [each.task for each in job.in_flight.values()])
        return True

    def _built(self, job: ActiveJob, number: int) -> InFlight | None:
        """One image as a task; None, and failed, where it cannot become one."""
        record = job.record
        try:
            return self._builder.build(record, job.composed, number)
        except JobFailed as error:
            self._writer.fail_image(record, number, error.reason, str(error))
        except Exception as error:
            log.exception("%s image %d could not be prepared", record.id, number)
            message = f"fluxdrop could not prepare this image (a bug): {type(error).__name__}"
            self._writer.fail_image(record, number, "Internal", message)
        job.over.add(number)
        return None

    def _must_yield(self, slot: str, job: ActiveJob) -> bool:
        """At an image's end: whether the job goes back into the queue, and why."""
        record, wall = job.record, now()
        if self.stopping:
            self._requeue(slot, STOPPING)
        elif self.hold is not None:
            self._requeue(slot, self.hold)
        elif ready_at(record.realised, wall) > wall:
            self._requeue(slot, HOURS_OVER)
        elif self._scheduler.outranks(record, monotonic(), wall):
            self._requeue(slot, PREEMPTED)
        else:
            return False
        return True

    def _requeue(self, slot: str, hold: Hold) -> None:
        job = self._jobs.pop(slot)
        self._writer.requeue(job.record, hold)

    def _end(self, slot: str) -> None:
        job = self._jobs.pop(slot)
        self._writer.finish(job.record)
