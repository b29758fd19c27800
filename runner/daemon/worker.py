"""The worker: gives images to the executor, and turns each of its events into one outcome.

    Rendered          → saved by the writer
    Failed            → that image fails, the job goes on with the next
    StoppedEarly      → the job is cancelled, or goes back into the queue
    SlotLost          → its images are charged, or not, and made again; all else goes on
    … DeviceLost, or an image that hangs, in this process → it ends, charged to what was in flight
    every image over  → the job's final state
    a picture exists  → copied by the writer, where the job reuses pictures

The images of a job go to every slot that has none. One step waits for an event, handles all that
are there, and then fills the free slots; it runs in the daemon's main thread. The worker never
touches a pipeline, and only it starts and stops slots.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from queue import Empty

from runner import exit_codes
from runner.clock import monotonic, now, ready_at
from runner.daemon.active_job import ActiveJob, Dispatch
from runner.daemon.lookahead import Lookahead
from runner.daemon.metrics import Metrics
from runner.daemon.reuse import Reuse
from runner.daemon.saving import copied, rendered
from runner.daemon.scheduler import Scheduler
from runner.daemon.sidecar import FinishedImage
from runner.daemon.tasks import InFlight, TaskBuilder
from runner.daemon.writer import Writer
from runner.errors import JobFailed, LedgerUnusable
from runner.executor import (
    OWN_SLOT,
    CancelAsked,
    Event,
    Executor,
    Failed,
    Progressed,
    Rendered,
    Slot,
    SlotLost,
    SlotState,
    StoppedEarly,
    Woken,
)
from runner.holds import HOURS_OVER, LENT, PREEMPTED, STOPPING, UNWRITABLE, Hold
from runner.job import Phase
from runner.log_once import LogOnce
from runner.spool.disk.disk import concerns_all
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from runner.task import ImageTask
from specs.errors import FluxdropError
from specs.expand import MAX_IMAGES

log = logging.getLogger(__name__)

_HUNG = "the image hung"
# So often hung images are looked for; none hangs before half a minute.
_LOOK_SECONDS = 1.0
# So long a job waits for a slot that is being made; then others have the next turn.
_SOON_SECONDS = 10.0
_ASKED_AT_ONCE = 32
# Of so many images it is known what they asked for: two of the largest jobs.
_MOST_BEGUN = 2 * MAX_IMAGES
_NO_PROMPTS = Hold("Internal", "its prompts in the ledger cannot be read: drop its spec again")


class Worker:
    """Runs the queued jobs on an executor."""

    def __init__(
        self, spool: Spool, scheduler: Scheduler, executor: Executor, writer: Writer,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._awake = spool.home.threads.awake
        self._tells_prompts = spool.home.settings.log_prompts
        self._faults = spool.faults
        self._scheduler = scheduler
        self._executor = executor
        self._writer, self._metrics = writer, metrics
        self._builder = TaskBuilder(spool.home)
        self._reuse = Reuse(spool.home)
        self._begun: dict[str, tuple[int, int]] = {}
        """The newest image begun by what it asks for, where its job reuses: its job and number."""
        self._awaited: set[str] = set()
        """What of that is being made or written, as far as this filling of the slots has asked."""
        self._lookahead = Lookahead(spool.ledger, self._builder, executor)
        self._jobs: dict[int, ActiveJob] = {}
        self._own: dict[str, int] = {}
        """The job that each slot worked on last, by its `seq`."""
        self._starting: dict[str, float] = {}
        """Since when slots are being made, by the awake clock."""
        self._lost: deque[tuple[Dispatch, SlotLost]] = deque()
        self._warm: set[str] = set()
        self._answered: list[tuple[int, ImageTask]] = []
        """The images of other processes that this one holds now, which is not recorded yet."""
        self._heard: dict[int, Progressed] = {}
        """The newest progress of each job, by `seq`, that is not handed over yet."""
        self._holds: dict[int, Hold | None] = {}
        """Why images of each job may not begin now, as far as this step has asked."""
        self._encodes = False
        self._notes: dict[str, str] = {}
        """Why slots are given nothing, by their names, as far as it was logged."""
        self._looked_at = 0.0
        self.dispatches: dict[str, Dispatch] = {}
        """What each slot has, by its name."""
        self.stopping = False
        self._log_once = LogOnce("beginning the next job")
        self.hold: Hold | None = None
        """Why no image may begin now, or None."""
        self.exit_code: int | None = None
        """The code with which this process must end: its device is lost or hangs, or a thread."""

    @property
    def idle(self) -> bool:
        """Whether no job runs."""
        return not self._jobs

    @property
    def current(self) -> Record | None:
        """The job that has run longest."""
        return next((job.record for job in self._jobs.values()), None)

    def wake(self) -> None:
        """Make a step check the queue at once; callable from any thread."""
        self._executor.events.put(Woken())

    def cancel(self, seq: int) -> None:
        """Stop a running job at its next cancellation point; callable from any thread."""
        self._executor.events.put(CancelAsked(seq))

    def step(self, seconds: float, find_hold: Callable[[], Hold | None] | None = None) -> None:
        """Handle the events that are there, or wait at most `seconds`, then fill the idle slots.

        `find_hold` is asked in between: a pause that came with a job must hold it.
        """
        try:
            self._hear(seconds)
        except (OSError, FluxdropError) as error:
            self._log_once.failed(error)
        if find_hold is not None:
            self.hold = find_hold()
        self._give_up_hung()
        if self.exit_code is not None:
            return
        self._holds.clear()
        slots = self._executor.slots()
        if self.stopping or (self.hold and self.hold.lent and self.hold.lent["now"]):
            for slot in slots:
                if slot.busy:
                    self._executor.stop(slot.name)
        try:
            self._record_losses()
            self._end_jobs()
            self._fill(slots)
            self._copy_ahead()
            self._end_jobs(overtaken=self._all_taken(slots))
            self._log_once.recovered()
        except (OSError, FluxdropError) as error:
            # What cannot be recorded does not begin; the next step tries again.
            self._log_once.failed(error)

    # -- events ----------------------------------------------------------------------------------

    def _hear(self, seconds: float) -> None:
        """Handle an event and those that have come with it; of progress, only the newest counts."""
        events = self._executor.events
        with suppress(Empty):
            self._handle(events.get(timeout=seconds))
            for _ in range(events.qsize()):
                if self.exit_code is not None:
                    break
                self._handle(events.get(timeout=0))
        if self._answered:
            # A disk without room must not stop the images: a kill is charged to nobody then.
            with suppress(LedgerUnusable), self._ledger.transaction(durable=False):
                for seq, task in self._answered:
                    self._ledger.reached(seq, [task.index], Phase.SAVING, task.model)
            self._answered.clear()
        heard, self._heard = self._heard, {}
        for seq, event in heard.items():
            dispatch = self.dispatches.get(event.slot)
            if dispatch is not None and dispatch.job.record.seq == seq:
                self._writer.progress(seq, dispatch.job.progress(event))
        if self._encodes:
            # The prompts of newly queued jobs can be encoded along with these.
            self._encodes = False
            self._lookahead.announce()

    def _handle(self, event: Event) -> None:
        self._metrics.heard(event, self._awake())
        match event:
            case Progressed():
                self._report(event)
            case Rendered():
                if taken := self._take(event):
                    job, image = taken
                    if event.slot != OWN_SLOT:
                        self._answered.append((job.record.seq, event.task))
                    job.rendered += 1
                    job.seconds += event.seconds
                    keys = partial(self._reuse.keys, image, event.facts)
                    finished = FinishedImage(job.record, event, image.realised, image.origin, keys)
                    self._writer.save(rendered(finished))
            case Failed() if event.reason == "DeviceLost":
                self._give_up(event.slot, "the GPU was lost", exit_codes.DEVICE_LOST)
                log.error("%s", event.message)
            case Failed():
                if taken := self._take(event):
                    record, number = taken[0].record, event.task.index
                    self._writer.fail_image(record, number, event.reason, event.message)
            case StoppedEarly():
                if taken := self._take(event):
                    seq, number = taken[0].record.seq, event.task.index
                    self._writer.record(lambda: self._ledger.unclaim(seq, [number]))
                    # It is still to be made, unless the job is cancelled.
                    taken[0].give_back([number])
            case SlotLost():
                self._lose(event)
            case CancelAsked():
                self._cancel(event.seq)

    def _give_up_hung(self) -> None:
        """Give up images that hang, with their slot; one of this process only ends with it."""
        if abs(self._awake() - self._looked_at) < _LOOK_SECONDS:
            return
        self._looked_at = self._awake()
        for slot, dispatch in list(self.dispatches.items()):
            if dispatch.is_hung(self._awake()) and not self._is_lost(dispatch):
                log.error("job %s hangs at %s", dispatch.job.record.id, sorted(dispatch.images))
                if self._executor.abandon(slot, _HUNG):
                    # It is told by an event.
                    dispatch.heard_at = self._awake()
                else:
                    self._give_up(slot, _HUNG, exit_codes.HUNG)

    def _give_up(self, slot: str, why: str, exit_code: int) -> None:
        """Charge the images in flight and end the process; the next one finds the job running."""
        dispatch = self.dispatches.pop(slot, None)
        if dispatch is not None:
            seq, images = dispatch.job.record.seq, list(dispatch.images)
            self._writer.record(lambda: self._ledger.lost(seq, why, images))
        self.exit_code = exit_code

    def _lose(self, lost: SlotLost) -> None:
        level = logging.INFO if self.stopping else logging.ERROR
        log.log(level, "the slot %s is lost: %s", lost.slot, lost.why)
        self._forget(lost.slot)
        dispatch = self.dispatches.get(lost.slot)
        if dispatch is not None and not self._is_lost(dispatch):
            self._lost.append((dispatch, lost))

    def _is_lost(self, dispatch: Dispatch) -> bool:
        """Whether its slot is gone, which could not be recorded yet."""
        return any(each is dispatch for each, _ in self._lost)

    def _forget(self, slot: str) -> None:
        """Forget what a slot had loaded, and what it has made."""
        self._scheduler.lost(slot)
        self._warm.discard(slot)
        self._own.pop(slot, None)

    def _record_losses(self) -> None:
        """Charge the images that slots had when they were lost, and have them made again.

        Here, and not by the writer: they may not begin anew before it is recorded. Raises
        LedgerUnusable.
        """
        while self._lost:
            dispatch, lost = self._lost[0]
            job, seq = dispatch.job, dispatch.job.record.seq
            with self._ledger.transaction():
                if lost.charged:
                    if dispatch.latest is not None:
                        event = dispatch.latest
                        self._ledger.reached(seq, dispatch.images, event.phase, event.task.model)
                    self._ledger.lost(seq, lost.why, dispatch.images)
                else:
                    self._ledger.unclaim(seq, dispatch.images)
                over = self._ledger.images(seq)
                suspects, failure = self._ledger.suspect_images(seq), self._ledger.dead_load(seq)
            self._lost.popleft()
            self._end_dispatch(lost.slot)
            job.give_back(dispatch.images.keys() - over.keys())
            job.suspects, job.failure = suspects, failure
            self._writer.show(job.record)

    def _take(self, event: Rendered | Failed | StoppedEarly) -> tuple[ActiveJob, InFlight] | None:
        """The event's job and its image, no longer in flight; None where the slot has it not."""
        dispatch, task = self.dispatches.get(event.slot), event.task
        if dispatch is None or dispatch.job.record.id != task.job:
            return None
        image = dispatch.images.pop(task.index, None)
        if not dispatch.images:
            self._end_dispatch(event.slot)
        return None if image is None else (dispatch.job, image)

    def _end_dispatch(self, slot: str) -> None:
        job = self.dispatches.pop(slot).job
        job.dispatches.pop(slot)
        if job.previewed == slot:
            job.previewed = None
            self._writer.preview(job.record, b"")

    def _cancel(self, seq: int) -> None:
        job = self._jobs.get(seq)
        if job is not None:
            job.cancelled = True
            for slot in job.dispatches:
                self._executor.stop(slot)
        record = self._ledger.find(seq)
        if record is not None and record.is_final and not record.is_shown:
            # It was back in the queue: there is nothing to stop, but an end to publish.
            self._writer.publish_end(record)

    def _report(self, event: Progressed) -> None:
        dispatch = self.dispatches.get(event.slot)
        if dispatch is not None and event.task.index in dispatch.images:
            job, before = dispatch.job, dispatch.phase
            # Where nothing has gone wrong, the first sign of life and the loads are enough.
            charged = job.record.attempt > 1 or bool(job.suspects)
            telling = charged or event.slot not in self._warm
            self._warm.add(event.slot)
            if event.phase != before and (telling or Phase.LOADING in (event.phase, before)):
                # A disk without room must not stop the image: a kill is charged to nobody then.
                with suppress(LedgerUnusable):
                    self._ledger.reached(
                        job.record.seq, dispatch.images, event.phase, event.task.model
                    )
            dispatch.heard_at, dispatch.latest = self._awake(), event
            # Of several slots the first that had one, to its end: they would take turns.
            if event.preview and job.previewed in (None, event.slot):
                job.previewed = event.slot
                self._writer.preview(job.record, event.preview)
            self._heard[job.record.seq] = event
            self._encodes |= event.phase in (Phase.LOADING, Phase.ENCODING) and not event.step

    # -- slots -----------------------------------------------------------------------------------

    def _fill(self, slots: Sequence[Slot]) -> None:
        """Give the free slots their next images."""
        ready = sum(slot.state == SlotState.READY for slot in slots)
        notes = {slot.name: slot.note for slot in slots if slot.note}
        for told in notes.items() - self._notes.items():
            log.warning("the slot %s: %s", *told)
        self._notes = notes
        again = True
        # The writer wakes the worker when it has written some.
        while again and not self._writer.is_full:
            chosen: list[tuple[str, ActiveJob, dict[int, InFlight]]] = []
            self._awaited.clear()
            try:
                for slot in slots:
                    if slot.state in (SlotState.STARTING, SlotState.LOST):
                        self._starting.setdefault(slot.name, self._awake())
                        self._forget(slot.name)
                        continue
                    self._starting.pop(slot.name, None)
                    if slot.is_free and slot.name not in self.dispatches:
                        if (found := self._choose(slot, ready)) is None:
                            break
                        if found[1]:
                            chosen.append((slot.name, *found))
            finally:
                again = self._start(chosen)

    def _choose(self, slot: Slot, ready: int) -> tuple[ActiveJob, dict[int, InFlight]] | None:
        """A job and the images of it that a slot gets, none where it must wait.

        None where nothing is left for any slot.
        """
        while (job := self._next_job(slot.name)) is not None:
            if job.is_alone(slot.name) and self._writer.waiting:
                return job, {}
            if batch := self._next_batch(slot, job, ready):
                return job, batch
            if job.may_go_on:
                return job, {}
        return None

    def _next_job(self, slot: str) -> ActiveJob | None:
        """The job whose image a slot makes next, begun if it was queued; None where none may."""
        while not self.stopping and self.hold is None:
            able = {
                seq: job
                for seq, job in self._jobs.items()
                if job.may_go_on and self._hold_of(job) is None
            }
            own = able.get(self._own.get(slot, 0))
            record = self._scheduler.next(
                slot,
                own.record if own is not None else None,
                [job.record for job in able.values()],
                monotonic(),
                now(),
            )
            if record is None or record.seq in able:
                return None if record is None else able[record.seq]
            if not self._put_off_if_at_fault(record):
                self._begin(record)
                job = self._jobs.get(record.seq)
                if job is not None and job.may_go_on:
                    return job
        return None

    def _end_jobs(self, *, overtaken: bool = False) -> None:
        """Have jobs leave the slots that have nothing in flight and whose time is over.

        Their images are all over, or may not go on now, or others have the next turn: where the
        slots are all taken, `overtaken`.
        """
        for seq, job in list(self._jobs.items()):
            if job.dispatches:
                continue
            hold = self._hold_of(job) or (PREEMPTED if overtaken else None)
            if job.may_go_on and hold is None:
                continue
            del self._jobs[seq]
            if job.failure is not None:
                end = partial(self._ledger.end, seq, job.failure)
                self._writer.record(end)
            if job.may_go_on and hold is not None:
                self._writer.requeue(job.record, hold)
            else:
                # At once, even while the writer is full or no image may begin.
                self._writer.finish(job.record)

    def _all_taken(self, slots: Sequence[Slot]) -> bool:
        """Whether all slots work, but for those that are not there, or not soon."""

        def is_taken(slot: Slot) -> bool:
            if slot.name in self.dispatches:
                return True
            if slot.state == SlotState.STARTING:
                since = self._starting.get(slot.name, self._awake())
                return self._awake() - since > _SOON_SECONDS
            return slot.state != SlotState.READY

        return bool(self.dispatches) and all(map(is_taken, slots))

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

    def _begin(self, record: Record) -> None:
        self._lookahead.begins(record)
        over = self._ledger.images(record.seq)
        numbers = OrderedDict.fromkeys(n for n in range(1, record.total + 1) if n not in over)
        try:
            composed = self._ledger.composed(record.seq)
        except ValueError:
            log.exception("job %s: its prompts cannot be read", record.id)
            self._ledger.end(record.seq, _NO_PROMPTS)
            return
        suspects = self._ledger.suspect_images(record.seq)
        # Last: a job that runs but has no slot would go on only after the next start.
        begun = self._ledger.begin(record.seq)
        if begun is None:
            return
        job = self._jobs[record.seq] = ActiveJob(begun, composed, numbers, suspects=suspects)
        job.unasked.extend(numbers if job.reuses else ())
        # Before the device begins: its thread leaves the others little of the interpreter's time.
        self._writer.show(begun)

    def _next_batch(self, slot: Slot, job: ActiveJob, ready: int) -> dict[int, InFlight]:
        """The next image, with those after it that are like it; empty where none can be built.

        An image of which no task can be built fails and is skipped, and one whose picture exists is
        copied, where that is asked for; while that picture is made, others come first. One during
        which a process ended is made alone, so that the next end is charged to it or to no one.
        """
        batch: dict[int, InFlight] = {}
        over: list[int] = []
        # Nothing is gained where one slot takes all, and others have none.
        size = min(slot.batch_size, -(-len(job.numbers) // max(ready, 1)))
        if job.is_alone(slot.name):
            size = 1
        try:
            for number in job.numbers:
                if len(batch) >= size or (batch and number in job.suspects):
                    break
                key = job.new.get(number, "")
                if key in self._awaited and not job.suspects:
                    continue
                image = self._build(job, number)
                if image is not None and job.reuses and (not key or key in self._begun):
                    exists, key = self._copy(job, image)
                    if exists:
                        over.append(number)
                        if self._writer.is_full:
                            break
                        continue
                    if self._is_awaited(key) and not job.suspects:
                        continue
                first = next(iter(batch.values()), None)
                if image is not None and first is not None and not image.task.is_like(first.task):
                    break
                if image is None:
                    over.append(number)
                else:
                    batch[number] = image
                    if key:
                        self._awaited.add(key)
                        self._begun[key] = job.record.seq, number
                    if len(self._begun) > _MOST_BEGUN:
                        del self._begun[next(iter(self._begun))]
        finally:
            for number in over:
                del job.numbers[number]
        for number in batch:
            del job.numbers[number]
        return batch

    def _is_awaited(self, key: str) -> bool:
        """Whether what an image asks for is being made, or may lie with the writer."""
        seq, number = self._begun.get(key, (0, 0))
        works = (each for each in self.dispatches.values() if each.job.record.seq == seq)
        if seq and (self._writer.waiting or any(number in each.images for each in works)):
            self._awaited.add(key)
        return key in self._awaited

    def _copy_ahead(self) -> None:
        """Have pictures that exist copied while the slots make others, a few at each step."""
        for job in self._jobs.values():
            if job.is_first and not job.rendered:
                continue
            for _ in range(_ASKED_AT_ONCE):
                if not (job.unasked and job.may_go_on) or self._hold_of(job) is not None:
                    break
                if self._writer.is_full:
                    return
                number = job.unasked.popleft()
                if number in job.numbers:
                    image = self._build(job, number)
                    exists = image is None or self._copy(job, image)[0]
                    if exists:
                        del job.numbers[number]
                    elif exists is None and not job.rendered:
                        job.unasked.appendleft(number)
                        job.is_first = True
                        break
            else:
                self.wake()

    def _copy(self, job: ActiveJob, image: InFlight) -> tuple[bool | None, str]:
        """Have the picture of an image copied where it exists; None where that is not known yet.

        Also the key of what it asks for.
        """
        number = image.task.index
        picture, known, key = self._reuse.find(image)
        if picture is None:
            if known:
                job.new[number] = key
            return (False if known else None), key
        files = partial(self._reuse.copied, picture, job.record, image)
        self._writer.save(copied(job.record, number, picture.bytes, files))
        return True, key

    def _start(self, chosen: Sequence[tuple[str, ActiveJob, dict[int, InFlight]]]) -> bool:
        """Record what slots are given in one go, and start it; whether a job was cancelled."""
        try:
            with self._ledger.transaction(durable=False) if chosen else nullcontext():
                for name, job, batch in chosen:
                    models = {number: image.task.model for number, image in batch.items()}
                    job.cancelled |= not self._ledger.claim(
                        job.record.seq, models, name, warm=name in self._warm
                    )
        except LedgerUnusable:
            for _, job, batch in reversed(chosen):
                job.give_back(batch)
            raise
        for name, job, batch in chosen:
            if job.cancelled:
                continue
            job.last[name], self._own[name] = max(batch), job.record.seq
            self.dispatches[name] = job.dispatches[name] = Dispatch(job, batch, self._awake())
            self._scheduler.started(name, job.record.model, monotonic())
            for number, image in batch.items():
                told = f": {image.task.prompt}" if self._tells_prompts else ""
                log.info("job %s image %d begins on %s%s", job.record.id, number, name, told)
            try:
                self._executor.start(name, [image.task for image in batch.values()])
            except ValueError as error:  # it was lost between two looks
                self._lose(SlotLost(name, str(error), charged=False))
        return any(job.cancelled for _, job, _ in chosen)

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
            log.exception("job %s image %d could not be prepared", record.id, number)
            message = f"fluxdrop could not prepare this image (a bug): {type(error).__name__}"
            self._writer.fail_image(record, number, "Internal", message)
        return None

    def _hold_of(self, job: ActiveJob) -> Hold | None:
        """Why none of the job's images may begin now; None where they may. Asked once a step."""
        seq = job.record.seq
        if seq not in self._holds:
            self._holds[seq] = self._find_hold(job)
        return self._holds[seq]

    def _find_hold(self, job: ActiveJob) -> Hold | None:
        wall = now()
        if self.stopping:
            return STOPPING
        if self.hold is not None:
            # A status is not written again when another has the device, or for longer.
            return LENT if self.hold.lent else self.hold
        if self._outbox.folder(job.record.id) in self._faults:
            return UNWRITABLE
        return HOURS_OVER if ready_at(job.record.realised, wall) > wall else None
