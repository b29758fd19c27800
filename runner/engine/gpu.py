"""The only call of a pipeline: prior, denoise, decode, with a cancellation point before each.

The stop sign is a required argument, and the step callback is added here and nowhere else, so no
kind can forget it; one that returns that keyword itself gets Python's TypeError. A task is stopped
by an exception from the callback, never by diffusers' interrupt flag, with which a half-denoised
picture would be decoded and returned as if it were finished.
"""

import inspect
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.engine.batch_layers import row_by_row
from runner.engine.errors import Bug, NotFinite, require_finite, translation
from runner.engine.families.base import Embeddings, Family
from runner.engine.kinds.base import Build, Prepared
from runner.engine.prompts.embeddings import Encoded
from runner.engine.speed import Speed
from runner.errors import Stopped, TimedOut
from runner.job import Phase
from runner.task import ImageTask

if TYPE_CHECKING:
    from PIL.Image import Image

OnProgress = Callable[..., None]
"""Called with a phase, the step that was done, the number of steps, and a preview if one is due."""

CALLBACK = "callback_on_step_end"
_ATTENTION = "joint_attention_kwargs"


class StopSign:
    """Stops a task, and limits its time: set by any thread, checked by the one that renders.

    `limit` is in seconds from the creation of the sign or the last `restart_clock`. The seconds
    inside `not_counted` (loading) are added to it again, and summed in `given_back`.
    """

    def __init__(
        self, limit: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._event = threading.Event()
        self._limit = limit
        self._clock = clock
        self._until = None if limit is None else clock() + limit
        self.given_back = 0.0

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise Stopped if the sign is set, else TimedOut if the limit is over."""
        if self._event.is_set():
            raise Stopped("the stop sign is set")
        if self._until is not None and self._clock() > self._until:
            raise TimedOut(
                f"the image took longer than its timeout of {self._limit:g} s:"
                " raise `timeout`, or lower `steps`, the size or `upscale`"
            )

    def restart_clock(self) -> None:
        """Start the time limit anew; the time that the task waited before does not count."""
        if self._limit is not None:
            self._until = self._clock() + self._limit

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - began
            self.given_back += seconds
            if self._until is not None:
                self._until += seconds


@dataclass(frozen=True)
class Stages:
    """The pipelines of a task, and the functions that build their keyword arguments.

    `main` denoises and decodes; `prior`, where there is one, computes its embeddings. `facts` are
    the engine facts about them that a sidecar records, `warnings` are sentences for the caller.
    `preview` is given the scheduler and the latents after each step, and returns one if it is due.
    """

    family: Family
    main: Any
    arguments: Build
    prior: Any = None
    prior_arguments: Build | None = None
    speed: Speed = Speed()
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    preview: Callable[[Any, Any], tuple[bytes, ...]] | None = None


def require_callback(pipeline: type) -> None:
    """Raise Bug for a pipeline class that cannot be stopped between steps.

    Checked before any weights are loaded.
    """
    if CALLBACK not in inspect.signature(pipeline.__call__).parameters:
        raise Bug(f"{pipeline.__name__} takes no {CALLBACK}: it could not be cancelled")


@dataclass(frozen=True)
class Piece:
    """One image to be made: its task, its prepared input images and size, its encoded prompt."""

    task: ImageTask
    prepared: Prepared
    encoded: Encoded


def run_batch(
    stages: Stages, pieces: Sequence[Piece], stop: StopSign, on_progress: OnProgress
) -> "list[Image]":
    """Make the pictures of tasks that differ at most in prompt and seed, denoised in one call.

    More than one only of a kind without input images. Returns RGB images in the order of `pieces`,
    of the size in their `prepared`. Raises Stopped and TimedOut at a cancellation point,
    OutOfMemory, DeviceLost and NotFinite.
    """
    try:
        with translation():
            latents = denoised(stages, pieces, stop, on_progress)
            stop.check()
            on_progress(Phase.DECODING, 0, 0)
            sizes = [(each.prepared.width, each.prepared.height) for each in pieces]
            return [
                stages.family.decode(stages.main, latents[n : n + 1], *size)
                for n, size in enumerate(sizes)
            ]
    except NotFinite as error:
        raise NotFinite(_culprit(stages.main, pieces[0].task.model) or str(error)) from error
    finally:
        # diffusers does this only after a success; without it offload hooks and step caches
        # would carry state of this image into the next.
        for pipe in (stages.prior, stages.main):
            if pipe is not None:
                pipe.maybe_free_model_hooks()


def _culprit(pipe: Any, model: str) -> str | None:
    """The weights that numbers which are none come from, looked for only now; None for others."""
    damaged = (
        f"{name} of the {part} of {model} has numbers that are none (NaN or infinite): its weights"
        " are damaged, fetch them again"
        for part, module in getattr(pipe, "components", {}).items()
        for name, weight in getattr(module, "state_dict", dict)().items()
        if weight.is_floating_point() and not weight.float().isfinite().all()
    )
    return next(damaged, None)


def denoised(
    stages: Stages, pieces: Sequence[Piece], stop: StopSign, on_progress: OnProgress
) -> Any:
    """The latents after the last step, not yet decoded: one row for each piece, all finite.

    The shape of a row and the dtype are the family's (see `families.base.Family.decode`).
    """
    import torch

    stop.check()
    conditioning = _conditioning(stages, pieces)
    stop.check()
    task = pieces[0].task

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen = stages.preview(pipe.scheduler, tensors["latents"]) if stages.preview else ()
        on_progress(Phase.DENOISING, step + 1, task.steps_made, *seen)
        stop.check()
        return tensors  # diffusers pops its tensors from the result, so None would raise

    # On the CPU, so that a seed gives the same noise on every device.
    generators = [torch.Generator("cpu").manual_seed(piece.task.seed) for piece in pieces]
    arguments = stages.arguments(task, pieces[0].prepared)
    watch = {
        "generator": generators,
        CALLBACK: on_step_end,
        f"{CALLBACK}_tensor_inputs": ["latents"] if stages.preview else [],
        "output_type": "latent",
        **conditioning,
    }
    on_progress(Phase.DENOISING, 0, task.steps_made)
    batched = row_by_row(stages.main.transformer) if len(pieces) > 1 else nullcontext()
    twice, masked = "true_cfg" in task.options, _ATTENTION in conditioning
    with stages.speed.around(stages.main, twice=twice, masked=masked), batched:
        latents = _call(stages.main, arguments, watch).images
    require_finite(latents)
    return latents


def _conditioning(stages: Stages, pieces: Sequence[Piece]) -> Embeddings:
    """The embeddings of the prompts, one row for each piece, or what the prior makes of them."""
    if len(pieces) > 1:
        import torch

        embeddings = [piece.encoded.embeddings for piece in pieces]
        return {name: torch.cat([each[name] for each in embeddings]) for name in embeddings[0]}
    (piece,) = pieces
    if stages.prior_arguments is None:
        return piece.encoded.embeddings
    pictures = len(piece.prepared.images["image"])
    # The prior takes one row for each picture, and scales them in place: these are copies.
    rows = {
        name: tensor.repeat(pictures, *[1] * (tensor.ndim - 1))
        for name, tensor in piece.encoded.embeddings.items()
    }
    arguments = stages.prior_arguments(piece.task, piece.prepared)
    found = dict(_call(stages.prior, {**arguments, **rows}, {}))
    weight = piece.task.inputs["image"][0].weight
    if pictures == 1 and weight != 1:
        words = piece.encoded.embeddings["prompt_embeds"].shape[1]
        found[_ATTENTION] = {
            "attention_mask": _weighing(found["prompt_embeds"], words, weight, piece.prepared)
        }
    return found


def _weighing(tokens: Any, words: int, weight: float, prepared: Prepared) -> Any:
    """The attention mask (1, 1, 1, keys) with which a picture counts by `weight` against its words.

    Keys are the tokens of the words, of the picture, then of the latents. The logarithm is added to
    the scores before the softmax, so a weight of 0 leaves the words alone. Scaling the tokens does
    next to nothing, for each block normalises them (Comfy-Org/ComfyUI: StyleModelApply, attn_bias).
    """
    mask = tokens.new_zeros(1, 1, 1, tokens.shape[1] + prepared.width * prepared.height // 256)
    mask[..., words : tokens.shape[1]] = math.log(weight) if weight else -math.inf
    return mask


def _call(pipe: Any, arguments: Mapping[str, Any], watch: Mapping[str, Any]) -> Any:
    """The only call of a pipeline in the program.

    `watch` are the engine's own keywords; one that is in `arguments` too is Python's TypeError.
    """
    return pipe(**arguments, **watch)
