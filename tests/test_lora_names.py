"""The part, the layer and the piece that a tensor's name says, whatever tool wrote it."""

from __future__ import annotations

import pytest

from runner.errors import InputBad
from runner.lora_names import check, part_of, piece_of


@pytest.mark.parametrize(
    ("key", "part", "layer", "piece"),
    [
        ("transformer.a.0.to_q.lora_A.weight", "transformer", "a_0_to_q", "down"),
        ("a.0.to_q.lora_B.weight", "transformer", "a_0_to_q", "up"),
        ("base_model.model.a.lora_A.style.weight", "transformer", "a", "down"),
        ("base_model.model.a.lora_B.default.bias", "transformer", "a", "bias"),
        ("model.diffusion_model.a.b.lora_up.weight", "transformer", "a_b", "up"),
        ("diffusion_model.a.b.lora_up.bias", "transformer", "a_b", "bias"),
        ("lora_unet_a_b.lora_down.weight", "transformer", "a_b", "down"),
        ("lora_transformer_a_b.alpha", "transformer", "a_b", "alpha"),
        ("lycoris_a_b.lokr_w2_a", "transformer", "a_b", "lokr_w2_a"),
        ("transformer.a.lora.down.weight", "transformer", "a", "down"),
        ("a.lora_linear_layer.up.weight", "transformer", "a", "up"),
        ("a.processor.qkv_lora1.down.weight", "transformer", "a_processor_qkv_lora1", "down"),
        ("a.dora_scale", "transformer", "a", "dora"),
        ("a.lora_magnitude_vector", "transformer", "a", "dora"),
        ("a.lora_magnitude_vector.default.weight", "transformer", "a", "dora"),
        ("a.hada_w2_b", "transformer", "a", "hada_w2_b"),
        ("a.diff_b", "transformer", "a", "diff_b"),
        ("a.norm_added_k.weight", "transformer", "a_norm_added_k", "value"),
        ("a.norm.query_norm.scale", "transformer", "a_norm_query_norm", "value"),
        ("lora_unet_lora_unet_a.alpha", "transformer", "lora_unet_a", "alpha"),
        ("a" * 494 + ".alpha", "transformer", "a" * 494, "alpha"),
        ("lora_te_a_b.lora_up.weight", "text_encoder", "a_b", "up"),
        ("lora_te1_a_b.lora_up.weight", "text_encoder", "a_b", "up"),
        ("text_encoder.a.b.lora_A.weight", "text_encoder", "a_b", "down"),
        ("text_encoders.clip_l.transformer.a.lora_up.weight", "text_encoder", "a", "up"),
        ("text_encoders.qwen3_4b.a.lora_up.weight", "text_encoder", "a", "up"),
        ("lora_te2_a_b.alpha", "text_encoder_2", "a_b", "alpha"),
        ("lora_te3_a_b.alpha", "text_encoder_2", "a_b", "alpha"),
        ("t5xxl.transformer.a.lora_up.weight", "text_encoder_2", "a", "up"),
        ("text_encoder_2.a.lora_B.weight", "text_encoder_2", "a", "up"),
    ],
)
def test_a_name_says_part_layer_and_piece(key: str, part: str, layer: str, piece: str) -> None:
    assert part_of(key) == part
    assert piece_of(key) == (layer, piece)


@pytest.mark.parametrize(
    "key",
    ["a.weight", "lora_A.weight", "a.lora_A", "a.lora_C.weight", "a.lokr_w3", "a.to_q.scale", ""]
    + ["a" * 495 + ".alpha"],
)
def test_another_name_says_nothing(key: str) -> None:
    assert piece_of(key) is None
    with pytest.raises(InputBad, match="ink holds no LoRA: it may be a whole model"):
        check([key], "ink")


def test_one_tensor_of_a_lora_is_enough_and_norms_alone_are_not() -> None:
    check(["a.weight", "a.lora_A.weight"], "ink")
    with pytest.raises(InputBad, match="holds no LoRA"):
        check(["a.norm_q.weight", "a.weight"], "ink")
