"""FLUX.2 klein: a Qwen3 encoder behind a chat template, pictures read as references."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Embeddings, Family

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
        pixels = pipe.vae.decode(latents, return_dict=False)[0]
        image: Image = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
    return image


def _tokens(pipe: Any, prompt: str) -> int:
    """As the pipeline counts them: the chat template's own tokens are within its limit too."""
    text = pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    return len(pipe.tokenizer(text, truncation=False, verbose=False).input_ids)


FLUX2 = Family(name="flux2", encode=_encode, decode=_decode, tokens=_tokens)
