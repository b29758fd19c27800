"""Every tensor of what was published is accounted for: loaded as it is meant, or named."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.engine.weights import checkpoints
from runner.engine.weights.assembly import _load
from runner.errors import ModelMissing
from tests import random_twin
from tests.engine.quantising import load
from tests.engine.weight_files import gguf, original, scaled

PARTS = ("flux2", "flux3", "zimage")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A transformer of a family, and the folder that it was published in."""
    data = tmp_path_factory.mktemp("published")

    def of(part: str) -> tuple[Any, Path]:
        return random_twin.build(part).transformer, random_twin.folder(part, data) / "transformer"

    return of


def saved(file: Path, state: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


@pytest.mark.parametrize(
    "prefix", ["", "model.diffusion_model.", "diffusion_model.", "transformer."]
)
@pytest.mark.parametrize("names", [original, lambda model: model.state_dict()], ids=["own", "ours"])
@pytest.mark.parametrize("part", PARTS)
def test_a_single_file_is_loaded_whole_under_every_prefix_and_beside_other_parts(
    published: Any, tmp_path: Path, part: str, names: Any, prefix: str
) -> None:
    import torch

    model, folder = published(part)
    state = {prefix + name: tensor for name, tensor in names(model).items()}
    if prefix:
        state["vae.decoder.conv_in.weight"] = torch.zeros(2)
    file = saved(tmp_path / "it.safetensors", state)
    made = checkpoints.from_single(type(model), folder, file, torch.float32)
    assert not made.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(made.state_dict()[name], tensor), name


@pytest.mark.parametrize("by_row", [False, True], ids=["tensor", "row"])
@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("part", PARTS)
def test_the_scales_of_an_fp8_file_are_applied(
    published: Any, tmp_path: Path, part: str, ending: str, by_row: bool
) -> None:
    import torch

    model, folder = published(part)
    state = scaled(original(model), ending, by_row=by_row)
    file = saved(tmp_path / "it.safetensors", state)
    made = checkpoints.from_single(type(model), folder, file, torch.bfloat16).state_dict()
    kept = load(folder, "fp8", tmp_path / "store", file, type(model)).state_dict()
    for name, right in model.state_dict().items():
        assert (made[name].float() - right).norm() <= 0.04 * right.norm(), name
        assert (kept[name].float() - right).norm() <= 0.06 * right.norm(), name


@pytest.mark.parametrize("part", PARTS)
def test_the_weights_of_an_fp8_file_are_unpacked_one_after_the_other(
    published: Any, tmp_path: Path, part: str
) -> None:
    """Seen red: all of them were in bf16 at once, twice the size of the file."""
    import torch

    model, folder = published(part)
    file = saved(tmp_path / "it.safetensors", scaled(original(model), "scale_weight", by_row=True))
    before: list[weakref.ref[Any]] = []
    for name, tensor in checkpoints.tensors(type(model), folder, file):
        is_exact = name in checkpoints.in_float32(model)
        assert tensor.dtype == (torch.float32 if is_exact else torch.bfloat16)
        assert not any(each() is not None for each in before), name
        before.append(weakref.ref(tensor))
        del tensor
    assert len(before) == len(model.state_dict())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("write", [saved, gguf], ids=["safetensors", "gguf"])
def test_tensors_that_a_file_lacks_or_that_would_be_left_out_are_counted_and_named(
    published: Any, tmp_path: Path, part: str, write: Any
) -> None:
    import torch

    model, folder = published(part)
    state = dict(model.state_dict())
    lost = [name for name in state if name.endswith("norm_q.weight")]
    for name in lost:
        del state[name]
    state["blocks.9.extra.weight"] = torch.zeros(3)
    (first, *_) = state
    state[first] = torch.zeros(7, 7)
    if write is gguf:
        file = gguf(tmp_path / "it.gguf", {name: tuple(each.shape) for name, each in state.items()})
    else:
        file = saved(tmp_path / "it.safetensors", state)
    for precision in ("gguf",) if write is gguf else ("fp8", "nf4"):
        with pytest.raises(ModelMissing) as told:
            load(folder, precision, tmp_path / "store", file, type(model))
        sentence = str(told.value)
        assert sentence.startswith(f"{file.name} does not fit the model that it is for: ")
        assert f"{len(lost)} of its tensors are missing, like {min(lost)}" in sentence
        assert "1 of its tensors would be left out, like blocks.9.extra.weight" in sentence
        assert f"1 of its tensors have another shape, like {first}" in sentence


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The folder with its weights changed."""
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    change(state)
    return saved(file, state)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("harm", ["lost", "scales", "reshaped"])
def test_a_folder_whose_weights_would_be_made_up_or_left_out_is_refused(
    tmp_path: Path, part: str, harm: str
) -> None:
    import torch

    folder = random_twin.folder("flux2", tmp_path)

    def change(state: dict[str, Any]) -> None:
        name = max(each for each in state if each.endswith(".weight"))
        if harm == "lost":
            del state[name]
        elif harm == "scales":
            state[f"{name}_scale"] = torch.ones(())
        else:
            state[name] = torch.zeros(3, 5)

    changed(folder / part, change)
    with pytest.raises(ModelMissing, match=f"{part} does not fit the model that it is for: 1 of"):
        _load("Flux2KleinPipeline", folder, "fp32", {})


def test_parts_that_a_text_encoder_does_without_are_no_fault(tmp_path: Path) -> None:
    import torch

    folder = random_twin.folder("zimage", tmp_path)
    changed(folder / "text_encoder", lambda state: state.update({"lm_head.weight": torch.ones(2)}))
    assert _load("ZImagePipeline", folder, "fp32", {}).text_encoder is not None


def test_text_encoders_in_the_names_of_older_versions_are_no_fault(tmp_path: Path) -> None:
    import torch

    folder = random_twin.folder("text2img", tmp_path)

    def older_clip(state: dict[str, Any]) -> None:
        for name in list(state):
            state[f"text_model.{name.removeprefix('text_model.')}"] = state.pop(name)
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    def older_t5(state: dict[str, Any]) -> None:
        state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()
        state["decoder.block.0.layer.0.SelfAttention.q.weight"] = torch.zeros(2)

    changed(folder / "text_encoder", older_clip)
    changed(folder / "text_encoder_2", older_t5)
    assert _load("FluxPipeline", folder, "fp32", {}).text_encoder_2 is not None


def test_a_folder_of_fp8_weights_with_scales_is_refused_in_fp8_too(tmp_path: Path) -> None:
    import torch

    folder = random_twin.folder("flux2", tmp_path) / "transformer"
    model = random_twin.build("flux2").transformer
    changed(folder, lambda state: state.update({"proj_out.weight_scale": torch.ones(())}))
    with pytest.raises(ModelMissing, match="1 of its tensors would be left out, like proj_out"):
        load(folder, "fp8", tmp_path / "store", cls=type(model))


def test_a_configuration_of_another_size_than_the_weights_is_refused(tmp_path: Path) -> None:
    folder = random_twin.folder("flux2", tmp_path) / "transformer"
    model = random_twin.build("flux2").transformer
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_layers": 2}), encoding="utf-8")
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(ModelMissing, match="of its tensors are missing, like transformer_blocks.1"):
        load(folder, "fp8", tmp_path / "store", cls=type(model))
