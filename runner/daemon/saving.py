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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from runner.clock import monotonic
from runner.daemon.metrics import Metrics
from runner.daemon.pages import Pages
from runner.daemon.recording import Recorder
from runner.daemon.reuse import Unreusable
from runner.daemon.sidecar import FinishedImage, sidecar_of
from runner.errors import JobFailed, PlaceAway
from runner.gallery.metadata import encode
from runner.gallery.page.thumbs import thumbnail
from runner.holds import disk_hold
from runner.job import Phase
from runner.spool.disk.disk import concerns_all
from runner.spool.store.names import PICTURE_SUFFIXES
from runner.spool.store.outbox import ORIGINAL, SavedImage, output_entry, state_of
from runner.spool.store.record import Record
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# Of that size one takes 12 ms. Handing smaller ones over would cost more than it brings.
_LARGE_PIXELS = 256 * 256
_LEAST_PIXELS = 512 * 512
_MOST_ENCODERS = 4
_OF_THE_LARGE = frozenset({"upscale", "keep_original", "format", "quality"})
"""What is in the spec of an enlarged picture, and not of the one before."""


@dataclass(frozen=True)
class Encoding:
    """An image on its way; `files` waits for what is written, or raises what encoding raised.

    `pixels` tells how much memory it takes, three bytes each, and a `large` one has a thread.
    """

    record: Record
    number: int
    pixels: int
    files: Callable[[], SavedImage]
    large: bool
    warnings: Sequence[str] = ()


def encoders() -> ThreadPoolExecutor:
    """The threads that encode. None starts before it is needed, and none can end by a mistake."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_ENCODERS), "encoder")


def rendered(image: FinishedImage) -> Encoding:
    """An image to be encoded."""
    pixels, files = math.prod(image.rendered.image.size), partial(_encoded, image)
    number, large = image.rendered.task.index, pixels >= _LARGE_PIXELS
    # A kill costs few images, however small they are.
    least = max(pixels, _LEAST_PIXELS)
    return Encoding(image.record, number, least, files, large, image.rendered.warnings)


def copied(record: Record, number: int, size: int, files: Callable[[], SavedImage]) -> Encoding:
    """An image whose files, of this size in bytes, are copied."""
    return Encoding(record, number, size // 3, files, size >= 3 * _LARGE_PIXELS)


def begin(encoding: Encoding, pool: Executor) -> Encoding:
    """Begin a large image in the pool, any other where its files are asked for."""
    if encoding.large:
        # Where no thread can be started, it is encoded like a small one.
        with suppress(RuntimeError):
            return replace(encoding, files=pool.submit(encoding.files).result)
    return encoding


@dataclass(frozen=True)
class ImageSaver:
    """Saves images; where many are saved at once, one that fails costs no other."""

    spool: Spool
    pages: Pages
    recorder: Recorder
    metrics: Metrics

    def save(self, images: Sequence[Encoding]) -> None:
        """Put images into the outbox; one that cannot be put there fails, or is rendered again."""
        began = monotonic()
        self.recorder.all_or_each(self._save, images)
        for record in {each.record.seq: each.record for each in images}.values():
            self.pages.refresh_job(record)
        if images:
            self.metrics.spent(Phase.SAVING, monotonic() - began)

    def fail(self, record: Record, number: int, reason: str, message: str) -> None:
        """Record an image that cannot be made."""
        self.recorder.persist(
            lambda: self.spool.ledger.image_failed(record.seq, number, reason, message)
        )
        self.metrics.over(record, "failed")
        log.warning("job %s image %d: %s: %s", record.id, number, reason, message)

    def _save(self, images: Sequence[Encoding]) -> None:
        saved: list[tuple[Encoding, SavedImage]] = []
        for each in images:
            try:
                saved.append((each, each.files()))
            except Unreusable as error:
                # It is still to be made, and its job does not end before.
                log.warning("job %s image %d: %s", each.record.id, each.number, error)
            except Exception as error:  # noqa: BLE001 no other image may suffer from it
                self._fail_save(each, error)
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
                    lambda: self.spool.ledger.unclaim(image.record.seq, [image.number])
                )
            return
        self.recorder.persist(lambda: self._count(saved))
        self.pages.add(files.sidecar for _, files in saved)
        for image, files in saved:
            self.recorder.warn(image.record, image.warnings)
            result = "reused" if _is_copy(files) else "made"
            self.metrics.over(image.record, result)
            log.info("job %s image %d is %s", image.record.id, image.number, result)

    def _count(self, saved: Iterable[tuple[Encoding, SavedImage]]) -> None:
        with self.spool.ledger.transaction(durable=False):
            for image, files in saved:
                output = output_entry(files.sidecar, f"thumbs/{files.stem}.webp")
                state = state_of(self.spool.outbox.folder(files.job) / output["file"])
                seq, number = image.record.seq, image.number
                self.spool.ledger.made(seq, number, output, state, reused=_is_copy(files))

    def _fail_save(self, image: Encoding, error: Exception) -> None:
        reason = error.reason if isinstance(error, JobFailed) else "Internal"
        message = str(error)
        if not isinstance(error, (JobFailed, OSError)):
            log.error("job %s could not be saved", image.record.id, exc_info=error)
            message = f"fluxdrop could not save this image (a bug): {type(error).__name__}"
        self.fail(image.record, image.number, reason, message)


def _is_copy(files: SavedImage) -> bool:
    return "reused_from" in files.sidecar["result"]


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
