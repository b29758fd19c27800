"""Twins of the pipeline classes, called as plain diffusers, for what is done to a pipeline.

`pipe_of` builds one in memory, `painted` is one picture's bytes. Both know nothing of the runner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests import random_twin
from tests.twins.pieces import seeded

FLUX1 = ("FluxPipeline", "FluxKontextPipeline", "FluxFillPipeline", "FluxControlPipeline")
OTHERS = ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "ZImagePipeline")


def pipe_of(name: str, *, layers: int = 1) -> Any:
    """A quiet pipeline of this class, with so many blocks of each sort."""
    import diffusers
    import torch

    from runner.engine.memory import devices

    devices.frameworks()
    devices.use_threads(torch.device("cpu"), 1)
    pipe = random_twin.build(random_twin.part_of(name))
    pipe = getattr(diffusers, name)(**pipe.components)
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
    on_step: Callable[[int], None] = lambda step: None,
) -> bytes:
    """The pixels of a picture; `on_step` is called after each step and may raise."""
    import torch
    from PIL import Image

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step)
        return tensors

    picture = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (16, 16, 48, 48))
    inputs: dict[str, dict[str, Any]] = {
        "FluxKontextPipeline": {"image": picture, "max_area": size**2, "_auto_resize": False},
        "FluxFillPipeline": {"image": picture, "mask_image": mask},
        "FluxControlPipeline": {"control_image": picture},
        "Flux2KleinInpaintPipeline": {"image": picture, "mask_image": mask, "strength": 1.0},
    }
    name = type(pipe).__name__
    image = pipe(
        prompt="a red circle",
        width=size,
        height=size,
        num_inference_steps=steps,
        guidance_scale=3.5 if name in FLUX1 else 1.0 if name.startswith("Flux2") else 0.0,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=on_step_end,
        callback_on_step_end_tensor_inputs=[],
        **inputs.get(name, {}),
    ).images[0]
    pixels: bytes = image.tobytes()
    return pixels


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
