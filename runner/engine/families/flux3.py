"""FLUX.3 Image Klein: Qwen3-VL with a chat template as text encoder, pictures as references.

The embeddings are `prompt_embeds` (1, tokens in eighties, 20480): the states of eight layers side
by side. A row of latents is (1, 128, height / 16, width / 16), normalised as FLUX.2's VAE says.
"""

from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Family, Reader, decode_grid, encode_alone, unpatched
from runner.engine.prompts import token_files

if TYPE_CHECKING:
    from PIL.Image import Image


def _decode(pipe: Any, latents: Any, width: int, height: int) -> "Image":
    return decode_grid(pipe, unpatched(pipe, latents, width, height).to(pipe.vae.dtype))


FLUX3 = Family(
    name="flux3",
    encode=encode_alone,
    decode=_decode,
    grid=unpatched,
    readers=(Reader("Qwen3-VL", "tokenizer", token_files.stored, chat=()),),
)
