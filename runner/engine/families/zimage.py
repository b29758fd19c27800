"""Z-Image: a Qwen3 encoder that may think, embeddings as long as the prompt, a FLUX.1 VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Embeddings, Family, chat_tokens, picture

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
    import torch

    settings = pipe.vae.config
    with torch.no_grad():
        grid = latents.to(pipe.vae.dtype)
        grid = (grid / settings.scaling_factor) + settings.shift_factor
        return picture(pipe, grid)


def _tokens(pipe: Any, prompt: str) -> int:
    return chat_tokens(pipe, prompt, thinking=True)


ZIMAGE = Family(name="zimage", encode=_encode, decode=_decode, tokens=_tokens)
