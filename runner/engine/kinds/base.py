"""What a kind is: a frozen value that answers "with what arguments?" and never "do it".

    ImageTask ──prepare──► Prepared ──prior──► keyword arguments of the prior stage (redux)
                               └─────arguments──► keyword arguments of the main pipeline

A kind is never handed a pipeline or a stop sign and imports no torch: there is nothing in it that
could forget to be cancelled. The functions are given per family, because pipelines of one family
share their keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runner.engine.models import Sizes
from runner.job import ImageTask

if TYPE_CHECKING:
    from PIL.Image import Image

NOT_GIVEN = object()
"""Marks an option that has no default: it is in a task only where the spec names it."""


@dataclass(frozen=True)
class Paste:
    """The original that stays outside the mask, and how much of the new picture shows (L)."""

    original: Image
    share: Image


@dataclass(frozen=True)
class Prepared:
    """A task's pictures, ready for the pipeline, and the size of what comes out.

    `depth_of` is a picture of which the engine has still to make a depth map, with a model that no
    kind may touch; `with_depth` puts it in its place.
    """

    width: int
    height: int
    images: Mapping[str, tuple[Image, ...]] = field(default_factory=dict)
    paste: Paste | None = None
    depth_of: Image | None = None

    def with_depth(self, depth_map: Image) -> Prepared:
        """The same with the map that was made of `depth_of` as its control image."""
        return replace(self, images={**self.images, "image": (depth_map,)}, depth_of=None)


Arguments = Mapping[str, Any]
Prepare = Callable[[ImageTask, Sizes], Prepared]
Build = Callable[[ImageTask, Prepared], Arguments]


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    `reads` names the spec's image fields, `options` its own scalars with their defaults. `prior`
    is for kinds whose main stage is fed by another pipeline; its result joins the main arguments.
    """

    name: str
    summary: str
    prepare: Prepare
    arguments: Mapping[str, Build]
    reads: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, Build] = field(default_factory=dict)


def sampling(task: ImageTask, prepared: Prepared) -> dict[str, Any]:
    """The keywords that the pipelines of all families take."""
    return {
        "width": prepared.width,
        "height": prepared.height,
        "num_inference_steps": task.steps,
        "guidance_scale": task.guidance,
    }
