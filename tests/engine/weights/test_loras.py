"""A LoRA acts while it is asked for, and the next plain image is as if there had never been one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.weights import lora_layers, loras
from runner.task import Lora
from tests.engine.lora_files import tensors_for, wider, written
from tests.engine.painting import SERVED, furthest, painted, pipe_of, state_of


@pytest.mark.parametrize("name", [name for name, (model, _) in SERVED.items() if model.loras])
def test_a_lora_acts_with_its_weight_and_leaves_no_trace(name: str, tmp_path: Path) -> None:
    pipe = pipe_of(name)
    plain, before = painted(pipe), state_of(pipe)
    lora = written(tmp_path / "ink.safetensors", tensors_for(pipe.transformer))

    assert loras.apply(pipe, [lora]) == ()
    full = painted(pipe)
    loras.apply(pipe, [replace(lora, weight=-0.5)])
    assert len({plain, full, painted(pipe)}) == 3
    loras.apply(pipe, [replace(lora, weight=0.0)])
    assert painted(pipe) == plain
    loras.apply(pipe, [lora])
    assert painted(pipe) == full

    loras.remove(pipe)
    assert painted(pipe) == plain
    assert state_of(pipe) == before


def test_another_weight_reads_no_file(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    lora = written(tmp_path / "ink.safetensors", tensors_for(pipe.transformer))
    lora = replace(lora, sha256=hashlib.sha256(lora.path.read_bytes()).hexdigest())
    loras.apply(pipe, [lora])
    lora.path.unlink()
    once = painted(pipe)
    loras.apply(pipe, [replace(lora, weight=0.3)])
    assert painted(pipe) != once
    loras.apply(pipe, [lora])
    assert painted(pipe) == once


def test_several_loras_add_up_and_the_same_file_counts_twice(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    one = written(tmp_path / "one.safetensors", tensors_for(pipe.transformer, seed=1))
    two = written(tmp_path / "two.safetensors", tensors_for(pipe.transformer, seed=2))

    def with_these(*given: Lora) -> bytes:
        loras.apply(pipe, given)
        return painted(pipe)

    both = with_these(one, two)
    assert len({both, with_these(one), with_these(two), with_these()}) == 4
    assert with_these(one, two) == both
    doubled = with_these(replace(one, weight=0.5), replace(one, weight=0.5))
    assert furthest(doubled, with_these(one)) <= 2


def test_a_stop_in_the_middle_of_an_image_leaves_no_trace(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    plain, before = painted(pipe), state_of(pipe)
    lora = written(tmp_path / "ink.safetensors", tensors_for(pipe.transformer))

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    loras.apply(pipe, [lora])
    with pytest.raises(KeyboardInterrupt):
        painted(pipe, on_step=stop)
    loras.apply(pipe, ())
    assert painted(pipe) == plain
    assert state_of(pipe) == before


def test_a_failure_half_way_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red without the clean-up: the first of the two stayed on."""
    pipe = pipe_of("FluxPipeline")
    plain, before = painted(pipe), state_of(pipe)
    one = written(tmp_path / "one.safetensors", tensors_for(pipe.transformer, seed=1))
    two = written(tmp_path / "two.safetensors", tensors_for(pipe.transformer, seed=2))
    real, calls = lora_layers.put, []

    def failing(module: Any, name: str, change: Any) -> None:
        calls.append(name)
        real(module, name, change)
        if len(calls) == 9:
            raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(lora_layers, "put", failing)
    with pytest.raises(Exception, match="no memory left"):
        loras.apply(pipe, [one, two])
    assert len(calls) == 9
    assert painted(pipe) == plain
    assert state_of(pipe) == before


def test_a_control_lora_makes_a_control_model_of_a_plain_one_and_leaves_no_trace(
    tmp_path: Path,
) -> None:
    """With a second LoRA before it in the list, which has to fit the wider input layer too."""
    import diffusers

    plain_pipe = pipe_of("FluxPipeline")
    plain, before = painted(plain_pipe), state_of(plain_pipe)
    parts = {name: part for name, part in plain_pipe.components.items() if "image" not in name}
    parts.pop("feature_extractor")
    control_pipe = diffusers.FluxControlPipeline(**parts)
    control_pipe.set_progress_bar_config(disable=True)
    lora = written(tmp_path / "canny.safetensors", wider(plain_pipe.transformer))
    style = written(
        tmp_path / "style.safetensors",
        tensors_for(plain_pipe.transformer, only=("x_embedder", "to_q"), seed=3),
    )
    loras.apply(control_pipe, [style, lora])
    assert control_pipe.transformer.config.in_channels == 128
    styled = painted(control_pipe)
    loras.apply(control_pipe, [replace(style, weight=0.0), lora])
    assert painted(control_pipe) != styled
    loras.remove(control_pipe)
    assert state_of(plain_pipe) == before
    assert painted(plain_pipe) == plain


