"""Quantised weights: kept, the same on every start, and close to what was published.

NF4 is bitsandbytes' own, on the CPU: only the check of diffusers' that asks for a GPU is taken out
of its way, so every number here is a real one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.engine.weights import checkpoints as source
from runner.engine.weights import fp8, quantise
from runner.engine.weights.assembly import _load
from tests import random_twin
from tests.engine.painting import SERVED, painted, pipe_of
from tests.engine.quantising import far, forward, kept_in, load, published
from tests.twins.pieces import seeded

FAMILIES = {model.family: name for name, (model, _) in SERVED.items()}
"""The families, each with the pipeline class of its first model."""


def never(*given: Any, **named: Any) -> Iterator[Any]:
    raise AssertionError("the published weights were read again")


@pytest.mark.parametrize("precision", ["fp8", "int8"])
@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_eight_bits_give_the_same_pixels_on_the_first_start_and_on_the_second(
    name: str,
    precision: str,
    data: Path,
    tmp_path: Path,
    cpu: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = random_twin.folder(random_twin.part_of(name), data)
    cls = type(pipe_of(name).transformer)
    pipe = _load(name, folder, "bf16", {})
    pictures = [painted(pipe)]
    for _ in range(2):
        pipe.transformer = load(folder / "transformer", precision, tmp_path / "store", cls=cls)
        pictures.append(painted(pipe))
        monkeypatch.setattr(source, "tensors", never)
    plain, first, second = pictures
    assert first == second != plain


def test_fp8_holds_the_matrices_of_the_blocks_and_nothing_else(
    transformer: Path, tmp_path: Path
) -> None:
    import torch

    model = load(transformer, "fp8", tmp_path)
    held = {name for name, each in model.named_parameters() if each.dtype == torch.float8_e4m3fn}
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16, torch.float8_e4m3fn}
    assert held == {f"{name}.weight" for name in fp8.matrices(model)}
    assert "transformer_blocks.0.norm1.linear.weight" in held, "a quarter of FLUX is modulation"
    assert not any(name.startswith(("x_embedder", "proj_out", "time_text")) for name in held)
    assert model.dtype == torch.bfloat16
    assert 0 < far(forward(model), forward(published(transformer))) < 0.05
    assert not any(each.requires_grad for each in model.parameters()) and not model.training


def test_what_a_model_keeps_in_float32_is_so_in_eight_bits_and_from_a_single_file(
    data: Path, tmp_path: Path, cpu: Any
) -> None:
    """Else torch leaves its fused norm, and says so with a warning."""
    import torch
    from diffusers import Flux3Transformer2DModel

    folder = random_twin.folder("flux3", data) / "transformer"
    file = tmp_path / "one.safetensors"
    shutil.copy(folder / "diffusion_pytorch_model.safetensors", file)
    for made in (
        load(folder, "fp8", tmp_path / "a", cls=Flux3Transformer2DModel),
        load(folder, "fp8", tmp_path / "b", cls=Flux3Transformer2DModel, single=file),
        load(folder, "int8", tmp_path / "e", cls=Flux3Transformer2DModel),
        load(folder, "bf16", tmp_path / "c", cls=Flux3Transformer2DModel, single=file),
        load(folder, "bf16", tmp_path / "d", cls=Flux3Transformer2DModel),
    ):
        norms = {name for name, each in made.named_parameters() if each.dtype == torch.float32}
        assert norms == source.in_float32(made) and len(norms) == 8


def test_fp8_of_weights_beyond_its_range_is_its_largest_number(cpu: Any) -> None:
    import torch

    tensors = [("a.weight", torch.tensor([[1e4, -1e4, 0.5]])), ("a.bias", torch.tensor([1e4]))]
    made = dict(fp8.cast(tensors, ["a"], (), fp8.rounded))
    assert made["a.weight"].float().tolist() == [[448.0, -448.0, 0.5]]
    assert made["a.bias"].dtype == torch.bfloat16


@pytest.mark.usefixtures("without_gpu")
def test_nf4_is_quantised_once_and_gives_the_same_numbers_from_the_disk(
    transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(transformer, "nf4", tmp_path)
    right, made = forward(published(transformer)), forward(first)
    (folder,) = kept_in(tmp_path)
    assert folder.name.endswith("-nf4")
    read: list[Path] = []
    from_folder = quantise._from_folder
    monkeypatch.setattr(
        quantise, "_from_folder", lambda *given: read.append(given[1]) or from_folder(*given)
    )
    second = load(transformer, "nf4", tmp_path)
    assert read == [folder]
    assert far(made, right) < 0.2
    assert (forward(second) == made).all()


@pytest.mark.usefixtures("without_gpu")
def test_nf4_holds_every_matrix_of_the_blocks_in_four_bits(
    transformer: Path, tmp_path: Path
) -> None:
    model = load(transformer, "nf4", tmp_path)
    four_bits = {
        name for name, each in model.named_modules() if type(each).__name__ == "Linear4bit"
    }
    assert "single_transformer_blocks.0.proj_out" in four_bits, "it is named like the last layer"
    assert four_bits == {*fp8.matrices(published(transformer)), "proj_out"}
    assert type(model.x_embedder).__name__ == "Linear"


def test_a_large_text_encoder_is_quantised_and_kept_and_a_small_one_left_alone(
    tmp_path: Path, cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import T5Config, T5EncoderModel

    settings = T5Config(
        vocab_size=64, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    seeded("t5", lambda: T5EncoderModel(settings)).to(torch.bfloat16).save_pretrained(
        tmp_path / "published"
    )

    def encoded() -> tuple[Any, Any]:
        model = quantise.load_text_encoder(
            T5EncoderModel, tmp_path / "published", "nf4", cpu, tmp_path / "store", "a" * 64
        )
        with torch.no_grad():
            return model, model(torch.arange(16)[None]).last_hidden_state.float()

    plain, right = encoded()
    assert type(plain.encoder.block[0].layer[0].SelfAttention.q).__name__ == "Linear"
    assert plain.dtype == torch.bfloat16 and not (tmp_path / "store").exists()
    monkeypatch.setattr(quantise, "_SMALL_ENCODER", 0)
    first, made = encoded()
    _, again = encoded()
    assert type(first.encoder.block[0].layer[0].SelfAttention.q).__name__ == "Linear4bit"
    assert first.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.bfloat16
    assert 0 < far(made, right) < 0.3
    assert (made == again).all() and len(kept_in(tmp_path / "store")) == 1


def test_fp8_weights_can_be_streamed(transformer: Path, tmp_path: Path, cpu: Any) -> None:
    model = load(transformer, "fp8", tmp_path)
    before = forward(model)
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    assert (forward(model) == before).all()


@pytest.mark.gpu
def test_nf4_on_a_gpu_is_quantised_once_and_gives_the_same_pixels(
    transformer: Path, tmp_path: Path
) -> None:
    import torch
    from diffusers import FluxTransformer2DModel

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU: elsewhere diffusers refuses what the tests above let by")
    first, second = (
        quantise.load_transformer(
            FluxTransformer2DModel, transformer, "nf4", torch.device("cuda"), tmp_path, "a" * 64
        )
        for _ in range(2)
    )
    for (name, one), (_, other) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
