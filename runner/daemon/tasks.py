"""Builds the task of one image from its job's record and the image's number.

Reads the LoRA files that a spec names, and changes nothing. Counts those that would be copied.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runner.catalogue import RegistryCatalogue
from runner.errors import InputBad, JobFailed
from runner.files import is_file, is_there
from runner.job import State
from runner.settings import Home
from runner.spool.inbox import loras
from runner.spool.inbox.assess import Assessment
from runner.spool.inbox.inputs import IMAGE_FIELDS, place_of
from runner.spool.store.record import Record
from runner.task import ImageTask, InputImage
from specs.expand import image, seeds_each

Composed = tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]
"""The prompts of a `compose`: the spec fields of each, and what its sidecars say of the pack."""

Place = Callable[[str], Path]
"""The file that a text in a spec names."""


@dataclass(frozen=True)
class InFlight:
    """One image in flight: its task, its realised spec, and what its sidecar says of its pack."""

    task: ImageTask
    realised: Mapping[str, Any]
    origin: Mapping[str, Any]


class TaskBuilder:
    """Builds tasks under one home's settings."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._catalogue = RegistryCatalogue(home.settings, home.data)

    def build(
        self, record: Record, composed: Composed, number: int, place: Place | None = None
    ) -> InFlight:
        """Image `number` (from 1) of a job, every default filled in, its LoRAs pinned by hash.

        `place` says where its input images lie, by default the job's own copies.
        Raises JobFailed where a file that it needs is missing or has another hash.
        """
        spec = _realised(record, composed, number)
        spec = loras.settled(spec, self._home, self._catalogue.snapshot)
        place = place or partial(self._copy, record)
        inputs = inputs_of(spec, place)
        origins = composed[1]
        origin = origins[(number - 1) * len(origins) // record.total] if origins else {}
        return InFlight(self._task(record, spec, number, inputs), spec, origin)

    def _copy(self, record: Record, text: str) -> Path:
        """The job's own copy of an input image, in a folder that others may write to.

        Raises InputBad where there is none, or something else took its place.
        """
        job, name = record.id, record.inputs[text]
        if not name:
            raise InputBad(f"{text} could not be had, see the job's warnings: mend it, then retry")
        copy = self._home.job(job) / "inputs" / name
        own = Path(os.path.realpath(self._home.outbox), job, "inputs", name)
        if is_there(copy) and not (Path(os.path.realpath(copy)) == own and is_file(copy)):
            raise InputBad(f"outbox/{job}/inputs/{name} was replaced: drop the job again")
        return copy

    def prompts(self, record: Record, composed: Composed, most: int) -> Iterator[ImageTask]:
        """One task without inputs for each prompt, model and precision of a job, at most `most`.

        Raises as `build` does.
        """
        step = seeds_each(record.realised)
        for index in range(0, min(record.total, most * step), step):
            yield self._task(record, _realised(record, composed, index + 1), index + 1, {})

    def _task(
        self,
        record: Record,
        spec: Mapping[str, Any],
        number: int,
        inputs: Mapping[str, Sequence[InputImage]],
    ) -> ImageTask:
        used = loras.for_task(spec, self._home, self._catalogue.snapshot)
        return self._catalogue.task(spec, job=record.id, index=number, inputs=inputs, loras=used)


def reuse_counts(assessment: Assessment, home: Home) -> dict[str, int] | None:
    """How many images of a spec are `new`, `reused` or `unknown`; None where it reuses none.

    Unknown are those whose inputs or weights are not there, or of whose setup none was made. Of
    several that ask for the same the first is new.
    """
    if assessment.reason or not assessment.realised.get("reuse"):
        return None
    # Most specs need no model's files.
    from runner.daemon.reuse import Reuse

    reuse, builder, place = Reuse(home), TaskBuilder(home), partial(place_of, home=home)
    record = Record(
        0, "plan", State.QUEUED, "", "", 0, "", b"", "", total=assessment.total,
        realised=assessment.realised, base_seed=assessment.base_seed,
    )  # fmt: skip
    composed = [each for each, _ in assessment.composed], [each for _, each in assessment.composed]
    counts = {"new": 0, "reused": 0, "unknown": 0}
    made: set[str] = set()
    for number in range(1, record.total + 1):
        picture, known, key = None, False, ""
        with suppress(JobFailed, OSError):
            picture, known, key = reuse.find(builder.build(record, composed, number, place))
        counts["reused" if picture or key in made else "new" if known else "unknown"] += 1
        made |= {key} if known else set()
    return counts


def _realised(record: Record, composed: Composed, number: int) -> Mapping[str, Any]:
    """The spec of one image."""
    return image(record.realised, number - 1, record.base_seed or 0, composed[0] or None)


def inputs_of(spec: Mapping[str, Any], place: Place) -> dict[str, tuple[InputImage, ...]]:
    """The images that a valid spec names, by field; `place` says where each one's file is."""

    def image_of(item: Any) -> InputImage:
        if isinstance(item, str):
            return InputImage(place(item))
        return InputImage(place(item["path"]), float(item.get("weight", 1.0)))

    inputs = {}
    for name in IMAGE_FIELDS:
        value = spec.get(name)
        if value is not None:
            inputs[name] = tuple(map(image_of, value if isinstance(value, list) else [value]))
    return inputs
