"""Z-Image: a Qwen3 encoder that may think, embeddings as long as the prompt, a FLUX.1 VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Embeddings, Family

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
        pixels = pipe.vae.decode(grid, return_dict=False)[0]
        image: Image = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
    return image


def _tokens(pipe: Any, prompt: str) -> int:
    """As the pipeline counts them: the chat template's own tokens are within its limit too."""
    text = pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=True,
    )
    return len(pipe.tokenizer(text, truncation=False, verbose=False).input_ids)


ZIMAGE = Family(name="zimage", encode=_encode, decode=_decode, tokens=_tokens)
