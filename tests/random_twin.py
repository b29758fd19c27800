"""A FLUX.1 with random weights, small enough to build in a moment: same classes, same folders.

Every part is a standard diffusers folder that the true pipeline class loads. The weights depend
on nothing but the component's name, so components that parts share are the same bytes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HIDDEN = 32
PARTS: Mapping[str, str] = {
    "text2img": "FluxPipeline",
    "kontext": "FluxKontextPipeline",
    "fill": "FluxFillPipeline",
    "control": "FluxControlPipeline",
    "redux-prior": "FluxPriorReduxPipeline",
}
_CHANNELS = {"text2img": 64, "kontext": 64, "control": 128, "fill": 384}


def folder(part: str, data: Path) -> Path:
    """The folder of a part below `data`, built on first use; it appears there whole."""
    target = data / "random-twin" / part
    if not (target / "model_index.json").is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
        try:
            build(part).save_pretrained(aside)
            os.replace(aside, target)
        except OSError:
            # Another process may have been faster; its folder is as good.
            if not (target / "model_index.json").is_file():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def build(part: str) -> Any:
    """The pipeline of a part, in memory."""
    from runner.engine import devices

    diffusers = devices.frameworks()
    make = getattr(diffusers, PARTS[part])
    if part == "redux-prior":
        return make(**_vision())
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    channels = _CHANNELS[part]
    return make(
        scheduler=scheduler,
        transformer=_seeded(f"transformer-{channels}", lambda: _transformer(channels)),
        vae=_seeded("vae", _vae),
        **_text(),
    )


def _seeded(name: str, make: Callable[[], Any]) -> Any:
    """A module whose random weights depend on its name; the global generator is left alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode("ascii")))
        return make().eval()


def _transformer(channels: int) -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=channels,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=HIDDEN,
        pooled_projection_dim=HIDDEN,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )


def _vae() -> Any:
    """Four blocks, so that it shrinks by 8 like the real one."""
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


def _text() -> dict[str, Any]:
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
        T5TokenizerFast,
    )

    symbols = [chr(code) for code in _byte_symbols()]
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    clip_words = {word: number for number, word in enumerate(words)}
    begin, end = clip_words["<|startoftext|>"], clip_words["<|endoftext|>"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(letter, -3.0) for letter in letters]
    clip = CLIPTextConfig(
        vocab_size=len(clip_words),
        hidden_size=HIDDEN,
        intermediate_size=37,
        projection_dim=HIDDEN,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=77,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=end,
    )
    t5 = T5Config(
        vocab_size=len(pieces),
        d_model=HIDDEN,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return {
        "text_encoder": _seeded("clip", lambda: CLIPTextModel(clip)),
        "text_encoder_2": _seeded("t5", lambda: T5EncoderModel(t5)),
        "tokenizer": CLIPTokenizer(vocab=clip_words, merges=[], model_max_length=77),
        "tokenizer_2": T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512),
    }


def _byte_symbols() -> list[int]:
    """The printable stand-ins of the 256 bytes in byte-level tokenizers."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*plain, *(256 + extra for extra in range(256 - len(plain)))]


def _vision() -> dict[str, Any]:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    vision = SiglipVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    return {
        "image_encoder": _seeded("siglip", lambda: SiglipVisionModel(vision)),
        "feature_extractor": SiglipImageProcessor(size={"height": 32, "width": 32}),
        "image_embedder": _seeded(
            "redux", lambda: ReduxImageEncoder(redux_dim=HIDDEN, txt_in_features=HIDDEN)
        ),
    }
