"""The one place that calls a pipeline: prior, denoise, decode, each after a cancellation point.

The stop sign is a required argument, and the step callback is added here and nowhere else, so no
kind can forget it: one that brings the keyword itself gets Python's own TypeError. Stopping is an
exception out of the callback, never diffusers' interrupt flag, with which a half-denoised picture
would be decoded and handed back as if it were done.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.engine.batch_layers import row_by_row
from runner.engine.errors import Bug, NotFinite, translation
from runner.engine.families import Family
from runner.engine.kinds.base import Build, Paste, Prepared
from runner.engine.prompts.embeddings import Encoded
from runner.engine.speed import Speed
from runner.engine.stop_sign import StopSign
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


@dataclass(frozen=True)
class Piece:
    """One image to be made: its task, its pictures and size, its encoded prompt."""

    task: ImageTask
    prepared: Prepared
    encoded: Encoded


def run_batch(
    stages: Stages, pieces: Sequence[Piece], stop: StopSign, on_progress: OnProgress
) -> list[Image]:
    """The pictures of tasks that differ in nothing but prompt and seed, denoised in one call.

    More than one only of a kind that reads no pictures; all of them are there, or it raises.
    """
    first = pieces[0]
    width, height = first.prepared.width, first.prepared.height
    images = []
    try:
        with translation():
            latents = denoised(stages, pieces, stop, on_progress)
            stop.check()
            on_progress(Phase.DECODING, 0, 0)
            for number in range(len(pieces)):
                own = latents[number : number + 1]
                images.append(stages.family.decode(stages.main, own, width, height))
    finally:
        # diffusers does this only on the good path; without it offload hooks and step caches
        # would carry this image into the next.
        for pipe in (stages.prior, stages.main):
            if pipe is not None:
                pipe.maybe_free_model_hooks()
    pasted = zip(images, pieces, strict=True)
    return [_pasted(image, piece.prepared.paste) for image, piece in pasted]


def denoised(
    stages: Stages, pieces: Sequence[Piece], stop: StopSign, on_progress: OnProgress
) -> Any:
    """The finished latents, one row for each piece, not yet decoded."""
    import torch

    stop.check()
    given = _conditioned(stages, pieces)
    stop.check()
    task = pieces[0].task

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_progress(Phase.DENOISING, step + 1, task.steps)
        stop.check()
        return tensors  # diffusers takes what it asked for out of this; None would break it

    seeded = [torch.Generator("cpu").manual_seed(piece.task.seed) for piece in pieces]
    arguments = {**stages.fixed, **stages.arguments(task, pieces[0].prepared)}
    watch = {
        "generator": seeded if len(seeded) > 1 else seeded[0],
        CALLBACK: on_step_end,
        f"{CALLBACK}_tensor_inputs": [],
        "output_type": "latent",
        **given,
    }
    on_progress(Phase.DENOISING, 0, task.steps)
    alike = row_by_row(stages.main.transformer) if len(pieces) > 1 else nullcontext()
    with stages.speed.around(stages.main), alike:
        latents = _call(stages.main, arguments, watch).images
    if not torch.isfinite(latents).all():
        raise NotFinite(
            "the model computed numbers that are none (NaN or infinite):"
            " try another precision, seed or size"
        )
    return latents


def _conditioned(stages: Stages, pieces: Sequence[Piece]) -> Mapping[str, Any]:
    """What steers the main stage: the prompts' embeddings, or what the prior makes of one."""
    task, prepared, encoded = pieces[0].task, pieces[0].prepared, pieces[0].encoded
    if len(pieces) > 1:
        import torch

        every = [piece.encoded.embeddings for piece in pieces]
        return {name: torch.cat([each[name] for each in every]) for name in every[0]}
    if stages.prior is None or stages.prior_arguments is None:
        return encoded.embeddings
    arguments = stages.prior_arguments(task, prepared)
    pictures = len(prepared.images["image"])
    words = stages.family.for_prior(encoded.embeddings, pictures)
    return dict(_call(stages.prior, {**arguments, **words}, {}))


def _call(pipe: Any, arguments: Mapping[str, Any], watch: Mapping[str, Any]) -> Any:
    """The only call of a pipeline in the program; a keyword given twice is Python's TypeError."""
    return pipe(**arguments, **watch)


def _pasted(image: Image, paste: Paste | None) -> Image:
    if paste is None:
        return image
    from PIL import Image as Pillow

    return Pillow.composite(image, paste.original, paste.share)
