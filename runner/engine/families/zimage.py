"""Z-Image: Qwen3 with a thinking chat template as text encoder, and the VAE of FLUX.1.

The embeddings are `prompt_embeds`, a list of one tensor (tokens of the prompt, 2560). A row of
latents is (1, 16, height / 8, width / 8) in float32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Embeddings, Family, Reader, chat_tokens, decode_grid
from runner.engine.prompts import token_files

if TYPE_CHECKING:
    from PIL.Image import Image


def _encode(pipe: Any, prompt: str, length: int) -> Embeddings:
    import torch

    with torch.no_grad():
        prompt_embeds, _ = pipe.encode_prompt(
            prompt=prompt, do_classifier_free_guidance=False, max_sequence_length=length
        )
    return {"prompt_embeds": prompt_embeds}


def _decode(pipe: Any, latents: Any, width: int, height: int) -> Image:
    settings = pipe.vae.config
    grid = latents.to(pipe.vae.dtype)
    return decode_grid(pipe, (grid / settings.scaling_factor) + settings.shift_factor)


ZIMAGE = Family(
    name="zimage",
    encode=_encode,
    decode=_decode,
    tokens=partial(chat_tokens, thinking=True),
    readers=(Reader("Qwen3", "tokenizer", token_files.qwen2, chat=(("enable_thinking", True),)),),
)
