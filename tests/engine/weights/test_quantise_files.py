"""The files around quantised weights: published in every form, kept or without room, damaged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.engine.weights import checkpoints, quantise
from tests.engine.quantising import far, forward, kept_in, load, published


@pytest.mark.parametrize("precision", ["fp8", "int8", "nf4"])
@pytest.mark.usefixtures("without_gpu")
def test_a_folder_that_cannot_be_read_is_made_again(
    precision: str, transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = forward(load(transformer, precision, tmp_path))
    (folder,) = kept_in(tmp_path)
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(b"\0" * file.stat().st_size)
    # As if the disk had lost it after the label was written, so that only reading finds it out.
    monkeypatch.setattr(quantise.KeptFolder, "is_whole", lambda kept: kept.folder.is_dir())
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


@pytest.mark.parametrize("precision", ["fp8", "int8", "nf4"])
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
    assert checkpoints.is_stored(folder) and not checkpoints.is_stored(transformer)
    assert (forward(load(folder, "stored", tmp_path / "none")) == right).all()
    assert not (tmp_path / "none").exists()


def test_a_gguf_file_is_computed_with_as_it_is(transformer: Path, tmp_path: Path) -> None:
    file = gguf(published(transformer), tmp_path / "mine-Q8_0.gguf")
    model = load(transformer, "gguf", tmp_path / "store", single=file)
    assert model.transformer_blocks[0].attn.to_q.weight.quant_type is not None
    assert far(forward(model), forward(published(transformer))) < 0.05
    assert not (tmp_path / "store").exists()


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


@pytest.mark.parametrize("precision", ["fp8", "int8", "nf4"])
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
