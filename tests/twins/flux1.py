"""FLUX.1 twins: CLIP, T5, a FLUX.1 transformer for each number of channels, and the redux prior."""

from __future__ import annotations

from typing import Any

from tests.twins.pieces import HIDDEN, byte_symbols, flux1_vae, scheduler, seeded

CLASSES = {
    "text2img": ("FluxPipeline", "FluxImg2ImgPipeline"),
    "schnell": ("FluxPipeline",),
    "kontext": ("FluxKontextPipeline",),
    "fill": ("FluxFillPipeline",),
    "control": ("FluxControlPipeline",),
    "redux-prior": ("FluxPriorReduxPipeline",),
}
CHANNELS = {"text2img": 64, "schnell": 64, "kontext": 64, "control": 128, "fill": 384}


def parts(part: str) -> dict[str, Any]:
    """The components of a part."""
    if part == "redux-prior":
        return _vision()
    channels, distilled = CHANNELS[part], part == "schnell"
    name = "transformer-schnell" if distilled else f"transformer-{channels}"
    return {
        "scheduler": scheduler(dynamic=not distilled),
        "transformer": seeded(name, lambda: _transformer(channels, guided=not distilled)),
        "vae": flux1_vae(),
        **_text(),
    }


def _transformer(channels: int, *, guided: bool) -> Any:
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
        guidance_embeds=guided,
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

    symbols = [chr(code) for code in byte_symbols()]
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
        "text_encoder": seeded("clip", lambda: CLIPTextModel(clip)),
        "text_encoder_2": seeded("t5", lambda: T5EncoderModel(t5)),
        "tokenizer": CLIPTokenizer(vocab=clip_words, merges=[], model_max_length=77),
        "tokenizer_2": T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512),
    }


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
        "image_encoder": seeded("siglip", lambda: SiglipVisionModel(vision)),
        "feature_extractor": SiglipImageProcessor(size={"height": 32, "width": 32}),
        "image_embedder": seeded(
            "redux", lambda: ReduxImageEncoder(redux_dim=HIDDEN, txt_in_features=HIDDEN)
        ),
    }
