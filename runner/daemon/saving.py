"""Writes finished images to the outbox and the ledger, many of them for the syncs of one.

The order within an image is picture, thumbnail, sidecar, then the ledger: an image counts from its
sidecar on. An image that a full or read-only disk does not take is not counted, and made again when
the disk takes it. Called by the writer thread only.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from runner.daemon.pages import Pages
from runner.daemon.recording import Recorder
from runner.daemon.sidecar import Finished, sidecar_of
from runner.errors import JobFailed
from runner.gallery.metadata import encode
from runner.gallery.page.thumbs import thumbnail
from runner.holds import disk_hold
from runner.spool.store.outbox import SavedImage, output_entry
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


class ImageSaver:
    """Saves images; where many come at once, one that fails costs no other."""

    def __init__(self, spool: Spool, pages: Pages, recorder: Recorder) -> None:
        self._home = spool.home
        self._ledger = spool.ledger
        self._outbox = spool.outbox
        self._pages = pages
        self._recorder = recorder

    def save(self, images: Sequence[Finished]) -> None:
        """Put images into the outbox; one that cannot be put there fails, or is made again."""
        self._recorder.all_or_each(self._save, images)
        for record in {image.record.seq: image.record for image in images}.values():
            self._pages.publish_job_seldom(record)

    def fail(self, record: Record, number: int, reason: str, message: str) -> None:
        """Record an image that cannot be made."""
        self._recorder.surely(
            lambda: self._ledger.add_image(
                record.seq, number, "failed", reason=reason, message=message
            )
        )

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
        self._recorder.surely(lambda: self._count(saved))
        missing = self._pages.add([(image.record, each.sidecar) for image, each in saved])
        for image, _ in saved:
            self._recorder.warn(image.record, [*image.rendered.warnings, missing])

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
        self.fail(image.record, image.rendered.task.index, reason, message)


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
