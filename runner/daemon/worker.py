"""The worker: gives images to the executor, and turns each of its events into one outcome.

    Rendered          → saved by the writer
    Failed            → that image fails, the job goes on with the next
    … DeviceLost, or an image that hangs → the process ends, and is charged to what was in flight
    StoppedEarly      → the job is cancelled, or goes back into the queue
    every image over  → the job's final state

One step waits for one event and then fills every idle slot; it runs in the daemon's main thread.
The worker never touches a pipeline, and only it starts and stops slots.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from queue import Empty

from runner import exit_codes
from runner.clock import monotonic, now, ready_at
from runner.daemon.active_job import ActiveJob
from runner.daemon.lookahead import Lookahead
from runner.daemon.scheduler import Scheduler
from runner.daemon.sidecar import FinishedImage
from runner.daemon.tasks import InFlight, TaskBuilder
from runner.daemon.writer import Writer
from runner.errors import JobFailed, LedgerUnusable
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
from runner.holds import HOURS_OVER, PREEMPTED, STOPPING, UNWRITABLE, Hold
from runner.job import Phase
from runner.log_once import LogOnce
from runner.spool.disk.disk import concerns_all
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_NO_PROMPTS = Hold("Internal", "its prompts in the ledger cannot be read: drop its spec again")


class Worker:
    """Runs the queued jobs on an executor."""

    def __init__(
        self, spool: Spool, scheduler: Scheduler, executor: Executor, writer: Writer
    ) -> None:
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._awake = spool.home.threads.awake
        self._faults = spool.faults
        self._scheduler = scheduler
        self._executor = executor
        self._writer = writer
        self._builder = TaskBuilder(spool.home)
        self._lookahead = Lookahead(spool.ledger, self._builder, executor)
        self._jobs: dict[str, ActiveJob] = {}
        self._warm = False
        self.stopping = False
        self._log_once = LogOnce("beginning the next job")
        self.hold: Hold | None = None
        """Why no image may begin now, or None."""
        self.exit_code: int | None = None
        """The code with which this process must end: its device is lost or hangs, or a thread."""

    @property
    def idle(self) -> bool:
        """Whether no job has a slot."""
        return not self._jobs

    @property
    def current(self) -> Record | None:
        """A job that has a slot now."""
        return next((job.record for job in self._jobs.values()), None)

    def wake(self) -> None:
        """Make a step check the queue at once; callable from any thread."""
        self._executor.events.put(Woken())

    def cancel(self, seq: int) -> None:
        """Stop a running job at its next cancellation point; callable from any thread."""
        self._executor.events.put(CancelAsked(seq))

    def step(self, seconds: float, find_hold: Callable[[], Hold | None] | None = None) -> None:
        """Handle one event, waiting for it at most `seconds`, then fill the idle slots.

        `find_hold` is asked in between: a pause that came with a job must hold it.
        """
        with suppress(Empty):
            self._handle(self._executor.events.get(timeout=seconds))
        if find_hold is not None:
            self.hold = find_hold()
        self._give_up_hung()
        if self.exit_code is not None:
            return
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

    # -- events ----------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case Progressed():
                self._report(event)
            case Rendered():
                job, image = self._take(event)
                job.rendered += 1
                job.seconds += event.seconds
                self._writer.save(FinishedImage(job.record, event, image.realised, image.origin))
            case Failed() if event.reason == "DeviceLost":
                self._give_up(event.slot, "the GPU was lost", exit_codes.DEVICE_LOST)
                log.error("%s", event.message)
            case Failed():
                job, _ = self._take(event)
                log.warning("%s image %d: %s", event.task.job, event.task.index, event.message)
                self._writer.fail_image(job.record, event.task.index, event.reason, event.message)
            case StoppedEarly():
                job, _ = self._take(event)
                self._writer.record(lambda: self._ledger.unclaim(job.record.seq, event.task.index))
                # It is still to be made, unless the job is cancelled.
                job.numbers.appendleft(event.task.index)
            case CancelAsked():
                self._cancel(event.seq)

    def _give_up_hung(self) -> None:
        """Give up images that hang: the GPU thread cannot be ended, so the process must end."""
        for slot, job in list(self._jobs.items()):
            if job.in_flight and job.is_hung(self._awake()):
                log.error("%s hangs at images %s", job.record.id, sorted(job.in_flight))
                self._give_up(slot, "the image hung", exit_codes.HUNG)

    def _give_up(self, slot: str, why: str, exit_code: int) -> None:
        """Charge the images in flight and end the process; the next one finds the job running."""
        job = self._jobs.pop(slot, None)
        if job is not None:
            self._writer.record(lambda: self._ledger.lost(job.record.seq, why))
        self.exit_code = exit_code

    def _take(self, event: Rendered | Failed | StoppedEarly) -> tuple[ActiveJob, InFlight]:
        """The event's job and its image, which is no longer in flight."""
        job = self._jobs[event.slot]
        return job, job.in_flight.pop(event.task.index)

    def _cancel(self, seq: int) -> None:
        for slot, job in self._jobs.items():
            if job.record.seq == seq:
                job.cancelled = True
                if job.in_flight:
                    self._executor.stop(slot)
        record = self._ledger.find(seq)
        if record is not None and record.is_final and not record.is_shown:
            # It was back in the queue: there is nothing to stop, but an end to publish.
            self._writer.publish_end(record)

    def _report(self, event: Progressed) -> None:
        job = self._jobs.get(event.slot)
        if job is not None and job.in_flight:
            job.heard_at = self._awake()
            # Where nothing has gone wrong, the first sign of life and the loads are enough.
            telling = job.record.attempt > 1 or not self._warm
            self._warm = True
            if event.phase != job.phase and (telling or Phase.LOADING in (event.phase, job.phase)):
                # A disk without room must not stop the image: a kill is charged to nobody then.
                with suppress(LedgerUnusable):
                    self._ledger.reached(
                        job.record.seq, job.in_flight, event.phase, event.task.model
                    )
            job.phase = event.phase
            if event.phase in (Phase.LOADING, Phase.ENCODING) and not event.step:
                # The prompts of newly queued jobs can be encoded along with this one.
                self._lookahead.announce()
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
                if not self._put_off_if_at_fault(record):
                    self._begin(name, record)
                continue
            if job.in_flight:
                # The slot is idle already, but its events are still in the queue.
                return
            if job.cancelled or not job.numbers:
                # Ends at once, even while the writer is full or no image may begin.
                self._jobs.pop(name)
                self._writer.finish(job.record)
                continue
            if self._writer.is_full or (job.is_alone and self._writer.waiting):
                # The writer wakes the worker when it has written some.
                return
            hold = self._hold_of(job)
            if hold is not None:
                self._writer.requeue(self._jobs.pop(name).record, hold)
            elif self._start(slot, job):
                return

    def _put_off_if_at_fault(self, record: Record) -> bool:
        """Put a job off whose folder, or an image of it, is at fault for now; whether it was."""
        folder = self._outbox.folder(record.id)
        if folder in self._faults and not self._faults.seconds_left(folder):
            with self._faults.isolated(folder):
                self._outbox.write_status(record.seq)
        left = max(map(self._faults.seconds_left, self._faults.below(folder)), default=0.0)
        if left:
            self._ledger.put_off(record.seq, now() + left, UNWRITABLE)
        return bool(left)

    def _begin(self, slot: str, record: Record) -> None:
        self._lookahead.begins(record)
        over = self._ledger.images(record.seq)
        numbers = deque(n for n in range(1, record.total + 1) if n not in over)
        try:
            composed = self._ledger.composed(record.seq)
        except ValueError:
            log.exception("the prompts of %s cannot be read", record.id)
            self._ledger.end(record.seq, _NO_PROMPTS)
            return
        suspects = self._ledger.suspect_images(record.seq)
        # Last: a job that runs but has no slot would go on only after the next start.
        begun = self._ledger.begin(record.seq)
        if begun is None:
            return
        self._jobs[slot] = ActiveJob(begun, composed, numbers, suspects=suspects)
        self._scheduler.started(begun.model, monotonic())
        # Before the device begins: its thread leaves the others little of the interpreter's time.
        self._writer.show(begun)

    def _start(self, slot: Slot, job: ActiveJob) -> bool:
        """Start the next image, batched with those after it that are like it; False if none can be.

        An image of which no task can be built fails and is skipped. One during which a process
        ended is started alone, so that the next end is charged to it or to no one.
        """
        batch: dict[int, InFlight] = {}
        size = 1 if job.is_alone else slot.batch_size
        try:
            while job.numbers and len(batch) < size:
                number = job.numbers[0]
                if batch and number in job.suspects:
                    break
                image = self._build(job, number)
                first = next(iter(batch.values()), None)
                if image is not None and first is not None and not image.task.is_like(first.task):
                    break
                job.numbers.popleft()
                if image is not None:
                    batch[number] = image
            if not batch:
                return False
            models = {number: image.task.model for number, image in batch.items()}
            job.cancelled |= not self._ledger.claim(
                job.record.seq, models, slot.name, warm=self._warm
            )
        except (OSError, LedgerUnusable):
            job.numbers.extendleft(reversed(batch))
            raise
        if job.cancelled:
            return False
        job.in_flight, job.last = batch, max(batch)
        job.heard_at, job.phase = self._awake(), None
        self._executor.start(slot.name, [image.task for image in batch.values()])
        return True

    def _build(self, job: ActiveJob, number: int) -> InFlight | None:
        """Build one image's task, or fail the image. Raises OSError where it concerns all."""
        record = job.record
        try:
            image = self._builder.build(record, job.composed, number)
            if number not in job.suspects:
                return image
            return replace(image, task=replace(image.task, suspect=True))
        except JobFailed as error:
            self._writer.fail_image(record, number, error.reason, str(error))
        except OSError as error:
            if concerns_all(error):
                raise
            message = f"a file that it needs cannot be read now: {error}: then retry the job"
            self._writer.fail_image(record, number, "InputBad", message)
        except Exception as error:
            log.exception("%s image %d could not be prepared", record.id, number)
            message = f"fluxdrop could not prepare this image (a bug): {type(error).__name__}"
            self._writer.fail_image(record, number, "Internal", message)
        return None

    def _hold_of(self, job: ActiveJob) -> Hold | None:
        """Why the job goes back into the queue at this end of an image; None where it goes on."""
        wall = now()
        if self.stopping:
            return STOPPING
        if self.hold is not None:
            return self.hold
        if self._outbox.folder(job.record.id) in self._faults:
            return UNWRITABLE
        if ready_at(job.record.realised, wall) > wall:
            return HOURS_OVER
        return PREEMPTED if self._scheduler.outranks(job.record, monotonic(), wall) else None
