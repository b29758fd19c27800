"""What a family is: encoding a prompt and decoding latents, taken out of the pipeline's call.

Taken out so that there is a joint before each of them, where the stop sign is read and where
embeddings may come from a cache instead. Both give the same numbers as the pipeline's own way;
the tests hold them to that, byte by byte. They run on halves of a pipeline: `encode` and `tokens`
on one that has only its text parts, `decode` on one that lacks them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

Embeddings = Mapping[str, Any]
"""Keywords of the pipeline's call: tensors, or lists of tensors."""


def one_row_each(embeddings: Embeddings, pictures: int) -> Embeddings:
    """One row for each picture, and copies: the prior scales what it is given in place."""
    return {
        name: tensor.repeat(pictures, *[1] * (tensor.ndim - 1))
        for name, tensor in embeddings.items()
    }


def picture(pipe: Any, grid: Any) -> Image:
    """What a VAE makes of latents that lie on its own grid, in its own scale."""
    pixels = pipe.vae.decode(grid, return_dict=False)[0]
    image: Image = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
    return image


def chat_tokens(pipe: Any, prompt: str, *, thinking: bool) -> int:
    """As the pipeline counts them: the chat template's own tokens are within its limit too."""
    text = pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    return len(pipe.tokenizer(text, truncation=False, verbose=False).input_ids)


@dataclass(frozen=True)
class Family:
    """How a family encodes, decodes, and counts the tokens of a prompt.

    `text_parts` are the components of the text stage; `heavy` is the one that all else makes room
    for.
    """

    name: str
    encode: Callable[[Any, str, int], Embeddings]
    decode: Callable[[Any, Any, int, int], Image]
    tokens: Callable[[Any, str], int]
    text_parts: tuple[str, ...] = ("text_encoder", "tokenizer")
    heavy: str = "transformer"
    for_prior: Callable[[Embeddings, int], Embeddings] = one_row_each
