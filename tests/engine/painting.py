"""Twins of the pipeline classes, called as plain diffusers, for what is done to a pipeline.

`pipe_of` builds one in memory, `painted` is one picture's bytes. Of the runner both know only with
what arguments the registry calls the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.kinds.base import Prepared
from runner.engine.models import Model
from runner.engine.registry import KINDS, realise
from runner.engine.weights.assembly import class_of
from tests import random_twin
from tests.twins import zimage
from tests.twins.pieces import seeded

SERVED: dict[str, tuple[Model, str]] = {
    pipeline: (model, kind)
    for model in reversed(MODEL_REGISTRY.values())
    for kind, serving in reversed(model.serves.items())
    for pipeline in filter(None, (serving.pipeline, serving.img2img))
}
"""The pipeline classes of the registry, each with the first model and kind that it serves."""

FLUX1 = tuple(name for name, (model, _) in SERVED.items() if model.family == "flux1")


def pipe_of(name: str, *, layers: int = 1) -> Any:
    """A quiet pipeline of this class, with so many blocks of each sort."""
    import torch

    from runner.engine.memory import devices

    devices.use_threads(torch.device("cpu"), 1)
    model, kind = SERVED[name]
    pipe = random_twin.build(random_twin.part_of(name, guided=model.serves[kind].guided))
    pipe = class_of("diffusers", name)(**pipe.components, **beside(name))
    if layers > 1:
        like = pipe.transformer
        settings = {
            key: layers if key in {"num_layers", "num_single_layers", "n_layers"} else value
            for key, value in like.config.items()
            if not key.startswith("_")
        }
        pipe.transformer = seeded(f"{name}-{layers}", lambda: type(like)(**settings))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted(
    pipe: Any,
    *,
    steps: int = 2,
    seed: int = 1,
    size: int = 64,
    prompt: str | list[str] = "a red circle",
    length: int = 32,
    serving: tuple[Model, str] | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    negative: str | None = None,
) -> bytes:
    """The pixels of a picture, the first where there are several prompts.

    `length` is the most tokens of a prompt, `serving` the model and kind with whose arguments the
    pipeline is called, by default those of `SERVED`. `on_step` is called after each step and may
    raise.
    """
    import torch
    from PIL import Image

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step)
        return tensors

    picture = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (16, 16, 48, 48))
    model, kind = serving or SERVED[type(pipe).__name__]
    spec = {"kind": kind, "model": model.name, "width": size, "height": size, "seed": seed}
    asked = {} if negative is None else {"negative_prompt": negative}
    task = realise({**spec, **asked, "steps": steps}, job="job", index=1, inputs={})
    starts = type(pipe).__name__ == model.serves[kind].img2img
    pictures = {"image": (picture,), "mask": (mask,)} if starts or KINDS[kind].reads else {}
    prepared = Prepared(size, size, pictures)
    image = pipe(
        prompt=prompt,
        **KINDS[kind].build(model.family, model.serves[kind])(task, prepared),
        **asked,
        max_sequence_length=length,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=on_step_end,
        callback_on_step_end_tensor_inputs=[],
    ).images[0]
    pixels: bytes = image.tobytes()
    return pixels


def beside(name: str) -> dict[str, Any]:
    """The components of a pipeline class that no folder of a model has."""
    return {"controlnet": zimage.controlnet()} if name == "ZImageControlNetPipeline" else {}


@contextmanager
def attention() -> Iterator[list[tuple[int, bool]]]:
    """Each call of an attention kernel in the block: tokens that are read, whether with a mask."""
    from diffusers.models import attention_dispatch

    kernels = attention_dispatch._AttentionBackendRegistry._backends
    native = attention_dispatch.AttentionBackendName.NATIVE
    kernel, calls = kernels[native], []

    def watched(*, key: Any, attn_mask: Any = None, **more: Any) -> Any:
        calls.append((key.shape[1], attn_mask is not None))
        return kernel(key=key, attn_mask=attn_mask, **more)

    kernels[native] = watched
    try:
        yield calls
    finally:
        kernels[native] = kernel


def state_of(pipe: Any) -> tuple[list[int], list[bytes], str]:
    """All that may not change: the very layers in their order, their weights, the settings."""
    import torch

    module = pipe.transformer
    weights = [
        value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for value in module.state_dict().values()
    ]
    return [id(each) for each in module.modules()], weights, repr(dict(module.config))


def furthest(pixels: bytes, others: bytes) -> int:
    """The largest difference of a colour value."""
    return max(abs(a - b) for a, b in zip(pixels, others, strict=True))
