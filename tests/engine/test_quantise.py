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

from runner.engine.weights import fp8, quantise
from runner.engine.weights import published as source
from runner.errors import JobFailed, ModelMissing
from tests import random_twin
from tests.engine.painting import painted, pipe_of
from tests.twins.pieces import seeded

FAMILIES = {"FluxPipeline": "text2img", "Flux2KleinPipeline": "flux2", "ZImagePipeline": "zimage"}


@pytest.fixture
def cpu() -> Any:
    import torch

    return torch.device("cpu")


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers refuses bitsandbytes where no GPU is, although it computes on a CPU as well."""
    from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer

    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *a, **k: None)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX.1 transformer as it is published: in bf16, with sides that bitsandbytes can pack."""
    import torch
    from diffusers import FluxTransformer2DModel

    def make() -> Any:
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=128,
            pooled_projection_dim=128,
            axes_dims_rope=(8, 12, 12),
            guidance_embeds=True,
        ).to(torch.bfloat16)

    folder = tmp_path_factory.mktemp("published") / "transformer"
    seeded("quantised", make).save_pretrained(folder)
    return folder


def load(folder: Path, precision: str, store: Path, **others: Any) -> Any:
    import torch
    from diffusers import FluxTransformer2DModel

    return quantise.load_transformer(
        FluxTransformer2DModel, folder, precision, torch.device("cpu"), store, **others
    )


def published(folder: Path) -> Any:
    import torch
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel.from_pretrained(folder, dtype=torch.bfloat16)


def forward(model: Any) -> Any:
    """What a transformer makes of fixed numbers."""
    import torch

    def drawn(*shape: int) -> Any:
        numbers = torch.Generator().manual_seed(sum(shape))
        return torch.randn(shape, generator=numbers).to(torch.bfloat16)

    wide = model.config.joint_attention_dim
    with torch.no_grad():
        return model(
            hidden_states=drawn(1, 16, 64),
            encoder_hidden_states=drawn(1, 8, wide),
            pooled_projections=drawn(1, wide),
            timestep=torch.tensor([0.5], dtype=torch.bfloat16),
            img_ids=torch.zeros(16, 3),
            txt_ids=torch.zeros(8, 3),
            guidance=torch.tensor([3.5], dtype=torch.bfloat16),
        )[0].float()


def far(made: Any, right: Any) -> float:
    return float((made - right).norm() / right.norm())


def kept_in(store: Path) -> list[Path]:
    return sorted(each for each in store.iterdir() if not each.name.startswith("."))


def never(*given: Any, **named: Any) -> Iterator[Any]:
    raise AssertionError("the published weights were read again")


