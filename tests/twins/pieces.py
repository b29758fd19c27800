"""What twins of several families are made of: seeded modules, a VAE, Qwen's tokenizer."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

HIDDEN = 32
"""The width of FLUX.1's twins."""

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A short form of Qwen3's own: with and without thinking it gives other tokens."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def seeded(name: str, make: Callable[[], Any]) -> Any:
    """A module whose random weights depend on its name; the global generator is left alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode("ascii")))
        return make().eval()


def scheduler(*, dynamic: bool = True) -> Any:
    """As dev's, which shifts with the size of the picture, or as schnell's, which does not."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    shift = 3.0 if dynamic else 1.0
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic, shift=shift)


def flux1_vae() -> Any:
    """Four blocks, so that it shrinks by 8 like the real one."""
    return seeded("vae", _flux1_vae)


def _flux1_vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )


def byte_symbols() -> list[int]:
    """The printable stand-ins of the 256 bytes in byte-level tokenizers."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*plain, *(256 + extra for extra in range(256 - len(plain)))]


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer over single bytes, with a chat template."""
    from transformers import Qwen2TokenizerFast

    words = [*(chr(code) for code in byte_symbols()), *_SPECIAL]
    return Qwen2TokenizerFast(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        additional_special_tokens=list(_SPECIAL[1:]),
        chat_template=_TEMPLATE,
        model_max_length=512,
    )


def qwen_settings(width: int, layers: int) -> Any:
    """The configuration of a Qwen3 that reads the tokenizer above."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=256 + len(_SPECIAL),
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        pad_token_id=256,
        eos_token_id=256,
        bos_token_id=None,
    )
