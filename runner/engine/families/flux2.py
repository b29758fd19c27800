"""FLUX.2 klein: a Qwen3 encoder behind a chat template, pictures read as references."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Embeddings, Family, chat_tokens, picture

if TYPE_CHECKING:
    from PIL.Image import Image


def _encode(pipe: Any, prompt: str, length: int) -> Embeddings:
    import torch

    with torch.no_grad():
        prompt_embeds, _ = pipe.encode_prompt(prompt=prompt, max_sequence_length=length)
    return {"prompt_embeds": prompt_embeds}


def _decode(pipe: Any, latents: Any, width: int, height: int) -> Image:
    """The pipeline hands over latents that are already unpacked and in the VAE's own scale."""
    import torch

    with torch.no_grad():
        return picture(pipe, latents)


def _tokens(pipe: Any, prompt: str) -> int:
    return chat_tokens(pipe, prompt, thinking=False)


FLUX2 = Family(name="flux2", encode=_encode, decode=_decode, tokens=_tokens)
