"""Finds pictures of this home that may stand in for images yet to be made, and copies them.

A picture is one where all that its spec asks for is the same, and it was made as the newest of its
setup was: machine, settings, versions and weights. Where none of a setup was made yet, or the
weights have never been read here, nothing is known, and the image is made. No picture is believed
whose file has another hash than the gallery has of it. Loads no model; safe to use from any thread.
"""

import logging
import os
import platform
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.daemon.sidecar import copy_of, realised_spec
from runner.daemon.tasks import InFlight
from runner.engine.custom_entries import models_of, upscaler_of
from runner.engine.hub import library as hub
from runner.engine.hub.sources import loaded
from runner.engine.memory.machine import cards
from runner.engine.rendering import versions
from runner.engine.resolved_task import Found, found
from runner.engine.weights.fingerprint import Hashes, are_unchanged
from runner.errors import JobFailed
from runner.files import is_absent, is_file, read_file, sha256_of
from runner.gallery.keys import VERSIONS, asked_fields, asked_key, keys_in, setup_key
from runner.gallery.page.thumbs import thumbnail
from runner.gallery.store import FOLDER, Gallery
from runner.pictures import decoded
from runner.settings import Home
from runner.spool.disk.disk import Copied
from runner.spool.store.names import PICTURE_SUFFIXES
from runner.spool.store.outbox import ORIGINAL, SavedImage
from runner.spool.store.record import Record
from runner.task import ImageTask
from runner.wire import read_json
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_SETTINGS = (
    "device", "devices", "ray", "gpu_memory_gb", "compile", "attention", "step_cache", "upscaler",
)  # fmt: skip


class Unreusable(FluxdropError):
    """A picture that was found is gone or has changed."""


@dataclass(frozen=True)
class Picture:
    """A picture that may stand in for an image, by its gallery's id, with its keys and size."""

    id: str
    asked: str
    made: str
    sha256: str
    bytes: int


