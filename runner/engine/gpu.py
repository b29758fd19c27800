"""The one place that calls a pipeline: prior, denoise, decode, with a joint between each.

The stop sign is a required argument, and the step callback is added here and nowhere else, so no
kind can forget it: one that brings the keyword itself gets Python's own TypeError. Stopping is an
exception out of the callback, never diffusers' interrupt flag, with which a half-denoised picture
would be decoded and handed back as if it were done.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.engine.embeddings import Encoded
from runner.engine.families import Family
from runner.engine.faults import Bug, NotFinite, translation
from runner.engine.kinds.base import Build, Paste, Prepared
from runner.engine.speed import Speed
from runner.engine.stop import StopSign
from runner.job import ImageTask, Phase

if TYPE_CHECKING:
    from PIL.Image import Image

OnProgress = Callable[[Phase, int, int], None]

CALLBACK = "callback_on_step_end"


@dataclass(frozen=True)
class Stages:
    """All that a task runs through: the pipelines, and the functions that feed them."""

    family: Family
    main: Any
    arguments: Build
    prior: Any = None
    prior_arguments: Build | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    speed: Speed = Speed()


def require_callback(pipeline: type) -> None:
    """Refuses a main stage that cannot be stopped between steps, before its weights are loaded."""
    if CALLBACK not in inspect.signature(pipeline.__call__).parameters:
        raise Bug(f"{pipeline.__name__} takes no {CALLBACK}: it could not be cancelled")


def run(
    stages: Stages,
    task: ImageTask,
    prepared: Prepared,
    encoded: Encoded,
    stop: StopSign,
    on_progress: OnProgress,
) -> Image:
    """The picture of one task; raises where there is none."""
    try:
        with translation():
            stop.check()
            given = _conditioned(stages, task, prepared, encoded)
            stop.check()
            latents = _denoised(stages, task, prepared, given, stop, on_progress)
            stop.check()
            on_progress(Phase.DECODING, 0, 0)
            image = stages.family.decode(stages.main, latents, prepared.width, prepared.height)
    finally:
        # diffusers does this only on the good path; without it offload hooks and step caches
        # would carry this image into the next.
        for pipe in (stages.prior, stages.main):
            if pipe is not None:
                pipe.maybe_free_model_hooks()
    return _pasted(image, prepared.paste)


def _conditioned(
    stages: Stages, task: ImageTask, prepared: Prepared, encoded: Encoded
) -> Mapping[str, Any]:
    """What the main stage is steered by: the prompt's embeddings, or what the prior makes of it."""
    if stages.prior is None or stages.prior_arguments is None:
        return encoded.embeddings
    arguments = stages.prior_arguments(task, prepared)
    pictures = len(prepared.images["image"])
    words = stages.family.for_prior(encoded.embeddings, pictures)
    return dict(_call(stages.prior, {**arguments, **words}, {}))


def _denoised(
    stages: Stages,
    task: ImageTask,
    prepared: Prepared,
    given: Mapping[str, Any],
    stop: StopSign,
    on_progress: OnProgress,
) -> Any:
    """The finished latents, not yet decoded: the joint before decoding is ours."""
    import torch

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_progress(Phase.DENOISING, step + 1, task.steps)
        stop.check()
        return tensors  # diffusers takes what it asked for out of this; None would break it

    arguments = {**stages.fixed, **stages.arguments(task, prepared)}
    watch = {
        "generator": torch.Generator("cpu").manual_seed(task.seed),
        CALLBACK: on_step_end,
        f"{CALLBACK}_tensor_inputs": [],
        "output_type": "latent",
        **given,
    }
    on_progress(Phase.DENOISING, 0, task.steps)
    with stages.speed.around(stages.main):
        latents = _call(stages.main, arguments, watch).images
    if not torch.isfinite(latents).all():
        raise NotFinite(
            "the model computed numbers that are none (NaN or infinite):"
            " try another precision, seed or size"
        )
    return latents


def _call(pipe: Any, arguments: Mapping[str, Any], watch: Mapping[str, Any]) -> Any:
    """The only call of a pipeline in the program; a keyword given twice is Python's TypeError."""
    return pipe(**arguments, **watch)


def _pasted(image: Image, paste: Paste | None) -> Image:
    if paste is None:
        return image
    from PIL import Image as Pillow

    return Pillow.composite(image, paste.original, paste.share)
