"""Z-Image: Qwen3 with a thinking chat template as text encoder, and the VAE of FLUX.1.

The embeddings are `prompt_embeds`, a list of one tensor (tokens of the prompt, 2560). A row of
latents is (1, 16, height / 8, width / 8) in float32.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from runner.engine.families.base import Family, Reader, decode_grid, encode_alone, in_scale
from runner.engine.prompts import token_files

if TYPE_CHECKING:
    from PIL.Image import Image


def _decode(pipe: Any, latents: Any, width: int, height: int) -> "Image":
    return decode_grid(pipe, in_scale(pipe, latents.to(pipe.vae.dtype)))


ZIMAGE = Family(
    name="zimage",
    encode=partial(encode_alone, do_classifier_free_guidance=False),
    decode=_decode,
    grid=in_scale,
    readers=(Reader("Qwen3", "tokenizer", token_files.stored, chat=(("enable_thinking", True),)),),
    text_pipeline="ZImagePipeline",
)
