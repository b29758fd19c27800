"""The worker: takes the next image, gives it to the executor, turns each answer into one outcome.

    Rendered      → saved by the writer
    Failed        → that image failed, the next one goes on
    StoppedEarly  → the job is cancelled, or goes back into the queue
    all are over  → the job's final state

One turn waits for one event and then fills every idle slot; the thread that owns the `while` lives
in the daemon. The worker never touches a pipeline, and only it starts and stops slots.
"""

from __future__ import annotations

import logging
from collections import deque
from queue import Empty

from runner.catalogue import RegistryCatalogue
from runner.clock import CLOSED, monotonic, now, ready_at, timestamp
from runner.daemon.active_job import ActiveJob, InFlight
from runner.daemon.lookahead import Lookahead
from runner.daemon.scheduler import Scheduler
from runner.daemon.sidecar import Finished
from runner.daemon.supervisor import EXIT_DEVICE_LOST, EXIT_HUNG
from runner.daemon.writer import Writer
from runner.errors import FluxdropError, JobFailed
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
from runner.holds import Hold
from runner.job import Phase, State
from runner.log_once import LogOnce
from runner.settings import Home
from runner.spool.inbox import loras
from runner.spool.store.ledger import Ledger
from runner.spool.store.record import Record

log = logging.getLogger(__name__)


