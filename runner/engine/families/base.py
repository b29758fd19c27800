"""`Family`: how the pipelines of a family encode prompts and decode latents, outside of their call.

Outside, so that there is a cancellation point before each, and embeddings may come from a cache.
Both give the same numbers as the pipeline itself, which tests compare byte by byte. `encode` runs
on a pipeline that has only its text parts, `decode` on one that lacks them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.engine.errors import require_finite

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer

Embeddings = Mapping[str, Any]
"""Keyword arguments of a pipeline's call: tensors of one row each, or lists of one tensor."""


def encode_alone(pipe: Any, prompt: str, length: int, **options: Any) -> Embeddings:
    """The embeddings of a family that has one text encoder; `options` are its pipelines' own."""
    import torch

    with torch.no_grad():
        prompt_embeds, _ = pipe.encode_prompt(prompt=prompt, max_sequence_length=length, **options)
    return {"prompt_embeds": prompt_embeds}


def in_scale(pipe: Any, grid: Any, *size: int) -> Any:
    """Latents in the scale of the VAE, whatever the size."""
    return grid / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor


def unpatched(pipe: Any, latents: Any, width: int, height: int) -> Any:
    """The same of patches (rows, 128, height / 16, width / 16), as FLUX.2 has them, or of a row."""
    import torch

    if latents.ndim == 3:
        latents = latents.mT.unflatten(2, (height // 16, width // 16))
    norm, epsilon = pipe.vae.bn, pipe.vae.config.batch_norm_eps
    mean, spread = (
        each.view(1, -1, 1, 1).to(latents.device, latents.dtype)
        for each in (norm.running_mean, torch.sqrt(norm.running_var + epsilon))
    )
    # Of the 128 channels each four are the places of 2×2.
    return torch.nn.functional.pixel_shuffle(latents * spread + mean, 2)


def decode_grid(pipe: Any, grid: Any) -> "Image":
    """The RGB image of latents (1, channels, height / 8, width / 8) in the scale of the VAE.

    Raises NotFinite: the conversion to 8 bits would make NaN black without a word.
    """
    import torch

    with torch.no_grad():
        pixels = pipe.vae.decode(grid, return_dict=False)[0]
    require_finite(pixels)
    return pipe.image_processor.postprocess(pixels, output_type="pil")[0]


def decoding(grid: Callable[..., Any]) -> Callable[[Any, Any, int, int], "Image"]:
    """`Family.decode` for latents that `grid` brings into the scale of the VAE."""
    return lambda pipe, latents, *size: decode_grid(pipe, grid(pipe, latents, *size))


@dataclass(frozen=True)
class Reader:
    """How one text encoder of a family reads a prompt.

    `folder` is its tokenizer's folder in the pipeline's, which `build` reads. A `pooled` one has
    its tokenizer's limit, any other the model's. `chat` are the options that the family's pipeline
    gives to the chat template that it puts around a prompt; None where it uses none.
    """

    name: str
    folder: str
    build: Callable[[Path], "Tokenizer"]
    pooled: bool = False
    chat: tuple[tuple[str, Any], ...] | None = None


@dataclass(frozen=True)
class Family:
    """How the pipelines of a family encode prompts and decode latents, and what reads its prompts.

    `encode(pipe, prompt, length)` returns the embeddings of at most `length` tokens, in the dtype
    of the text encoder. `decode(pipe, latents, width, height)` takes one row of the latents that
    the pipeline returns, and the picture's size in pixels, and returns an RGB image. `grid` makes
    (rows, channels, height / 8, width / 8) in the scale of the VAE of the latents between two
    steps. Shapes are in the file of each family.
    `text_parts` are the components of the text stage, and `text_pipeline` is its class, where not
    every class of the family can do without the other components.
    """

    name: str
    encode: Callable[[Any, str, int], Embeddings]
    decode: Callable[[Any, Any, int, int], "Image"]
    grid: Callable[[Any, Any, int, int], Any]
    readers: tuple[Reader, ...]
    text_parts: tuple[str, ...] = ("text_encoder", "tokenizer")
    text_pipeline: str = ""
