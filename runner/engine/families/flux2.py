"""FLUX.2 klein: Qwen3 with a chat template as text encoder, input images as references.

The embeddings are `prompt_embeds` (1, length, 7680): the states of three layers side by side. A row
of latents is (1, 32, height / 8, width / 8).
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
        prompt_embeds, _ = pipe.encode_prompt(prompt=prompt, max_sequence_length=length)
    return {"prompt_embeds": prompt_embeds}


def _decode(pipe: Any, latents: Any, width: int, height: int) -> Image:
    # The pipeline returns latents that are already unpacked and in the scale of the VAE.
    return decode_grid(pipe, latents)


FLUX2 = Family(
    name="flux2",
    encode=_encode,
    decode=_decode,
    tokens=partial(chat_tokens, thinking=False),
    readers=(Reader("Qwen3", "tokenizer", token_files.qwen2, chat=(("enable_thinking", False),)),),
)
