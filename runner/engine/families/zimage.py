"""Z-Image: Qwen3 with a thinking chat template as text encoder, and the VAE of FLUX.1.

The embeddings are `prompt_embeds`, a list of one tensor (tokens of the prompt, 2560). A row of
latents is (1, 16, height / 8, width / 8) in float32.
"""

from functools import partial

from runner.engine.families.base import Family, Reader, decoding, encode_alone, in_scale
from runner.engine.prompts import token_files

ZIMAGE = Family(
    name="zimage",
    encode=partial(encode_alone, do_classifier_free_guidance=False),
    decode=decoding(lambda pipe, latents, *size: in_scale(pipe, latents.to(pipe.vae.dtype))),
    grid=in_scale,
    readers=(Reader("Qwen3", "tokenizer", token_files.stored, chat=(("enable_thinking", True),)),),
    text_pipeline="ZImagePipeline",
)
