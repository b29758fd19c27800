"""FLUX.2 klein: Qwen3 with a chat template as text encoder, input images as references.

The embeddings are `prompt_embeds` (1, length, 7680): the states of three layers side by side. A row
of latents is (1, 32, height / 8, width / 8).
"""

from runner.engine.families.base import Family, Reader, decoding, encode_alone, unpatched
from runner.engine.prompts import token_files

FLUX2 = Family(
    name="flux2",
    encode=encode_alone,
    # The pipeline returns latents that are already unpacked and in the scale of the VAE.
    decode=decoding(lambda pipe, latents, *size: latents),
    grid=unpatched,
    readers=(Reader("Qwen3", "tokenizer", token_files.stored, chat=(("enable_thinking", False),)),),
    text_pipeline="Flux2KleinPipeline",
)