class Worker:
    """Runs the backlog on an executor."""

    def __init__(
        self, home: Home, ledger: Ledger, scheduler: Scheduler, executor: Executor, writer: Writer
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._scheduler = scheduler
        self._executor = executor
        self._writer = writer
        self._catalogue = RegistryCatalogue(home.settings, home.data)
        self._lookahead = Lookahead(home, ledger, scheduler, self._catalogue, executor)
        self._jobs: dict[str, ActiveJob] = {}
        self.stopping = False
        self._log_once = LogOnce(log, "beginning the next job")
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
        return next((turn.record for turn in self._jobs.values()), None)

    def wake(self) -> None:
        """Make the next turn look at the backlog; callable from any thread."""
        self._executor.events.put(Woken())

    def cancel(self, seq: int) -> None:
        """Stop a running job at the next step or joint; callable from any thread."""
        self._executor.events.put(CancelAsked(seq))

    def turn(self, seconds: float) -> bool:
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
            self._log_once.over()
        except (OSError, FluxdropError) as error:
            # What cannot be recorded does not begin; the next turn tries again.
            self._log_once.about(error)
        return happened

    # -- events ----------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case Progressed():
                self._report(event)
            case Rendered():
                turn, made = self._answered(event)
                turn.rendered += 1
                turn.seconds += event.seconds
                self._writer.save(Finished(turn.record, event, made.realised, made.origin))
            case Failed() if event.reason == "DeviceLost":
                # The attempt stays charged: the next process finds the job running.
                self._jobs.pop(event.slot, None)
                self.lost = EXIT_DEVICE_LOST
                log.error("%s", event.message)
            case Failed():
                turn, _ = self._answered(event)
                log.warning("%s image %d: %s", event.task.job, event.task.index, event.message)
                self._writer.fail_image(turn.record, event.task.index, event.reason, event.message)
            case StoppedEarly():
                turn, _ = self._answered(event)
                if not turn.cancelled and not turn.hand:
                    # Stopped for the runner's sake: this image is still to be made.
                    self._requeue(event.slot, None, "continues when the runner starts again")
            case CancelAsked():
                self._cancel(event.seq)

    def _give_up_hung(self) -> None:
        """Fail an image that will never answer: its thread cannot be ended, so the process must."""
        for slot, turn in list(self._jobs.items()):
            if turn.hand and turn.is_hung(monotonic()):
                message = "the image did not come to its next step within its timeout"
                for number in turn.hand:
                    log.error("%s image %d hangs", turn.record.id, number)
                    self._writer.fail_image(turn.record, number, "Timeout", message)
                self._requeue(slot, None, "continues when the runner starts again")
                self.lost = EXIT_HUNG

    def _answered(self, event: Rendered | Failed | StoppedEarly) -> tuple[ActiveJob, InFlight]:
        turn, number = self._jobs[event.slot], event.task.index
        turn.over.add(number)
        return turn, turn.hand.pop(number)

    def _cancel(self, seq: int) -> None:
        for slot, turn in self._jobs.items():
            if turn.record.seq == seq:
                turn.cancelled = True
                if turn.hand:
                    self._executor.stop(slot)
        for record in self._ledger.select("seq = ? AND behind = 1 AND state = 'cancelled'", seq):
            # It waited for its next turn: there is nothing to stop, but an end to publish.
            self._writer.publish_end(record)

    def _report(self, event: Progressed) -> None:
        turn = self._jobs.get(event.slot)
        if turn is not None and turn.hand:
            turn.heard_at, turn.phase = monotonic(), event.phase
            if event.phase in (Phase.LOADING, Phase.ENCODING) and not event.step:
                # What has come meanwhile may be encoded along with this one.
                self._lookahead.look(now())
            self._writer.progress(turn.record.seq, turn.progress(event))

    # -- slots -----------------------------------------------------------------------------------

    def _fill(self, slot: Slot) -> None:
        """Give an idle slot its next images, ending or changing jobs as needed."""
        name = slot.name
        while True:
            turn = self._jobs.get(name)
            if turn is None:
                if self.stopping or self.hold is not None:
                    return
                record = self._scheduler.next(monotonic(), now())
                if record is None:
                    return
                self._begin(name, record)
                continue
            if turn.hand:
                # The slot is free already, but its answers are still in the queue.
                return
            if turn.cancelled:
                self._end(name)
                continue
            if not turn.numbers:
                # A job whose images are all over waits for nobody.
                self._end(name)
                continue
            if self._writer.is_full:
                # The writer wakes the worker when it has written some.
                return
            if self._must_yield(name, turn):
                continue
            if self._start(slot, turn):
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

    def _start(self, slot: Slot, turn: ActiveJob) -> bool:
        """Start the next image, and with it those after it that the slot can make at once."""
        while turn.numbers and len(turn.hand) < slot.together:
            number = turn.numbers[0]
            made = self._made(turn, number)
            first = next(iter(turn.hand.values()), None)
            if made is not None and first is not None and not made.task.is_like(first.task):
                break
            turn.numbers.popleft()
            if made is not None:
                turn.hand[number] = made
        if not turn.hand:
            return False
        turn.heard_at, turn.phase = monotonic(), Phase.LOADING
        self._executor.start(slot.name, [each.task for each in turn.hand.values()])
        return True

    def _made(self, turn: ActiveJob, number: int) -> InFlight | None:
        """One image as a task; None, and failed, where it cannot become one."""
        record, snapshot = turn.record, self._catalogue.snapshot
        try:
            realised = loras.settled(turn.realised(number), self._home, snapshot)
            task = self._catalogue.task(
                realised,
                job=record.id,
                index=number,
                inputs=turn.inputs(realised, self._home.job(record.id) / "inputs"),
                loras=loras.for_task(realised, self._home, snapshot),
            )
            return InFlight(task, realised, turn.origin(number))
        except JobFailed as error:
            self._writer.fail_image(record, number, error.reason, str(error))
        except Exception as error:
            log.exception("%s image %d could not be prepared", record.id, number)
            message = f"fluxdrop could not prepare this image (a bug): {type(error).__name__}"
            self._writer.fail_image(record, number, "Internal", message)
        turn.over.add(number)
        return None

    def _must_yield(self, slot: str, turn: ActiveJob) -> bool:
        """At an image's end: whether the job goes back into the queue, and why."""
        record, wall = turn.record, now()
        if self.stopping:
            self._requeue(slot, None, "continues when the runner starts again")
        elif self.hold is not None:
            self._requeue(slot, self.hold.reason, self.hold.message)
        elif ready_at(record.realised, wall) > wall:
            self._requeue(slot, CLOSED, "waits for its window to open again")
        elif self._scheduler.outranks(record, monotonic(), wall):
            self._requeue(slot, "Preempted", "another job has the next turn")
        else:
            return False
        return True

    def _requeue(self, slot: str, reason: str | None, message: str | None) -> None:
        turn = self._jobs.pop(slot)
        self._writer.requeue(turn.record, reason, message)

    def _end(self, slot: str) -> None:
        turn = self._jobs.pop(slot)
        self._writer.finish(turn.record)