class Reuse:
    """Finds and copies the pictures of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._gallery = Gallery(home.data / FOLDER)
        settings = home.settings
        self._library = hub.Disk(home.data, models_of(settings), upscaler_of(settings))
        # Of the built-in model only: reading others takes minutes.
        memory = home.data / "cache" / "hashes.json"
        self._hashes = {reads: Hashes(memory, reads=reads) for reads in (True, False)}
        self._weights: dict[tuple[str, str], Found | None] = {}
        self._lock = threading.Lock()
        self._wrong: set[str] = set()

    def find(self, image: InFlight) -> tuple[Picture | None, bool, str]:
        """The picture that may stand in for an image, if any; whether that could be told; its key.

        The key is that of all images that ask for the same, empty where an error prevents that.
        """
        key = ""
        try:
            fields = _fields(image.task, image.realised)
            key, suffix = asked_key(fields), PICTURE_SUFFIXES[image.realised.get("format", "png")]
            alike = []
            for picture_id, made, sha256 in self._gallery.alike(key):
                file = self._home.job(_job_of(picture_id)) / f"{picture_id}{suffix}"
                if picture_id not in self._wrong and made and sha256 and is_file(file):
                    size = os.stat(file).st_size
                    alike.append(Picture(picture_id, key, made, sha256, size))
            if not alike:
                return None, True, key
            setup = self._setup(image.task, fields)
            now = self._gallery.last_made(setup) if setup else None
        except Exception as error:  # noqa: BLE001 the image can be made
            if not (isinstance(error, OSError) and is_absent(error)):
                log.warning("pictures that exist cannot be looked for: %s", error)
            return None, False, key
        return next((each for each in alike if each.made == now), None), now is not None, key

    def keys(self, image: InFlight, facts: Mapping[str, Any]) -> dict[str, str]:
        """The keys of an image that was made, for its sidecar: `asked`, and `setup` if known."""
        try:
            fields = _fields(image.task, image.realised)
            setup = self._setup(image.task, fields, of=facts)
        except Exception as error:  # noqa: BLE001 the image is made, and is not lost for that
            log.warning("job %s cannot be found again: %s", image.task.job, error)
            return {}
        return {"asked": asked_key(fields)} | ({"setup": setup} if setup else {})

    def copied(self, picture: Picture, record: Record, image: InFlight) -> SavedImage:
        """The files of an image, copied from a picture. Raises Unreusable."""
        folder = self._home.job(_job_of(picture.id))
        stem = f"{record.id}-{image.task.index:04d}"
        suffix = PICTURE_SUFFIXES[image.realised.get("format", "png")]
        try:
            sidecar = read_json(folder / f"{picture.id}.json") or {}
            keys = keys_in(sidecar)
            if any(keys.get(key) != getattr(picture, key) for key in ("asked", "made", "sha256")):
                raise ValueError("its sidecar was changed")
            data = Copied.of(folder / f"{picture.id}{suffix}", picture.sha256)
            original, kept = None, sidecar["result"].get("original")
            if kept:
                original = Copied.of(folder / f"{picture.id}{ORIGINAL}", kept["sha256"])
            thumb = folder / "thumbs" / f"{picture.id}.webp"
            small = read_file(thumb) if is_file(thumb) else thumbnail(decoded(data))
            own = copy_of(sidecar, record, image, f"{stem}{suffix}", f"{stem}{ORIGINAL}")
        except (OSError, LookupError, TypeError, ValueError, JobFailed) as error:
            # Never looked at again: then the image is made.
            self._wrong.add(picture.id)
            raise Unreusable(f"{picture.id} cannot be used again: {error}") from error
        return SavedImage(record.id, stem, suffix, data, small, own, original)

    def _setup(
        self, task: ImageTask, fields: Mapping[str, Any], of: Mapping[str, Any] | None = None
    ) -> str | None:
        """The key of how a task is made now; None where the weights are not known.

        With the facts `of` a picture, that of how it was made: None too where it had other weights.
        """
        weights = self._hash_of(task, fresh=of is not None)
        made_with = ((of or {}).get("model") or {}).get("hash", weights)
        if weights is None or weights != made_with:
            return None
        model, beside = self._library.models[task.model], []
        if task.upscale > 1:
            beside.append(self._hashes[True].file(self._library.upscaler(model)[1]))
        estimator = model.serves[task.kind].estimator
        if estimator and fields.get("control") == "depth" and not fields.get("preprocessed"):
            try:
                beside.append(self._hashes[False].of(loaded(self._library.estimator(estimator))))
            except LookupError:  # until an image is made with it
                return None
        here = {"weights": [weights, *beside], "precision": task.precision, **self._here}
        return setup_key(fields, here)

    def _hash_of(self, task: ImageTask, *, fresh: bool) -> str | None:
        """The hash of a task's weights, of which none is read; None where it is not known."""
        key = task.model, task.kind
        with self._lock:
            known = self._weights.get(key)
            if known is None and key in self._weights and not fresh:
                return None  # until an image is made: then they were read
            if known is None or not are_unchanged(known.stamps):
                try:
                    model = self._library.models[task.model]
                    known = found(self._library, self._hashes[model.builtin], model, task.kind)
                except (LookupError, JobFailed, OSError):
                    known = None
                self._weights[key] = known
            return known.hash if known else None

    @cached_property
    def _here(self) -> dict[str, Any]:
        """What decides how a model is held and run on this machine, but for the model."""
        return {
            "host": [platform.node(), platform.machine(), *cards()],
            "settings": [str(getattr(self._home.settings, name)) for name in _SETTINGS],
            "versions": [versions()[name] for name in VERSIONS],
        }


def _fields(task: ImageTask, realised: Mapping[str, Any]) -> dict[str, Any]:
    """What a task asks for; input images stand for their content. Raises OSError."""
    inputs = {
        name: [[sha256_of(each.path), each.weight] for each in images]
        for name, images in task.inputs.items()
    }
    more = {**task.options, "width": task.width, "height": task.height}
    if not inputs:
        more.pop("strength", None)  # of a picture that is not there
    return asked_fields({**realised_spec(task, realised), **more}, inputs)


def _job_of(picture_id: str) -> str:
    return picture_id.rpartition("-")[0]
