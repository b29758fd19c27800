"""FLUX.1: CLIP and T5 as text encoders, latents in packed patches of 2×2.

Embeddings are `prompt_embeds` (1, length, 4096) of T5 and `pooled_prompt_embeds` (1, 768) of CLIP.
A row of latents is (1, height · width / 256, 64). The built-in model has narrower embeddings.
"""

from typing import Any

from runner.engine.families.base import Embeddings, Family, Reader, decoding, in_scale
from runner.engine.prompts import token_files


def _encode(pipe: Any, prompt: str, length: int) -> Embeddings:
    import torch

    with torch.no_grad():
        prompt_embeds, pooled, _ = pipe.encode_prompt(
            prompt=prompt, prompt_2=None, max_sequence_length=length
        )
    return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled}


def _grid(pipe: Any, latents: Any, width: int, height: int) -> Any:
    return in_scale(pipe, pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor))


FLUX1 = Family(
    name="flux1",
    encode=_encode,
    decode=decoding(_grid),
    grid=_grid,
    readers=(
        Reader("CLIP", "tokenizer", token_files.clip, pooled=True),
        Reader("T5", "tokenizer_2", token_files.t5),
    ),
    text_parts=("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
)
