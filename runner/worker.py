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
from queue import Empty

from runner.ahead import Ahead
from runner.catalogue import RegistryCatalogue
from runner.errors import JobFailed
from runner.executor import (
    CancelAsked,
    Event,
    Executor,
    Failed,
    Progressed,
    Rendered,
    StoppedEarly,
    Woken,
)
from runner.job import Phase, State
from runner.saving import Writer
from runner.settings import Home
from runner.sidecar import Finished
from runner.spool import loras
from runner.spool.backlog import Backlog
from runner.spool.clock import CLOSED, monotonic, now, ready_at, timestamp
from runner.spool.ledger import Ledger
from runner.spool.record import Record
from runner.supervisor import EXIT_DEVICE_LOST, EXIT_HUNG
from runner.turn import Turn

log = logging.getLogger(__name__)

# Pictures in memory that wait for the disk; a slow disk must not fill the memory.
_MOST_UNSAVED = 4


class Worker:
    """Runs the backlog on an executor."""

    def __init__(
        self, home: Home, ledger: Ledger, backlog: Backlog, executor: Executor, writer: Writer
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._backlog = backlog
        self._executor = executor
        self._writer = writer
        self._catalogue = RegistryCatalogue(home.settings)
        self._ahead = Ahead(home, ledger, backlog, self._catalogue, executor)
        self._turns: dict[str, Turn] = {}
        self.stopping = False
        self.paused = False
        self.lost: int | None = None
        """The exit code with which this process has to end, once it can render no more."""

    @property
    def idle(self) -> bool:
        """Whether no job has a slot."""
        return not self._turns

    @property
    def current(self) -> Record | None:
        """A job that has a slot now."""
        return next((turn.record for turn in self._turns.values()), None)

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
        for slot in self._executor.slots():
            if not slot.busy:
                self._fill(slot.name)
        return happened

    # -- events ----------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case Progressed():
                self._report(event)
            case Rendered():
                turn = self._answered(event.slot)
                turn.rendered += 1
                turn.seconds += event.seconds
                self._writer.save(Finished(turn.record, event, turn.realised, turn.origin))
            case Failed() if event.reason == "DeviceLost":
                # The attempt stays charged: the next process finds the job running.
                self._turns.pop(event.slot)
                self.lost = EXIT_DEVICE_LOST
                log.error("%s", event.message)
            case Failed():
                turn = self._answered(event.slot)
                log.warning("%s image %d: %s", event.task.job, event.task.index, event.message)
                self._writer.fail_image(turn.record, event.task.index, event.reason, event.message)
            case StoppedEarly():
                turn = self._answered(event.slot)
                if not turn.cancelled:
                    # Stopped for the runner's sake: this image is still to be made.
                    self._requeue(event.slot, None, "continues when the runner starts again")
            case CancelAsked():
                self._cancel(event.seq)
            case Woken():
                pass

    def _give_up_hung(self) -> None:
        """Fail an image that will never answer: its thread cannot be ended, so the process must."""
        for slot, turn in list(self._turns.items()):
            if turn.task is not None and turn.is_hung(monotonic()):
                log.error("%s image %d hangs", turn.record.id, turn.task.index)
                message = "the image did not come to its next step within its timeout"
                self._writer.fail_image(turn.record, turn.task.index, "Timeout", message)
                self._requeue(slot, None, "continues when the runner starts again")
                self.lost = EXIT_HUNG

    def _answered(self, slot: str) -> Turn:
        turn = self._turns[slot]
        if turn.task is not None:
            turn.over.add(turn.task.index)
        turn.task = None
        return turn

    def _cancel(self, seq: int) -> None:
        for slot, turn in self._turns.items():
            if turn.record.seq == seq:
                turn.cancelled = True
                if turn.task is not None:
                    self._executor.stop(slot)

    def _report(self, event: Progressed) -> None:
        turn = self._turns.get(event.slot)
        if turn is not None and turn.task is not None:
            turn.heard_at, turn.phase = monotonic(), event.phase
            if event.phase == Phase.LOADING:
                # What has come meanwhile may be encoded along with this one.
                self._ahead.look(now())
            self._writer.progress(turn.record.seq, turn.progress(event))

    # -- slots -----------------------------------------------------------------------------------

    def _fill(self, slot: str) -> None:
        """Give an idle slot its next image, ending or changing jobs as needed."""
        while True:
            turn = self._turns.get(slot)
            if turn is None:
                if not self._may_start():
                    return
                record = self._backlog.next(monotonic(), now())
                if record is None:
                    return
                self._begin(slot, record)
                continue
            if turn.task is not None:
                # The slot is free already, but its answer is still in the queue.
                return
            if turn.cancelled:
                self._end(slot)
                continue
            if self._must_yield(slot, turn):
                continue
            if self._writer.waiting > _MOST_UNSAVED:
                # The writer wakes the worker after each thing it has done.
                return
            number = next(turn.numbers, None)
            if number is None:
                self._end(slot)
                continue
            if self._start(slot, turn, number):
                return

    def _may_start(self) -> bool:
        return not self.stopping and not self.paused

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
        self._ahead.begins(record, now())
        over = set(self._ledger.images(record.seq))
        numbers = (n for n in range(1, record.total + 1) if n not in over)
        self._turns[slot] = Turn(
            record,
            set(over),
            numbers,
            cancelled=record.cancelled,
            composed=self._ledger.composed(record.seq),
        )
        self._backlog.took(record.model, monotonic())

    def _start(self, slot: str, turn: Turn, number: int) -> bool:
        record = turn.record
        try:
            turn.realise(number)
            turn.realised = loras.settled(turn.realised, self._home, self._catalogue.snapshot)
            turn.task = self._catalogue.task(
                turn.realised,
                job=record.id,
                index=number,
                inputs=turn.inputs(self._home.job(record.id) / "inputs"),
                loras=loras.for_task(turn.realised, self._home, self._catalogue.snapshot),
            )
            turn.heard_at, turn.phase = monotonic(), Phase.LOADING
        except JobFailed as error:
            turn.over.add(number)
            self._writer.fail_image(record, number, error.reason, str(error))
            return False
        except Exception as error:
            log.exception("%s image %d could not be prepared", record.id, number)
            message = f"fluxdrop could not prepare this image (a bug): {type(error).__name__}"
            turn.over.add(number)
            self._writer.fail_image(record, number, "Internal", message)
            return False
        self._executor.start(slot, [turn.task])
        return True

    def _must_yield(self, slot: str, turn: Turn) -> bool:
        """At an image's end: whether the job goes back into the queue, and why."""
        record, wall = turn.record, now()
        if self.stopping:
            self._requeue(slot, None, "continues when the runner starts again")
        elif self.paused:
            self._requeue(slot, "Paused", "paused: remove inbox/runner.pause to go on")
        elif ready_at(record.realised, wall) > wall:
            self._requeue(slot, CLOSED, "waits for its window to open again")
        elif self._backlog.outranks(record, monotonic(), wall):
            self._requeue(slot, "Preempted", "another job has the next turn")
        else:
            return False
        return True

    def _requeue(self, slot: str, reason: str | None, message: str | None) -> None:
        turn = self._turns.pop(slot)
        self._writer.requeue(turn.record, reason, message)

    def _end(self, slot: str) -> None:
        turn = self._turns.pop(slot)
        self._writer.finish(turn.record)
