"""Images and ends of jobs, put into the outbox and the ledger: many of them for the syncs of one.

The order within an image is picture, thumbnail, sidecar, then the ledger: an image counts from its
sidecar on. A final state is decided here under the ledger's lock, where no cancel can come between,
and is published last of all. Nothing can be promised without the ledger: where it cannot be
written, that is waited for. An image that a full or read-only disk does not take is not counted and
made again when it does. Called by the writer thread only; never touches a job that goes on.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from runner.clock import timestamp
from runner.daemon.pages import NO_PAGE, Pages
from runner.daemon.sidecar import Finished, sidecar_of
from runner.errors import DiskFull, JobFailed, LedgerUnusable
from runner.gallery.metadata import encode
from runner.gallery.page.thumbs import thumbnail
from runner.holds import Hold, disk_hold
from runner.job import State
from runner.log_once import LogOnce
from runner.settings import Home
from runner.spool.startup.recovery import output_entry
from runner.spool.store.ledger import Ledger
from runner.spool.store.outbox import Outbox, SavedImage
from runner.spool.store.record import CANCELLED, Record
from runner.wire import Status

log = logging.getLogger(__name__)

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_AGAIN_SECONDS = 1.0
Item = TypeVar("Item")


class Publisher:
    """Publishes what is done; where many come at once, one that fails costs no other."""

    def __init__(self, home: Home, ledger: Ledger, outbox: Outbox, pages: Pages) -> None:
        self._home = home
        self._ledger = ledger
        self._outbox = outbox
        self._pages = pages
        self._recording = LogOnce("recording what was made")
        self._publishing = LogOnce("putting it into the outbox")
        self.closing = threading.Event()
        """Set when the ledger is waited for no more: the next start finds out what is missing."""

    def save(self, images: Sequence[Finished]) -> None:
        """Put images into the outbox; one that cannot be put there fails, or is made again."""
        self._together(self._save, images)
        for record in {image.record.seq: image.record for image in images}.values():
            self._pages.publish_job_seldom(record)

    def fail_image(self, record: Record, number: int, reason: str, message: str) -> None:
        """Record an image that cannot be made."""
        self._surely(
            lambda: self._ledger.add_image(
                record.seq, number, "failed", reason=reason, message=message
            )
        )

    def requeue(self, record: Record, reason: str | None, message: str | None) -> None:
        """Put a running job back at an image's end, without charging an attempt."""
        values = {"reason": reason, "message": message, "attempt": record.attempt - 1}
        self._surely(lambda: self._ledger.move(record.seq, State.QUEUED, **values))
        self._outbox.write_status(record.seq)

    def end(self, records: Sequence[Record]) -> None:
        """End jobs whose images are all over, or which were cancelled."""
        short = [record for record in records if self._lacks_images(record)]
        self._together(self._end, [record for record in records if record not in short])
        for record in short:
            self._put_back(record)

    def publish_ends(self, records: Sequence[Record]) -> None:
        """Publish ends that the ledger has and readers may lack: the page, then the status."""
        self._together(self._publish_ends, records)

    def _save(self, images: Sequence[Finished]) -> None:
        saved: list[tuple[Finished, SavedImage]] = []
        for image in images:
            try:
                saved.append((image, _encoded(image)))
            except Exception as error:  # noqa: BLE001 this image's own fault, whatever it is
                self._fail(image, error)
        if not saved:
            return
        try:
            self._outbox.publish_images([each for _, each in saved])
        except Exception as error:
            if len(saved) > 1:
                raise
            image, files = saved[0]
            with suppress(OSError):
                self._outbox.take_back(files)
            if disk_hold(self._home) is None:
                self._fail(image, error)
            return
        self._surely(lambda: self._count(saved))
        missing = self._pages.add([(image.record, each.sidecar) for image, each in saved])
        for image, _ in saved:
            self._warn(image.record, [*image.rendered.warnings, missing])

    def _count(self, saved: Iterable[tuple[Finished, SavedImage]]) -> None:
        with self._ledger.transaction(durable=False):
            for image, each in saved:
                output = output_entry(each.sidecar, f"thumbs/{each.stem}.webp")
                number = image.rendered.task.index
                self._ledger.add_image(image.record.seq, number, "done", output=output)

    def _fail(self, image: Finished, error: Exception) -> None:
        reason = error.reason if isinstance(error, JobFailed) else "Internal"
        message = str(error)
        if not isinstance(error, (JobFailed, OSError)):
            log.error("%s could not be saved", image.record.id, exc_info=error)
            message = f"fluxdrop could not save this image (a bug): {type(error).__name__}"
        self.fail_image(image.record, image.rendered.task.index, reason, message)

    def _lacks_images(self, record: Record) -> bool:
        over = self._ledger.images(record.seq)
        return len(over) < record.total and not self._ledger.get(record.seq).cancelled

    def _put_back(self, record: Record) -> None:
        hold = disk_hold(self._home) or Hold(DiskFull.reason, "makes again what found no room")
        self._together(lambda _: self.requeue(record, hold.reason, hold.message), [record])

    def _end(self, records: Sequence[Record]) -> None:
        self._surely(lambda: self._decide(records))
        self._publish_ends(records)

    def _decide(self, records: Iterable[Record]) -> None:
        with self._ledger.transaction():
            for record in records:
                state, values = self._ending(record)
                self._ledger.move(record.seq, state, finished_at=timestamp(), **values)

    def _ending(self, record: Record) -> tuple[State, Mapping[str, object]]:
        if self._ledger.get(record.seq).cancelled:
            return State.CANCELLED, CANCELLED
        images = self._ledger.images(record.seq)
        failed = [row for row in images.values() if row["outcome"] == "failed"]
        if failed:
            message = _failure(failed, record.total)
            return State.FAILED, {"reason": failed[0]["reason"], "message": message}
        return State.SUCCEEDED, {"reason": None, "message": None}

    def _publish_ends(self, records: Sequence[Record]) -> None:
        ends = []
        for record in records:
            now, status = self._now(record)
            page, missing = self._pages.of_job(now, status)
            if missing:
                self._warn(record, [missing])
                now, status = self._now(record)
            ends.append((now, status, page))
        try:
            self._outbox.publish_ends(ends)
        except (JobFailed, OSError) as error:
            if len(records) > 1:
                raise
            # The page can be made again; the end of a job must not wait for it.
            self._warn(records[0], [NO_PAGE.format(type(error).__name__)])
            self._outbox.publish_ends([(*self._now(records[0]), None)])
        for record in records:
            self._pages.forget(record)

    def _now(self, record: Record) -> tuple[Record, Status]:
        now = self._ledger.get(record.seq)
        return now, self._outbox.status(now)

    def _warn(self, record: Record, texts: Iterable[str | None]) -> None:
        """Add warnings to a job's status, each once."""
        fresh = [text for text in texts if text]
        if fresh:
            known = self._ledger.get(record.seq).warnings
            warnings = list(dict.fromkeys([*known, *fresh]))
            self._surely(lambda: self._ledger.note(record.seq, warnings=warnings))

    def _surely(self, change: Callable[[], object]) -> None:
        """Change the ledger as soon as it can be changed.

        Raises LedgerUnusable where it cannot and the runner closes.
        """
        while True:
            try:
                change()
            except LedgerUnusable as error:
                self._recording.failed(error)
                if self.closing.wait(_AGAIN_SECONDS):
                    raise
            else:
                self._recording.recovered()
                return

    def _together(self, act: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
        """Do it for all at once; where that fails, for each alone."""
        if not items:
            return
        try:
            act(items)
        except Exception as error:  # noqa: BLE001 the writer's thread must live
            if len(items) == 1:
                # The record stays behind its status; the daemon publishes it again later.
                self._publishing.failed(error)
            for item in items if len(items) > 1 else ():
                self._together(act, [item])
        else:
            self._publishing.recovered()


def _encoded(image: Finished) -> SavedImage:
    task, realised = image.rendered.task, image.realised
    stem = f"{image.record.id}-{task.index:04d}"
    kind = realised.get("format", "png")
    suffix = SUFFIXES[kind]
    sidecar = sidecar_of(image, f"{stem}{suffix}")
    picture = encode(
        image.rendered.image,
        sidecar,
        format=kind,
        quality=realised.get("quality"),
        level=realised.get("metadata", "full"),
    )
    sidecar["result"]["sha256"] = hashlib.sha256(picture).hexdigest()
    small = thumbnail(image.rendered.image)
    return SavedImage(image.record.id, stem, suffix, picture, small, sidecar)


def _failure(failed: list[Any], total: int) -> str:
    first = failed[0]["message"]
    return first if len(failed) == total == 1 else f"{len(failed)} of {total} images: {first}"
