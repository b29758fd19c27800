"""A LoRA that does not fit is told in a sentence, before anything of the model is touched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.weights import loras
from runner.errors import InputBad, ModelMissing
from runner.task import Lora
from tests.engine.lora_files import tensors_for, wider, written
from tests.engine.painting import painted, pipe_of, state_of


def test_a_control_lora_is_refused_where_no_control_picture_is_read(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    lora = written(tmp_path / "canny.safetensors", wider(pipe.transformer))
    with pytest.raises(InputBad, match="use it with `kind: control`"):
        loras.apply(pipe, [lora])


def test_layers_that_a_model_lacks_are_left_out_and_said(tmp_path: Path) -> None:
    """As with a LoRA for dev on schnell, which has no guidance to embed."""
    import torch

    pipe = pipe_of("FluxPipeline")
    tensors = tensors_for(pipe.transformer)
    more = {
        "transformer.guidance.lora_A.weight": torch.ones(4, 32),
        "transformer.guidance.lora_B.weight": torch.ones(32, 4),
    }
    lora = written(tmp_path / "ink.safetensors", {**tensors, **more})
    exact = written(tmp_path / "exact.safetensors", tensors)
    assert loras.apply(pipe, [lora]) == (
        "1 of the 7 layers of ink.safetensors do not exist in this model and were left out, as"
        " guidance",
    )
    left = painted(pipe)
    assert loras.apply(pipe, [lora]) != ()
    loras.apply(pipe, [exact])
    assert painted(pipe) == left


def half(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: tensor for key, tensor in tensors.items() if "lora_A" in key}


def damaged(tensors: dict[str, Any]) -> dict[str, Any]:
    first = next(iter(tensors))
    tensors[first] = tensors[first].clone()
    tensors[first][0, 0] = float("nan")
    return tensors


def unnamed(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("transformer.", "unet."): tensor for key, tensor in tensors.items()}


def elsewhere(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".to_", ".of_"): tensor for key, tensor in tensors.items()}


def larger(tensors: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {
        key: torch.nn.functional.pad(tensor, (0, 16) if "lora_A" in key else (0, 0, 0, 16))
        for key, tensor in tensors.items()
    }


def taller(tensors: dict[str, Any]) -> dict[str, Any]:
    import torch

    pad = torch.nn.functional.pad
    return {k: pad(t, (0, 0, 0, 16)) if "lora_B" in k else t for k, t in tensors.items()}


def no_lora(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".lora_A", "").replace(".lora_B", ".b"): t for key, t in tensors.items()}


@pytest.mark.parametrize("name", ["FluxPipeline", "Flux2KleinPipeline", "ZImagePipeline"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (half, "is incomplete"),
        (damaged, "is damaged: .* has numbers that are none"),
        (unnamed, "made for another one"),
        (elsewhere, "fits no layer of this model"),
        (larger, "was made for another model: its layer .* is 48 wide, and 32 here"),
        (taller, "was made for another model: its layer .* is 48 wide, and 32 here"),
        (no_lora, "holds no LoRA: it may be a whole model"),
        (lambda tensors: {}, "holds no LoRA"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_touched(
    name: str, change: Callable[[dict[str, Any]], dict[str, Any]], says: str, tmp_path: Path
) -> None:
    pipe = pipe_of(name)
    before = state_of(pipe)
    bad = written(tmp_path / "bad.safetensors", change(tensors_for(pipe.transformer)))
    good = written(tmp_path / "good.safetensors", tensors_for(pipe.transformer))
    with pytest.raises(InputBad, match=says):
        loras.apply(pipe, [good, bad])
    assert state_of(pipe) == before


def test_a_lora_for_another_family_is_refused(tmp_path: Path) -> None:
    for made_for, used_on in (
        ("FluxPipeline", "ZImagePipeline"),
        ("ZImagePipeline", "FluxPipeline"),
        ("Flux2KleinPipeline", "ZImagePipeline"),
    ):
        tensors = tensors_for(pipe_of(made_for).transformer)
        lora = written(tmp_path / f"{made_for}.safetensors", tensors)
        with pytest.raises(InputBad, match="made for another"):
            loras.apply(pipe_of(used_on), [lora])


def test_a_file_that_was_cut_short_or_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    lora = written(tmp_path / "ink.safetensors", tensors_for(pipe.transformer))
    whole = lora.path.read_bytes()
    for data in (whole[:-100], whole[:50], b"", b"PK\x03\x04 a pickle in a zip archive"):
        lora.path.write_bytes(data)
        with pytest.raises(InputBad, match="is damaged or no safetensors file"):
            loras.apply(pipe, [lora])
        with pytest.raises(InputBad, match="is damaged or no safetensors file"):
            loras.text_mark([lora])


def test_a_file_that_is_gone_or_changed_is_told(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    lora = written(tmp_path / "ink.safetensors", tensors_for(pipe.transformer))
    accepted = replace(lora, sha256=hashlib.sha256(lora.path.read_bytes()).hexdigest())
    loras.apply(pipe, [accepted])
    loras.remove(pipe)
    written(lora.path, tensors_for(pipe.transformer, seed=9))
    os.utime(lora.path, ns=(1, 1))
    with pytest.raises(InputBad, match=r"ink\.safetensors changed since this job was accepted"):
        loras.apply(pipe, [accepted])
    lora.path.unlink()
    with pytest.raises(ModelMissing, match="fluxdrop models pull"):
        loras.apply(pipe, [accepted])


def test_a_pipeline_that_knows_no_loras_says_so() -> None:
    from tests.fakes import FakePipe

    assert loras.apply(FakePipe(), ()) == ()
    with pytest.raises(InputBad, match="leave `loras` out"):
        loras.apply(FakePipe(), [Lora(Path("ink.safetensors"))])
