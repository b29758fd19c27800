"""FLUX.2 klein: Qwen3 with a chat template as text encoder, input images as references.

The embeddings are `prompt_embeds` (1, length, 7680): the states of three layers side by side. A row
of latents is (1, 32, height / 8, width / 8).
"""

from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Family, Reader, decode_grid, encode_alone, unpatched
from runner.engine.prompts import token_files

if TYPE_CHECKING:
    from PIL.Image import Image


def _decode(pipe: Any, latents: Any, width: int, height: int) -> "Image":
    # The pipeline returns latents that are already unpacked and in the scale of the VAE.
    return decode_grid(pipe, latents)


FLUX2 = Family(
    name="flux2",
    encode=encode_alone,
    decode=_decode,
    grid=unpatched,
    readers=(Reader("Qwen3", "tokenizer", token_files.stored, chat=(("enable_thinking", False),)),),
    text_pipeline="Flux2KleinPipeline",
)