@pytest.mark.parametrize("name", FAMILIES)
def test_fp8_gives_the_same_pixels_on_the_first_start_and_on_the_second(
    name: str, data: Path, tmp_path: Path, cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    folder = random_twin.folder(FAMILIES[name], data)
    pipe = pipe_of(name)
    cls = type(pipe.transformer)
    pipe = type(pipe).from_pretrained(folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    pictures = [painted(pipe)]
    for _ in range(2):
        pipe.transformer = quantise.load_transformer(
            cls, folder / "transformer", "fp8", cpu, tmp_path / "store"
        )
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


def test_fp8_of_weights_beyond_its_range_is_its_largest_number(cpu: Any) -> None:
    import torch

    tensors = [("a.weight", torch.tensor([[1e4, -1e4, 0.5]])), ("a.bias", torch.tensor([1e4]))]
    made = dict(fp8.cast(tensors, ["a"]))
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


@pytest.mark.parametrize("precision", ["fp8", "nf4"])
@pytest.mark.usefixtures("without_gpu")
def test_a_folder_that_cannot_be_read_is_made_again(
    precision: str, transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = forward(load(transformer, precision, tmp_path))
    (folder,) = kept_in(tmp_path)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(b"\0" * file.stat().st_size)
    # As if the disk had lost it after the label was written, so that only reading finds it out.
    monkeypatch.setattr(quantise.Kept, "is_whole", lambda kept: kept.folder.is_dir())
    assert (forward(load(transformer, precision, tmp_path)) == right).all()
    assert file.read_bytes()[:8] != b"\0" * 8


def test_a_device_that_is_full_says_nothing_about_the_folder(
    transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    load(transformer, "fp8", tmp_path)
    (folder,) = kept_in(tmp_path)
    before = {each: each.stat().st_mtime_ns for each in folder.iterdir()}

    def full(*given: Any, **named: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(safetensors.torch, "load_file", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        load(transformer, "fp8", tmp_path)
    assert {each: each.stat().st_mtime_ns for each in folder.iterdir()} == before


@pytest.mark.parametrize("precision", ["fp8", "nf4"])
@pytest.mark.usefixtures("without_gpu")
def test_without_room_on_the_disk_the_weights_are_the_same_but_not_kept(
    precision: str, transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = forward(load(transformer, precision, tmp_path / "room"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    assert (forward(load(transformer, precision, tmp_path / "none")) == right).all()
    assert kept_in(tmp_path / "none") == []


def test_a_disk_that_fills_up_is_no_reason_to_fail(
    transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    def full(*given: Any, **named: Any) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    assert forward(load(transformer, "fp8", tmp_path)).isfinite().all()
    assert kept_in(tmp_path) == []


@pytest.mark.usefixtures("without_gpu")
def test_weights_that_were_published_quantised_are_taken_as_they_are(
    transformer: Path, tmp_path: Path
) -> None:
    right = forward(load(transformer, "nf4", tmp_path / "store"))
    (folder,) = kept_in(tmp_path / "store")
    assert quantise.is_stored(folder) and not quantise.is_stored(transformer)
    assert (forward(load(folder, "stored", tmp_path / "none")) == right).all()
    assert not (tmp_path / "none").exists()
    with pytest.raises(JobFailed, match="published quantised, not for fp8"):
        load(folder, "fp8", tmp_path / "none")


def test_a_gguf_file_is_computed_with_as_it_is(transformer: Path, tmp_path: Path) -> None:
    file = gguf(published(transformer), tmp_path / "mine-Q8_0.gguf")
    model = load(transformer, "gguf", tmp_path / "store", single=file)
    assert model.transformer_blocks[0].attn.to_q.weight.quant_type is not None
    assert far(forward(model), forward(published(transformer))) < 0.05
    assert not (tmp_path / "store").exists()
    with pytest.raises(ModelMissing, match=r"gone\.gguf is not on this machine"):
        load(transformer, "gguf", tmp_path, single=tmp_path / "gone.gguf")


def gguf(model: Any, file: Path) -> Path:
    """A real GGUF file in Q8_0; the names are diffusers' own, because this model is too small
    for FLUX's original ones."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    writer = GGUFWriter(file, "flux")
    for name, tensor in model.state_dict().items():
        numbers = tensor.float().numpy()
        if numbers.ndim == 2 and "blocks." in name:
            quantised = quantize(numbers, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, quantised, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("precision", ["fp8", "nf4"])
@pytest.mark.usefixtures("without_gpu")
def test_a_transformer_in_one_file_is_quantised_like_one_in_a_folder(
    precision: str, transformer: Path, tmp_path: Path
) -> None:
    right = forward(load(transformer, precision, tmp_path / "folder"))
    single = tmp_path / "mine.safetensors"
    shutil.copy(next(transformer.glob("*.safetensors")), single)
    for _ in range(2):
        made = load(transformer, precision, tmp_path / "single", single=single)
        assert (forward(made) == right).all()
    assert len(kept_in(tmp_path / "single")) == 1


def test_published_in_shards_or_beside_variants_the_weights_are_the_same(
    transformer: Path, tmp_path: Path
) -> None:
    right = forward(load(transformer, "fp8", tmp_path / "a"))
    published(transformer).save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    shutil.copytree(transformer, tmp_path / "variants")
    variant = tmp_path / "variants" / "diffusion_pytorch_model.fp16.safetensors"
    variant.write_bytes(b"another format")
    for folder in ("shards", "variants"):
        assert (forward(load(tmp_path / folder, "fp8", tmp_path / "b")) == right).all()


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
            T5EncoderModel, tmp_path / "published", "nf4", cpu, tmp_path / "store"
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


def test_layers_of_a_lora_stay_in_bf16_beside_fp8_and_leave_no_trace(
    transformer: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig

    model = load(transformer, "fp8", tmp_path)
    before = forward(model)
    settings = LoraConfig(r=4, target_modules=["to_q", "proj_mlp"], init_lora_weights=False)
    with fp8.adapters_in_bf16(model):
        model.add_adapter(settings)
    dtypes = {each.dtype for name, each in model.named_parameters() if "lora" in name}
    assert torch.float8_e4m3fn not in dtypes
    assert not (forward(model) == before).all()
    model.unload_lora()
    assert (forward(model) == before).all()


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
            FluxTransformer2DModel, transformer, "nf4", torch.device("cuda"), tmp_path
        )
        for _ in range(2)
    )
    for (name, one), (_, other) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
