"""Writes finished images to the outbox and the ledger, many of them for the syncs of one.

The order within an image is picture, thumbnail, sidecar, then the ledger: an image counts from the
moment its sidecar exists. An image that a full or read-only disk refuses, or the folder of its job,
is not counted, and is rendered again once it can be written. Called by the writer thread only; the
few threads that encode large pictures beside it touch neither a file nor the ledger.
"""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.daemon.pages import Pages
from runner.daemon.recording import Recorder
from runner.daemon.sidecar import FinishedImage, sidecar_of
from runner.errors import JobFailed, PlaceAway
from runner.gallery.metadata import encode
from runner.gallery.page.thumbs import thumbnail
from runner.holds import disk_hold
from runner.spool.disk.disk import concerns_all
from runner.spool.store.names import PICTURE_SUFFIXES
from runner.spool.store.outbox import ORIGINAL, SavedImage, output_entry, state_of
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# Of that size one takes 12 ms. Handing smaller ones over would cost more than it brings.
_LARGE_PIXELS = 256 * 256
_MOST_ENCODERS = 4
_OF_THE_LARGE = frozenset({"upscale", "keep_original", "format", "quality"})
"""What is in the spec of an enlarged picture, and not of the one before."""


@dataclass(frozen=True)
class Encoding:
    """An image on its way; `files` waits for what is written, or raises what encoding raised."""

    image: FinishedImage
    files: Callable[[], SavedImage]


def encoders() -> ThreadPoolExecutor:
    """The threads that encode. None starts before it is needed, and none can end by a mistake."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_ENCODERS), "encoder")


def begin_encoding(image: FinishedImage, pool: Executor) -> Encoding:
    """Encode a large image in the pool, any other where its files are asked for."""
    files: Callable[[], SavedImage] = partial(_encoded, image)
    if math.prod(image.rendered.image.size) >= _LARGE_PIXELS:
        # Where no thread can be started, it is encoded like a small one.
        with suppress(RuntimeError):
            files = pool.submit(files).result
    return Encoding(image, files)


@dataclass(frozen=True)
class ImageSaver:
    """Saves images; where many are saved at once, one that fails costs no other."""

    spool: Spool
    pages: Pages
    recorder: Recorder

    def save(self, images: Sequence[Encoding]) -> None:
        """Put images into the outbox; one that cannot be put there fails, or is rendered again."""
        self.recorder.all_or_each(self._save, images)
        for record in {each.image.record.seq: each.image.record for each in images}.values():
            self.pages.refresh_job(record)

    def fail(self, record: Record, number: int, reason: str, message: str) -> None:
        """Record an image that cannot be made."""
        self.recorder.persist(
            lambda: self.spool.ledger.image_failed(record.seq, number, reason, message)
        )

    def _save(self, images: Sequence[Encoding]) -> None:
        saved: list[tuple[FinishedImage, SavedImage]] = []
        for each in images:
            try:
                saved.append((each.image, each.files()))
            except Exception as error:  # noqa: BLE001 no other image may suffer from it
                self._fail_save(each.image, error)
        if not saved:
            return
        try:
            self.spool.outbox.publish_images([files for _, files in saved])
        except Exception as error:
            if len(saved) > 1:
                raise
            image, files = saved[0]
            with suppress(OSError, PlaceAway):
                self.spool.outbox.take_back(files)
            refused = isinstance(error, OSError) and not concerns_all(error)
            waits = refused or isinstance(error, PlaceAway)
            if disk_hold(self.spool.home) is None and not waits:
                self._fail_save(image, error)
            else:
                self.recorder.persist(
                    lambda: self.spool.ledger.unclaim(image.record.seq, [image.rendered.task.index])
                )
            return
        self.recorder.persist(lambda: self._count(saved))
        self.pages.add(files.sidecar for _, files in saved)
        for image, _ in saved:
            self.recorder.warn(image.record, image.rendered.warnings)

    def _count(self, saved: Iterable[tuple[FinishedImage, SavedImage]]) -> None:
        with self.spool.ledger.transaction(durable=False):
            for image, files in saved:
                output = output_entry(files.sidecar, f"thumbs/{files.stem}.webp")
                number = image.rendered.task.index
                picture = self.spool.outbox.folder(files.job) / output["file"]
                self.spool.ledger.made(image.record.seq, number, output, state_of(picture))

    def _fail_save(self, image: FinishedImage, error: Exception) -> None:
        reason = error.reason if isinstance(error, JobFailed) else "Internal"
        message = str(error)
        if not isinstance(error, (JobFailed, OSError)):
            log.error("%s could not be saved", image.record.id, exc_info=error)
            message = f"fluxdrop could not save this image (a bug): {type(error).__name__}"
        self.fail(image.record, image.rendered.task.index, reason, message)


def _encoded(image: FinishedImage) -> SavedImage:
    task, realised = image.rendered.task, image.realised
    stem = f"{image.record.id}-{task.index:04d}"
    kind = realised.get("format", "png")
    suffix = PICTURE_SUFFIXES[kind]
    sidecar = sidecar_of(image, f"{stem}{suffix}")
    picture = encode(
        image.rendered.image,
        sidecar,
        format=kind,
        quality=realised.get("quality"),
        level=realised.get("metadata", "full"),
    )
    sidecar["result"]["sha256"] = hashlib.sha256(picture).hexdigest()
    original = _original(image, sidecar, f"{stem}{ORIGINAL}")
    if original:
        digest = hashlib.sha256(original).hexdigest()
        sidecar["result"]["original"] = {"file": f"{stem}{ORIGINAL}", "sha256": digest}
    small = thumbnail(image.rendered.image)
    return SavedImage(image.record.id, stem, suffix, picture, small, sidecar, original)


def _original(image: FinishedImage, sidecar: Mapping[str, Any], file: str) -> bytes | None:
    """The file of the picture before it was enlarged, with the spec that makes it alone."""
    if image.rendered.original is None:
        return None
    width, height = image.rendered.original.size
    own = {"file": file, "width": width, "height": height}
    result = {key: value for key, value in sidecar["result"].items() if key != "upscaler"}
    spec = {key: value for key, value in sidecar.items() if key not in _OF_THE_LARGE}
    level = image.realised.get("metadata", "full")
    return encode(image.rendered.original, {**spec, "result": result | own}, level=level)
