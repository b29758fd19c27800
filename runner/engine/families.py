"""What pipelines of one family share beyond their keywords: encoding a prompt, decoding latents.

Taken out of the call so that there is a joint before each of them, where the stop sign is read
and where embeddings may come from a cache instead. Both give the same numbers as the pipeline's
own way; the tests hold them to that, byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

Embeddings = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """How a family encodes, decodes, and counts the tokens of a prompt."""

    name: str
    encode: Callable[[Any, str, int], Embeddings]
    decode: Callable[[Any, Any, int, int], Image]
    tokens: Callable[[Any, str], int]
    for_prior: Callable[[Embeddings, int], Embeddings]


def _encode_flux1(pipe: Any, prompt: str, length: int) -> Embeddings:
    import torch

    with torch.no_grad():
        prompt_embeds, pooled, _ = pipe.encode_prompt(
            prompt=prompt, prompt_2=None, max_sequence_length=length
        )
    return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled}


def _decode_flux1(pipe: Any, latents: Any, width: int, height: int) -> Image:
    import torch

    settings = pipe.vae.config
    with torch.no_grad():
        grid = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
        grid = (grid / settings.scaling_factor) + settings.shift_factor
        pixels = pipe.vae.decode(grid, return_dict=False)[0]
        image: Image = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
    return image


def _tokens_flux1(pipe: Any, prompt: str) -> int:
    return len(pipe.tokenizer_2(prompt, truncation=False, verbose=False).input_ids)


def _for_prior_flux1(embeddings: Embeddings, pictures: int) -> Embeddings:
    """One row for each picture, and copies: the prior scales what it is given in place."""
    return {
        name: tensor.repeat(pictures, *[1] * (tensor.ndim - 1))
        for name, tensor in embeddings.items()
    }


FLUX1 = Family(
    name="flux1",
    encode=_encode_flux1,
    decode=_decode_flux1,
    tokens=_tokens_flux1,
    for_prior=_for_prior_flux1,
)

FAMILIES: Mapping[str, Family] = {FLUX1.name: FLUX1}
