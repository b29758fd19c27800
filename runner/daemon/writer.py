"""The writer thread: writes pictures, sidecars, statuses and ends of jobs while the GPU works.

The worker hands over work and goes on. Large pictures are encoded from then on, by a few threads,
for whose results this one waits in order. All work handed over while a group was written is the
next group, written in this order: images, changes of the ledger and previews, statuses with
progress, jobs that go back into the queue, ends of jobs. A status never delays the next image; the
first, `running`, is written before any end. Decides nothing about a job.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from runner.clock import monotonic
from runner.daemon.ends import JobEnds
from runner.daemon.metrics import Metrics
from runner.daemon.pages import Pages
from runner.daemon.recording import Recorder
from runner.daemon.saving import Encoding, ImageSaver, begin, encoders
from runner.holds import Hold
from runner.log_once import LogOnce
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool
from runner.wire import Progress

_STATUS_SECONDS = 0.25
# Pixels that wait to be written, 24 MiB as RGB, and as much again where they are encoded already: a
# slow disk must not fill the memory.
_MOST_PIXELS = 8 << 20
# Of copies, which need no memory before, many go with the syncs of one.
_MOST_WAITING = 512


@dataclass
class _Group:
    """The work handed over since the last group."""

    images: list[Encoding] = field(default_factory=list)
    changes: list[Callable[[], None]] = field(default_factory=list)
    others: list[Callable[[], None]] = field(default_factory=list)
    ended: list[Record] = field(default_factory=list)
    unpublished: list[Record] = field(default_factory=list)
    over: list[int] = field(default_factory=list)
    """The jobs that leave their slot with this group, by `seq`."""

    def __len__(self) -> int:
        done = len(self.images) + len(self.changes) + len(self.others)
        return done + len(self.ended) + len(self.unpublished)


class Writer:
    """The writer thread of one spool; `on_change` is called there after each group."""

    def __init__(
        self, spool: Spool, pages: Pages, metrics: Metrics, on_change: Callable[[], None]
    ) -> None:
        self._outbox = spool.outbox
        self._pages = pages
        self._recorder = Recorder(spool.ledger)
        self._encoders = encoders()
        self._images = ImageSaver(spool, pages, self._recorder, metrics)
        self._ends = JobEnds(spool, pages, self._recorder, metrics)
        self._log_once = LogOnce("writing to the outbox")
        self._on_change = on_change
        self._changed = threading.Condition()
        self._group = _Group()
        self._progress: dict[int, Progress] = {}
        self._unwritten: set[int] = set()
        self._written_at: dict[int, float] = {}
        self._busy = 0
        self._closing = False
        self._threads = spool.home.threads
        self._thread = self._threads.start("writer", self._run)

    @property
    def waiting(self) -> int:
        """How many pieces of work have been handed over and are not done yet."""
        with self._changed:
            return len(self._group) + self._busy

    @property
    def is_idle(self) -> bool:
        """Whether no work is left and every status is up to date."""
        with self._changed:
            return not (self._group or self._busy or self._unwritten)

    @property
    def is_full(self) -> bool:
        """Whether the next image should wait until some of the others are written."""
        with self._changed:
            pixels = sum(each.pixels for each in self._group.images)
            return pixels >= _MOST_PIXELS or len(self._group) >= _MOST_WAITING

    def save(self, image: Encoding) -> None:
        """Put an image into the outbox."""
        begun = begin(image, self._encoders)
        with self._handing_over() as group:
            group.images.append(begun)
            self._unwritten.add(image.record.seq)

    def fail_image(self, record: Record, number: int, reason: str, message: str) -> None:
        """Record an image that cannot be made."""
        with self._handing_over() as group:
            group.changes.append(lambda: self._images.fail(record, number, reason, message))
            self._unwritten.add(record.seq)

    def record(self, change: Callable[[], object]) -> None:
        """Make a change of the ledger that must not be lost."""
        with self._handing_over() as group:
            group.changes.append(lambda: self._recorder.persist(change))

    def requeue(self, record: Record, hold: Hold) -> None:
        """Put a running job back into the queue at an image's end, without charging an attempt."""
        with self._handing_over() as group:
            group.others.append(lambda: self._ends.requeue(record, hold))
            self._leave(group, record.seq)

    def finish(self, record: Record) -> None:
        """End a job whose images are all over, or which was cancelled."""
        with self._handing_over() as group:
            group.ended.append(record)
            self._leave(group, record.seq)

    def publish_end(self, record: Record) -> None:
        """Publish the end of a job whose final status is not published yet."""
        with self._handing_over() as group:
            group.unpublished.append(record)

    def tend_pages(self, *, changed: bool = False) -> None:
        """Complete the gallery, and write the page of the outbox if it is due."""
        self._pages.changed |= changed
        if self._pages.changed:
            with self._handing_over() as group:
                group.others.append(self._pages.tend)

    def show(self, record: Record) -> None:
        """Write the status of a job whose record changed, soon; its progress until now is past."""
        with self._handing_over():
            self._progress.pop(record.seq, None)
            self._unwritten.add(record.seq)

    def progress(self, seq: int, progress: Progress) -> None:
        """Write the status of a running job with this progress, or a newer one, soon."""
        with self._handing_over():
            self._progress[seq] = progress
            self._unwritten.add(seq)

    def preview(self, record: Record, picture: bytes) -> None:
        """Show the preview of a running job, or take it away where this is empty."""
        with self._handing_over() as group:
            # Before any end: no job that is over, or back in the queue, has one.
            group.changes.append(lambda: self._pages.preview(record, picture))

    def close(self) -> None:
        """Do the work that was handed over, trying each change once, and end the thread."""
        with self._handing_over():
            self._closing = True
        self._recorder.closing.set()
        self._thread.join()
        self._encoders.shutdown(cancel_futures=True)

    @contextmanager
    def _handing_over(self) -> Iterator[_Group]:
        with self._changed:
            yield self._group
            self._changed.notify()

    def _leave(self, group: _Group, seq: int) -> None:
        """Drop the job's progress: its requeue or end writes the last status of this run."""
        group.over.append(seq)
        self._progress.pop(seq, None)
        if seq in self._written_at:
            self._unwritten.discard(seq)

    def _run(self) -> None:
        while True:
            self._threads.moved("writer")
            with self._changed:
                self._busy = 0
                self._changed.wait_for(lambda: self._group or self._unwritten or self._closing)
                if self._closing and not self._group:
                    break
                due = self._due()
                if not self._group and not due:
                    self._changed.wait(_STATUS_SECONDS / 2)
                    continue
                group, self._group = self._group, _Group()
                self._unwritten -= due.keys()
                self._written_at |= dict.fromkeys(due, monotonic())
                for seq in group.over:
                    self._written_at.pop(seq, None)
                self._busy = len(group) + len(due)
            self._write(group, due)
            # Its pictures need no memory while nothing comes.
            del group
            self._on_change()
        self._pages.close()

    def _due(self) -> dict[int, Progress | None]:
        """The progress of the jobs whose status is to be written now, by `seq`."""
        moment = monotonic()
        return {
            seq: self._progress.get(seq)
            for seq in self._unwritten
            if moment - self._written_at.get(seq, 0.0) >= _STATUS_SECONDS
        }

    def _write(self, group: _Group, due: Mapping[int, Progress | None]) -> None:
        steps = [lambda: self._images.save(group.images), *group.changes]
        write = self._outbox.write_statuses
        steps.append(lambda: self._recorder.all_or_each(lambda d: write(dict(d)), [*due.items()]))
        steps += group.others
        steps.append(lambda: self._ends.end(group.ended))
        steps.append(lambda: self._ends.publish(group.unpublished))
        failed = False
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 the thread must live
                # The status stays behind its record; the daemon publishes it again later.
                self._log_once.failed(error)
                failed = True
        if not failed:
            self._log_once.recovered()
