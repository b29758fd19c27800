"""The writer thread: pictures, sidecars, statuses and ends of jobs, beside the GPU.

The worker hands over and goes on; what is handed over is done in that order, one after another.
The order within an image is picture, thumbnail, sidecar, then the ledger: an image counts from its
sidecar on. A final state is decided here under the ledger's lock, where no cancel can come between.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from runner.errors import JobFailed
from runner.gallery.metadata import encode
from runner.gallery.thumbs import thumbnail
from runner.job import State
from runner.pages import Pages
from runner.sidecar import Finished, sidecar_of
from runner.spool.clock import monotonic, timestamp
from runner.spool.ledger import Ledger
from runner.spool.outbox import Outbox
from runner.spool.record import Record
from runner.spool.recovery import output_entry
from runner.wire import Progress

log = logging.getLogger(__name__)

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_STATUS_SECONDS = 0.25


class Writer:
    """One thread that writes what the worker hands over."""

    def __init__(
        self, ledger: Ledger, outbox: Outbox, pages: Pages, on_change: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._pages = pages
        self._on_change = on_change
        self._changed = threading.Condition()
        self._work: deque[Callable[[], None]] = deque()
        self._progress: dict[int, Progress] = {}
        self._unwritten: set[int] = set()
        self._written_at: dict[int, float] = {}
        self._busy = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many things are still to be done; 0 means idle."""
        with self._changed:
            return len(self._work) + self._busy + len(self._unwritten)

    def save(self, image: Finished) -> None:
        """Put an image into the outbox."""
        self._hand_over(lambda: self._save(image))

    def fail_image(self, record: Record, number: int, reason: str, message: str) -> None:
        """Record an image that cannot be made."""
        self._hand_over(lambda: self._fail_image(record, number, reason, message))

    def requeue(self, record: Record, reason: str | None, message: str | None) -> None:
        """Put a running job back at an image's end, without charging an attempt."""
        self._hand_over(lambda: self._requeue(record, reason, message))

    def finish(self, record: Record) -> None:
        """End a job whose images are all over, or which was cancelled."""
        self._hand_over(lambda: self._finish(record))

    def publish_end(self, record: Record) -> None:
        """Publish the end of a job whose final status readers do not have yet."""
        self._hand_over(lambda: self._publish_end(record))

    def tend_pages(self) -> None:
        """Bring the page of the outbox up to date when it is time to."""
        if self._pages.changed:
            self._hand_over(self._pages.publish_outbox_seldom)

    def progress(self, seq: int, progress: Progress) -> None:
        """The newest progress of a running job; written when the writer has a moment."""
        with self._changed:
            self._progress[seq] = progress
            self._unwritten.add(seq)
            self._changed.notify()

    def close(self) -> None:
        """Do all that was handed over, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _hand_over(self, work: Callable[[], None]) -> None:
        with self._changed:
            self._work.append(work)
            self._changed.notify()

    def _run(self) -> None:
        self._pages.open()
        while True:
            with self._changed:
                self._busy = False
                self._changed.wait_for(self._has_work, timeout=None)
                if self._closing and not self._work:
                    break
                due = self._due()
                if not self._work and not due:
                    self._changed.wait(_STATUS_SECONDS / 2)
                    continue
                work = self._work.popleft() if self._work else None
                self._unwritten -= due
                self._busy = True
            try:
                if work is not None:
                    work()
                for seq in due:
                    self._write_status(seq)
            except Exception:
                # The record stays behind its status; the daemon writes it again later.
                log.exception("writing to the outbox failed; it will be tried again")
            self._on_change()
        self._pages.publish_outbox_seldom(at_once=True)

    def _has_work(self) -> bool:
        return bool(self._work or self._unwritten or self._closing)

    def _due(self) -> set[int]:
        moment = monotonic()
        return {
            seq
            for seq in self._unwritten
            if moment - self._written_at.get(seq, 0.0) >= _STATUS_SECONDS
        }

    def _write_status(self, seq: int, *, durable: bool = False) -> None:
        with self._changed:
            progress = self._progress.get(seq)
            self._unwritten.discard(seq)
        self._written_at[seq] = monotonic()
        self._outbox.write_status(seq, progress, durable=durable)

    def _save(self, image: Finished) -> None:
        record, rendered, realised = image.record, image.rendered, image.realised
        task = rendered.task
        stem = f"{record.id}-{task.index:04d}"
        kind = realised.get("format", "png")
        suffix = SUFFIXES[kind]
        try:
            sidecar = sidecar_of(image, f"{stem}{suffix}")
            picture = encode(
                rendered.image,
                sidecar,
                format=kind,
                quality=realised.get("quality"),
                level=realised.get("metadata", "full"),
            )
            sidecar["result"]["sha256"] = hashlib.sha256(picture).hexdigest()
            small = thumbnail(rendered.image)
            self._outbox.publish_image(record, stem, suffix, picture, small, sidecar)
        except (JobFailed, OSError) as error:
            reason = error.reason if isinstance(error, JobFailed) else "Internal"
            self._fail_image(record, task.index, reason, str(error))
            return
        output = output_entry(sidecar, f"thumbs/{stem}.webp")
        self._ledger.add_image(record.seq, task.index, "done", output=output)
        self._warn(record, [*rendered.warnings, self._pages.add(sidecar)])
        self._write_status(record.seq)
        self._pages.publish_job_seldom(record)

    def _fail_image(self, record: Record, number: int, reason: str, message: str) -> None:
        self._ledger.add_image(record.seq, number, "failed", reason=reason, message=message)
        self._write_status(record.seq)

    def _requeue(self, record: Record, reason: str | None, message: str | None) -> None:
        self._forget_progress(record.seq)
        self._ledger.move(
            record.seq, State.QUEUED, reason=reason, message=message, attempt=record.attempt - 1
        )
        self._outbox.write_status(record.seq)

    def _finish(self, record: Record) -> None:
        self._forget_progress(record.seq)
        images = self._ledger.images(record.seq)
        with self._ledger.transaction():
            cancelled = self._ledger.get(record.seq).cancelled
            failed = [row for row in images.values() if row["outcome"] == "failed"]
            values: dict[str, object] = {"reason": None, "message": None}
            if cancelled:
                state = State.CANCELLED
                values = {"reason": "Cancelled", "message": "cancelled by a file in the inbox"}
            elif failed:
                state = State.FAILED
                values = {"reason": failed[0]["reason"], "message": _failure(failed, record.total)}
            else:
                state = State.SUCCEEDED
            self._ledger.move(record.seq, state, finished_at=timestamp(), **values)
        self._publish_end(record)

    def _publish_end(self, record: Record) -> None:
        """The page, then the final status, last of all."""
        self._warn(record, [self._pages.publish_job(record)])
        self._outbox.write_status(record.seq, durable=True)
        self._pages.forget(record)

    def _warn(self, record: Record, texts: Iterable[str | None]) -> None:
        """Add warnings to a job's status, each once."""
        fresh = [text for text in texts if text]
        if fresh:
            known = self._ledger.get(record.seq).warnings
            self._ledger.note(record.seq, warnings=list(dict.fromkeys([*known, *fresh])))

    def _forget_progress(self, seq: int) -> None:
        with self._changed:
            self._progress.pop(seq, None)
            self._unwritten.discard(seq)
        self._written_at.pop(seq, None)


def _failure(failed: list[Any], total: int) -> str:
    first = failed[0]["message"]
    return first if len(failed) == total == 1 else f"{len(failed)} of {total} images: {first}"
