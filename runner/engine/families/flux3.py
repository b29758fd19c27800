"""FLUX.3 Image Klein: Qwen3-VL with a chat template as text encoder, pictures as references.

The embeddings are `prompt_embeds` (1, tokens in eighties, 20480): the states of eight layers side
by side. A row of latents is (1, 128, height / 16, width / 16), normalised as FLUX.2's VAE says.
"""

from runner.engine.families.base import Family, Reader, decoding, encode_alone, unpatched
from runner.engine.prompts import token_files

FLUX3 = Family(
    name="flux3",
    encode=encode_alone,
    decode=decoding(
        lambda pipe, latents, *size: unpatched(pipe, latents, *size).to(pipe.vae.dtype)
    ),
    grid=unpatched,
    readers=(Reader("Qwen3-VL", "tokenizer", token_files.stored, chat=()),),
)
