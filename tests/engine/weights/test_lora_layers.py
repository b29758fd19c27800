"""A layer with changes gives what its changed weight would give, and several add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runner.engine.weights import lora_changes, lora_layers, loras
from tests.engine.lora_files import written
from tests.engine.lora_layouts import (
    FAMILIES,
    FIRST_NAMES,
    KOHYA,
    LAYOUTS,
    Form,
    Layout,
    alike,
    dora,
    expected,
    hadamard,
    kronecker,
    output,
    parts_of,
    pipe_for,
    plain_output,
    written_as,
)
from tests.engine.painting import painted, pipe_of, state_of


def test_a_control_lora_of_the_first_code_acts_with_its_biases_and_norms(tmp_path: Path) -> None:
    """As FLUX.1's makers publish theirs: all layers, a wider input layer, both norms."""
    import diffusers
    import torch

    whole = pipe_of("FluxPipeline")
    parts = {name: part for name, part in whole.components.items() if "image" not in name}
    parts.pop("feature_extractor")
    pipe = diffusers.FluxControlPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    transformer = whole.transformer
    made = torch.Generator().manual_seed(0)
    tensors, _ = written_as(LAYOUTS["first names"], "flux1")
    wide = torch.randn(4, 128, generator=made) / 10
    tensors["img_in.lora_A.weight"] = wide
    # The tensors that pipe_for's twin was changed by fit this twin, which has the same weights.
    biases = {}
    for key in [key for key in tensors if key.endswith("lora_B.weight")]:
        bias = torch.randn(len(tensors[key]), generator=made) / 10
        tensors[key.replace("weight", "bias")] = biases[key.removesuffix(".lora_B.weight")] = bias
    scale = torch.rand(16, generator=made) + 0.5
    tensors["double_blocks.0.img_attn.norm.query_norm.scale"] = scale
    tensors["single_blocks.0.norm.key_norm.scale"] = scale.clone()
    lora = written(tmp_path / "canny.safetensors", tensors)

    before = state_of(whole)
    assert loras.apply(pipe, [lora]) == ()
    x = torch.randn(3, 128, generator=made)
    for first, text in FIRST_NAMES["flux1"].items():
        names, swapped = parts_of(text)
        layers = [transformer.get_submodule(name) for name in names]
        inputs = (
            x
            if first == "img_in"
            else torch.randn(3, layers[0].base_layer.in_features, generator=made)
        )
        added = inputs @ tensors[f"{first}.lora_A.weight"].T @ tensors[f"{first}.lora_B.weight"].T
        added = added + biases[first]
        if swapped:
            added = torch.cat(added.chunk(2, -1)[::-1], -1)
        with torch.no_grad():
            got = torch.cat([layer(inputs) for layer in layers], -1)
            had = torch.cat(
                [layer.base_layer(inputs[:, : layer.base_layer.in_features]) for layer in layers],
                -1,
            )
        assert torch.allclose(got, had + added, atol=1e-4), first
    assert transformer.transformer_blocks[0].attn.norm_q.weight.equal(scale)
    assert transformer.single_transformer_blocks[0].attn.norm_k.weight.equal(scale)
    assert transformer.config.in_channels == 128
    styled = painted(pipe)
    loras.apply(pipe, [replace(lora, weight=0.5)])
    assert painted(pipe) != styled
    loras.remove(pipe)
    assert state_of(whole) == before


def test_a_biased_difference_is_added(tmp_path: Path) -> None:
    import torch

    pipe = pipe_for("flux1")
    plain = plain_output("flux1")
    layer = pipe.transformer.transformer_blocks[0].attn.to_k
    diff = torch.linspace(-1, 1, 32)
    place = "diffusion_model.double_blocks.0.img_attn.qkv.diff_b"
    lora = written(
        tmp_path / "bias.safetensors", {place: torch.cat([torch.zeros(32), diff, torch.zeros(32)])}
    )
    before = layer.bias.data
    layer.bias.data = before + diff
    wanted = output("flux1")
    layer.bias.data = before
    try:
        assert loras.apply(pipe, [lora]) == ()
        assert alike(output("flux1"), wanted) and not alike(wanted, plain)
    finally:
        loras.remove(pipe)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("forms", [(KOHYA, dora("dora_scale", 1, KOHYA)), (hadamard, kronecker(1))])
def test_loras_of_several_layouts_add_up_each_by_its_strength(
    family: str, forms: tuple[Form, Form], tmp_path: Path
) -> None:
    import torch

    pipe = pipe_for(family)
    one, two = (
        written_as(layout, family, seed)
        for seed, layout in enumerate(
            (
                Layout("lora_unet_", forms[0], first=True, underscores=True),
                Layout("transformer.", forms[1]),
            )
        )
    )
    before = dict(pipe.transformer.named_parameters())
    sums = {
        name: before[f"{name}.weight"].detach() * (1 - 0.5 + 0.25)
        + 0.5 * one[1][name]
        - 0.25 * two[1][name]
        for name in one[1]
    }
    wanted = expected(family, sums)
    files = [
        written(tmp_path / "one.safetensors", one[0], weight=0.5),
        written(tmp_path / "two.safetensors", two[0], weight=-0.25),
    ]
    try:
        assert loras.apply(pipe, files) == ()
        assert alike(output(family), wanted)
        layer = next(m for m in pipe.transformer.modules() if hasattr(m, "changes"))
        assert len(layer.changes) == 2
        assert not any(
            torch.is_grad_enabled() and p.requires_grad for p in layer.changes.parameters()
        )
    finally:
        loras.remove(pipe)


@pytest.mark.parametrize("shape", [(32, 1), (1, 32)], ids=["by output", "by input"])
def test_a_dora_that_changes_lengths_by_less_than_bfloat16_can_tell_from_1_still_acts(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q = torch.nn.Linear(32, 32)

    torch.manual_seed(3)
    module = Tiny().to(torch.bfloat16)
    weight = module.to_q.weight.detach().float()
    lengths = weight.norm(dim=1 if shape[1] == 1 else 0) * 1.001
    tensors = {
        "to_q.lora_A.weight": torch.ones(4, 32),
        "to_q.lora_B.weight": torch.zeros(32, 4),
        "to_q.dora_scale": lengths.reshape(shape),
    }
    lora = written(tmp_path / "ink.safetensors", tensors)
    found = lora_changes.fitting(lora.path, "ink", "transformer", module, list(tensors))
    for name, change in found.changes:
        lora_layers.put(module, name, change)
    x = torch.randn(1, 7, 32).to(torch.bfloat16)
    layer = module.to_q.base_layer  # type: ignore[union-attr]
    (change,) = module.to_q.changes  # type: ignore[union-attr]
    with torch.no_grad():
        added = change(x, layer(x), layer).float()
    wanted = 0.001 * (x.float() @ weight.T)
    assert (added - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_lora_paints_the_pixels_that_diffusers_and_peft_paint(
    family: str, dtype: str, tmp_path: Path
) -> None:
    import torch

    pipe = pipe_of(FAMILIES[family]).to(getattr(torch, dtype))
    tensors, _ = written_as(LAYOUTS["diffusers"], family)
    lora = written(tmp_path / "ink.safetensors", tensors, weight=0.8)
    plain = painted(pipe)
    loras.apply(pipe, [lora])
    ours = painted(pipe)
    loras.remove(pipe)
    pipe.load_lora_weights(str(tmp_path), weight_name="ink.safetensors", adapter_name="ink")
    pipe.set_adapters(["ink"], [0.8])
    assert painted(pipe) == ours != plain
