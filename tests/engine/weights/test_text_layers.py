"""Text encoders have the layers that are read, which give the same numbers bit by bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.families import FAMILIES
from runner.engine.memory import devices, footprint
from runner.engine.weights import checkpoints, quantise
from runner.errors import ModelMissing
from tests import random_twin
from tests.engine.quantising import kept_in
from tests.twins import flux3
from tests.twins.pieces import qwen_settings, seeded

CASES = {
    "klein": "Qwen3ForCausalLM",
    "z-image-turbo": "Qwen3Model",
    "flux3-klein": "Qwen3VLForConditionalGeneration",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A Qwen3, by default with the 36 layers of the real one, and its folder in bf16."""
    import torch
    import transformers

    devices.frameworks()
    devices.use_threads(torch.device("cpu"), 1)
    folder = tmp_path_factory.mktemp("whole")

    def of(name: str, layers: int = 36) -> tuple[Any, Path]:
        cls, place = getattr(transformers, name), folder / f"{name}-{layers}"
        if not place.is_dir():

            def make() -> Any:
                sees = name == CASES["flux3-klein"]
                return flux3.text_encoder(layers) if sees else cls(qwen_settings(16, layers))

            model = seeded(name, make).to(torch.bfloat16)
            model.save_pretrained(place)
        return cls, place

    return of


def embedded(model: str, encoder: Any) -> Any:
    """The embeddings of a prompt as the model's pipeline makes them."""
    name = MODEL_REGISTRY[model].serves["text2img"].pipeline
    pipe = random_twin.build(random_twin.part_of(name))
    pipe.text_encoder = encoder
    family = FAMILIES[MODEL_REGISTRY[model].family]
    made = family.encode(pipe, "a red circle on a table", 64)["prompt_embeds"]
    return made[0] if isinstance(made, list) else made


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("model", CASES)
def test_the_layers_that_are_read_give_the_same_numbers_bit_by_bit(
    whole: Any, model: str, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    cls, folder = whole(CASES[model])

    def load(cls: Any, **options: Any) -> Any:
        return checkpoints.from_folder(cls, folder, dtype=getattr(torch, dtype), **options)

    layers = MODEL_REGISTRY[model].text_layers
    cut = checkpoints.text_encoder(cls, folder, layers, load)
    assert sum(bool(list(each.parameters())) for each in cut.base_model.layers) == layers
    assert not hasattr(cut, "visual") and not hasattr(cut.base_model, "visual")
    assert torch.equal(embedded(model, cut), embedded(model, load(cls)))
    assert caplog.text == "", "the weights of the others are left out on purpose"


@pytest.mark.parametrize("layers", [0, 36, 40])
def test_an_encoder_without_more_layers_than_are_read_is_left_as_it_is(
    whole: Any, layers: int
) -> None:
    cls, folder = whole("Qwen3Model")

    def load(cls: Any) -> Any:
        return checkpoints.from_folder(cls, folder)

    assert len(checkpoints.text_encoder(cls, folder, layers, load).layers) == 36


@pytest.mark.parametrize("name", ["Qwen3Model", "Qwen3VLForConditionalGeneration"])
def test_a_weight_that_is_missing_of_those_that_are_read_is_told(whole: Any, name: str) -> None:
    cls, folder = whole(name, 5)
    own = shutil.copytree(folder, folder.with_name(f"{folder.name}-damaged"))
    tensors = load_file(folder / "model.safetensors")
    gone = next(each for each in tensors if "layers.1.mlp.up_proj" in each)
    save_file({n: t for n, t in tensors.items() if n != gone}, own / "model.safetensors")
    with pytest.raises(ModelMissing, match="1 of its tensors are missing, like layers.1.mlp"):
        quantise.load_text_encoder(cls, own, "bf16", "cpu", own, "", 3)


def test_what_is_kept_in_nf4_has_the_count_in_its_name_and_gives_the_same_again(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: Any
) -> None:
    import torch

    monkeypatch.setattr(quantise, "_SMALL_ENCODER", 0)
    # A CPU that has AVX-512 for bf16 packs 32 rows together, of which these layers have fewer.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    cls, folder = whole("Qwen3Model", 4)
    load = partial(quantise.load_text_encoder, cls, folder, "nf4", cpu, tmp_path, "a" * 64)
    first, again = (embedded("z-image-turbo", load(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, embedded("z-image-turbo", load(0)))
    assert [each.name for each in kept_in(tmp_path)] == [f"{'a' * 16}-nf4-{n}" for n in (0, 3)]
    (published,) = tmp_path.glob("*-0")
    nowhere = tmp_path / "none"
    stored = quantise.load_text_encoder(cls, published, "nf4", cpu, nowhere, "b" * 64, 3)
    assert len(stored.layers) == 4 and not nowhere.exists()
    assert torch.equal(first, embedded("z-image-turbo", stored))


def test_one_that_sees_is_kept_in_nf4_without_its_eyes(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: Any
) -> None:
    import torch

    monkeypatch.setattr(quantise, "_SMALL_ENCODER", 0)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    cls, folder = whole("Qwen3VLForConditionalGeneration", 4)
    states = []
    for precision in ("nf4", "nf4", "bf16"):
        model = quantise.load_text_encoder(cls, folder, precision, cpu, tmp_path, "a" * 64, 3)
        with torch.no_grad():
            found = model(torch.arange(9)[None], output_hidden_states=True, use_cache=False)
        assert len(found.hidden_states) == 5 and not hasattr(model, "visual")
        states.append(found.hidden_states[3])
    first, again, plain = states
    assert torch.equal(first, again) and not torch.equal(first, plain)
    assert (first - plain).norm() < 0.3 * plain.norm()
    (kept,) = kept_in(tmp_path)
    assert "visual" not in " ".join(checkpoints.header(kept / "model.safetensors").shapes)


def test_the_planner_counts_what_is_loaded_and_a_download_what_is_published() -> None:
    klein, zimage = (MODEL_REGISTRY[name] for name in ("klein", "z-image-turbo"))
    assert footprint.text(klein, "bf16") / footprint.GIB == pytest.approx(5.80, abs=0.01)
    assert footprint.text(zimage, "bf16") / footprint.GIB == pytest.approx(7.30, abs=0.01)
    flux3 = MODEL_REGISTRY["flux3-klein"]
    assert footprint.text(flux3, "bf16") / footprint.GIB == pytest.approx(6.74, abs=0.01)
    assert flux3.weights.text + flux3.weights.unread == 4_437_815_808
    assert klein.weights.text + klein.weights.unread == 4_022_468_096
    assert klein.bytes == 2 * (3_875_544_576 + 4_022_468_096 + 84_046_115)
