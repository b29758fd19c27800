"""Every layout that tools write paints what the same change of the weights paints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.weights import loras
from runner.engine.weights.lora_places import places
from runner.lora_names import plain
from tests.engine.lora_files import written
from tests.engine.lora_layouts import (
    KOHYA,
    LAYOUTS,
    alike,
    expected,
    output,
    pipe_for,
    plain_output,
    written_as,
)
from tests.engine.painting import state_of


@pytest.mark.parametrize(
    ("layout", "family"),
    [(name, family) for name, layout in LAYOUTS.items() for family in layout.families],
)
def test_each_layout_paints_what_the_same_change_of_the_weights_paints(
    layout: str, family: str, tmp_path: Path
) -> None:
    pipe, plain = pipe_for(family), plain_output(family)
    tensors, changed = written_as(LAYOUTS[layout], family)
    before, wanted = state_of(pipe), expected(family, changed)
    assert not alike(wanted, plain)
    lora = written(tmp_path / "ink.safetensors", tensors)
    try:
        assert loras.apply(pipe, [lora]) == ()
        assert alike(output(family), wanted)
        loras.apply(pipe, [replace(lora, weight=0.0)])
        assert output(family).equal(plain)
    finally:
        loras.remove(pipe)
    assert state_of(pipe) == before


TEXT = {
    "kohya": ("lora_te1_text_model_", "lora_te3_", True),
    "OneTrainer": ("lora_te1_text_model_", "lora_te2_", True),
    "diffusers": ("text_encoder.text_model.", "text_encoder_2.", False),
    "ComfyUI": ("text_encoders.clip_l.transformer.text_model.", "text_encoders.t5xxl.", False),
    "without the outer module": ("clip_l.", "t5xxl.transformer.", False),
}


@pytest.mark.parametrize("layout", TEXT)
def test_both_text_encoders_of_flux1_take_their_part_in_each_layout(
    layout: str, tmp_path: Path
) -> None:
    """Seen red: T5's part was dropped, and CLIP's wherever transformers has no `text_model`."""
    pipe = pipe_for("flux1")
    clip, t5, underscores = TEXT[layout]
    for part, prefix, ends in (
        ("text_encoder", clip, ("q_proj", "fc1")),
        ("text_encoder_2", t5, (".q", "wi_0", "wo")),
    ):
        tensors, changed = text_of(getattr(pipe, part), prefix, ends, underscores)
        plain, wanted = embedded(pipe), with_weights(pipe, part, changed)
        assert max(far(one, other) for one, other in zip(plain, wanted, strict=True)) > 0.01
        lora = written(tmp_path / f"{part}.safetensors", tensors)
        assert loras.text_mark([lora]) != ""
        try:
            assert loras.apply(pipe, [lora]) == ()
            made = embedded(pipe)
        finally:
            loras.remove(pipe)
        assert all(alike(one, other) for one, other in zip(made, wanted, strict=True))
        assert all(one.equal(other) for one, other in zip(embedded(pipe), plain, strict=True))


@pytest.mark.parametrize("family", ["klein", "zimage"])
@pytest.mark.parametrize("prefix", ["lora_te_", "text_encoders.qwen3_4b.transformer.model."])
def test_a_qwen_takes_its_part(family: str, prefix: str, tmp_path: Path) -> None:
    module = pipe_for(family).text_encoder
    tensors, changed = text_of(module, prefix, ("q_proj",), prefix.endswith("_"))
    lora = written(tmp_path / "qwen.safetensors", tensors)
    try:
        assert loras.apply(pipe_for(family), [lora]) == ()
        acting = {
            name.removesuffix(".base_layer")
            for name, _ in module.named_modules()
            if name.endswith(".base_layer")
        }
        assert acting == changed.keys()
    finally:
        loras.remove(pipe_for(family))


def text_of(
    module: Any, prefix: str, ends: tuple[str, ...], underscores: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    import torch

    made, tensors, changed = torch.Generator().manual_seed(0), {}, {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(ends):
            short = name.removeprefix("text_model.")
            pieces, changed[name] = KOHYA(layer.weight.detach(), made)
            place = prefix + (short.replace(".", "_") if underscores else short)
            tensors |= {f"{place}.{piece}": tensor for piece, tensor in pieces.items()}
    return tensors, changed


def embedded(pipe: Any) -> list[Any]:
    import torch

    with torch.no_grad():
        return list(pipe.encode_prompt("a fox", None, max_sequence_length=32)[:2])


def with_weights(pipe: Any, part: str, changed: Mapping[str, Any]) -> list[Any]:
    module = getattr(pipe, part)
    before = {name: module.get_submodule(name).weight.data for name in changed}
    try:
        for name, weight in changed.items():
            module.get_submodule(name).weight.data = weight
        return embedded(pipe)
    finally:
        for name, weight in before.items():
            module.get_submodule(name).weight.data = weight


def far(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize(
    ("cls", "converter"),
    [
        ("FluxTransformer2DModel", "_convert_kohya_flux_lora_to_diffusers"),
        ("Flux2Transformer2DModel", "_convert_kohya_flux2_lora_to_diffusers"),
        ("ZImageTransformer2DModel", "_convert_non_diffusers_z_image_lora_to_diffusers"),
    ],
)
def test_the_layers_are_those_that_diffusers_converters_give_at_the_models_own_sizes(
    cls: str, converter: str
) -> None:
    """Of the blocks: outside them its converters forget some, and that halves are swapped."""
    import diffusers
    import torch
    from diffusers.loaders import lora_conversion_utils

    few = {"n_layers": 1} if "ZImage" in cls else {"num_layers": 1, "num_single_layers": 1}
    with torch.device("meta"):
        model = getattr(diffusers, cls)(**few)
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "in_features")}
    heads = ("double_blocks_0", "single_blocks_0", "layers_0_attention_to", "layers_0_feed")
    tensors, ours = {}, {}
    for name, (own, _) in places(layers).items():
        if name.startswith(heads) and not re.search("processor|_[qkv]_proj$|_attn_out$", name):
            rows = [layers[each].out_features for each in own]
            down, up = torch.rand(1, layers[own[0]].in_features), torch.rand(sum(rows), 1)
            tensors[f"lora_unet_{name}.lora_down.weight"] = down
            tensors[f"lora_unet_{name}.lora_up.weight"] = up
            tensors[f"lora_unet_{name}.alpha"] = torch.tensor(0.5)
            for each, part in zip(own, up.split(rows), strict=True):
                ours[f"transformer.{each}"] = part * 0.5 @ down[:, :9]
    theirs = getattr(lora_conversion_utils, converter)(tensors)
    assert {key.rpartition(".lora_")[0] for key in theirs} == ours.keys() != set()
    for name, change in ours.items():
        down, up = theirs[f"{name}.lora_A.weight"], theirs[f"{name}.lora_B.weight"]
        assert torch.allclose(up @ down[:, :9], change), name


def test_the_layers_of_flux3_are_those_that_diffusers_gives_the_names_of_its_first_code() -> None:
    """Every layer that has weights, by the converter of whole files: that of LoRAs forgets some."""
    import diffusers
    import torch
    from diffusers.loaders.single_file_utils import (
        convert_flux3_transformer_checkpoint_to_diffusers,
    )

    modes, streams = ("image", "image_cond", "txt"), ("early", "single")
    blocks = [f"content_mode_blocks.{mode}" for mode in modes[:2]]
    blocks += ["txt_mode_blocks", "single_blocks"]
    inside = ("q_proj", "k_proj", "v_proj", "attn_out", "mlp_in", "mlp_out")
    first = [f"{block}.0.{layer}" for block in blocks for layer in inside]
    first += [f"{stream}_stream_modulations.{mode}.lin" for stream in streams for mode in modes]
    first += [
        f"{time}.{side}_layer" for time in ("time_in", "ref_time_in") for side in ("in", "out")
    ]
    first += ["emb_in.image", "emb_in.image_cond", "txt_in", "final_layer.image.linear"]
    first += ["final_layer.image.adaLN_modulation.1"]
    with torch.device("meta"):
        model = diffusers.Flux3Transformer2DModel(flow_map=True, num_layers=1, num_single_layers=1)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    known, named = places(layers), {}
    for name in first:
        halves = torch.tensor([[1.0], [2.0]])
        converted = convert_flux3_transformer_checkpoint_to_diffusers({f"{name}.weight": halves})
        ((own, tensor),) = converted.items()
        named[name] = ((own.removesuffix(".weight"),), not tensor.equal(halves))
    assert {own for (own,), _ in named.values()} == layers.keys()
    assert {name: known[plain(name)] for name in first} == named
