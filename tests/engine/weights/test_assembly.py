"""What the index of a model may name: whoever made the weights wrote it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.engine.weights import checkpoints, quantise
from runner.engine.weights.assembly import _load, class_of
from runner.errors import ModelMissing
from tests import random_twin


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("evil", "Model"), ("os", "system"), ("transformers.utils", "ModelOutput"),
        ("diffusers", "nothing"), ("diffusers", "__name__"), ("transformers", "logging"),
        ("", "Model"), ("..evil", "Model"),
    ],
)  # fmt: skip
def test_an_index_names_classes_of_diffusers_and_transformers_only(
    library: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: `evil.py`, which lay on the path, was run."""
    (tmp_path / "evil.py").write_text("class Model:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelMissing, match="no part of diffusers or transformers"):
        class_of(library, name)
    assert "evil" not in sys.modules


@pytest.mark.parametrize("part", ["text_encoder", "transformer"])
def test_no_weights_are_read_from_a_pickle(tmp_path: Path, part: str) -> None:
    """Seen red: all of these loaded it."""
    import torch
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    whole = random_twin.folder("text2img", tmp_path)
    folder = whole / part
    (weights,) = folder.glob("*.safetensors")
    name = "pytorch_model" if part == "text_encoder" else weights.stem
    torch.save(load_file(weights), folder / f"{name}.bin")
    weights.unlink()
    cls = CLIPTextModel if part == "text_encoder" else FluxTransformer2DModel
    ways: list[Callable[[], object]] = [
        lambda: _load("FluxPipeline", whole, "fp32", {}),
        lambda: quantise._from_folder(cls, folder, "cpu"),
        lambda: list(checkpoints.tensors(cls, folder, None)),
    ]
    if part == "text_encoder":
        ways.append(
            lambda: quantise.load_text_encoder(cls, folder, "nf4", "cpu", tmp_path, "a" * 64)
        )
    for load in ways:
        with pytest.raises(OSError, match="safetensors"):
            load()


def test_a_class_of_theirs_is_found() -> None:
    assert class_of("diffusers", "AutoencoderKL").__name__ == "AutoencoderKL"
    assert class_of("transformers", "T5EncoderModel").__name__ == "T5EncoderModel"