def test_norms_that_loras_set_follow_the_weights_and_add_up(tmp_path: Path) -> None:
    """Seen red: they were set whatever the weight, and the last file's overwrote the others'."""
    import torch

    pipe = pipe_of("FluxPipeline")
    before = state_of(pipe)
    norm = pipe.transformer.transformer_blocks[0].attn.norm_q
    own = norm.weight.detach().clone()
    one, two = torch.full((16,), 1.7), torch.full((16,), 0.3)

    def file(name: str, value: Any) -> Lora:
        tensors = tensors_for(pipe.transformer)
        tensors["transformer.transformer_blocks.0.attn.norm_q.weight"] = value
        return written(tmp_path / name, tensors)

    first, second = file("1.safetensors", one), file("2.safetensors", two)
    for weights, expected in {
        (1.0, 0.0): one,
        (0.0, 0.0): own,
        (0.25, 0.0): own + 0.25 * (one - own),
        (-1.0, 0.0): own - (one - own),
        (0.5, 2.0): own + 0.5 * (one - own) + 2 * (two - own),
    }.items():
        both = [replace(f, weight=w) for f, w in zip((first, second), weights, strict=True)]
        loras.apply(pipe, both)
        assert torch.allclose(norm.weight, expected, atol=1e-6, rtol=0)
    loras.remove(pipe)
    assert state_of(pipe) == before


def test_a_control_lora_on_a_control_model_acts_and_a_warning_says_that_it_is_one_already(
    tmp_path: Path,
) -> None:
    pipe = pipe_of("FluxControlPipeline")
    lora = written(tmp_path / "canny.safetensors", wider(pipe.transformer))
    style = tensors_for(pipe.transformer, only=("x_embedder", "to_q"))
    (said,) = loras.apply(pipe, [lora])
    assert said.startswith("canny.safetensors makes a control model of a plain one, and this model")
    assert loras.apply(pipe, [written(tmp_path / "style.safetensors", style)]) == ()
    loras.remove(pipe)


def test_a_lora_for_the_plain_model_fits_the_models_with_more_channels(tmp_path: Path) -> None:
    made_for = pipe_of("FluxPipeline").transformer
    tensors = tensors_for(made_for, only=("x_embedder", "to_q"))
    lora = written(tmp_path / "ink.safetensors", tensors)
    for name in ("FluxFillPipeline", "FluxControlPipeline"):
        pipe = pipe_of(name)
        plain = painted(pipe)
        assert loras.apply(pipe, [lora]) == ()
        assert painted(pipe) != plain
        loras.remove(pipe)
        assert painted(pipe) == plain


def test_files_of_other_tools_are_read(tmp_path: Path) -> None:
    """kohya's names with its alpha, which halves the LoRA here."""
    import torch

    pipe = pipe_of("FluxPipeline")
    down, up = torch.randn(4, 32), torch.randn(32 * 3, 4)
    layer = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
    kohya = written(
        tmp_path / "kohya.safetensors", {**tensors, f"{layer}.alpha": torch.tensor(2.0)}
    )
    place = "transformer.transformer_blocks.0.attn"
    parts = dict(zip(("to_q", "to_k", "to_v"), up.split(32), strict=True))
    own: dict[str, Any] = {}
    for name, part in parts.items():
        own[f"{place}.{name}.lora_A.weight"] = down.clone()
        own[f"{place}.{name}.lora_B.weight"] = part.contiguous()
    plain = written(tmp_path / "plain.safetensors", own, weight=0.5)
    loras.apply(pipe, [kohya])
    theirs = painted(pipe)
    loras.apply(pipe, [plain])
    assert furthest(theirs, painted(pipe)) <= 2


def test_the_scale_that_a_file_names_counts_and_its_dropout_does_not(tmp_path: Path) -> None:
    """peft's own settings lie in the file's header; new layers would drop values at random."""
    pipe = pipe_of("FluxPipeline")
    tensors = tensors_for(pipe.transformer)
    targets = sorted({key.removeprefix("transformer.").partition(".lora")[0] for key in tensors})
    settings = {"r": 4, "lora_alpha": 2, "lora_dropout": 0.5, "target_modules": targets}
    header = json.dumps({f"transformer.{name}": value for name, value in settings.items()})
    named = written(tmp_path / "named.safetensors", tensors, lora_adapter_metadata=header)
    plain = written(tmp_path / "plain.safetensors", tensors, weight=0.5)
    loras.apply(pipe, [named])
    first = painted(pipe)
    assert painted(pipe) == first
    loras.apply(pipe, [plain])
    assert painted(pipe) == first
