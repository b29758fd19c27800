"""LoRAs beside what else is done to a model: text encoders, few bits, offloading, compiling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.speed import Speed
from runner.engine.weights import fp8, loras
from tests.engine.lora_files import tensors_for, text_tensors, written
from tests.engine.lora_layouts import KOHYA, LAYOUTS, dora, written_as
from tests.engine.painting import furthest, painted, pipe_of, state_of
from tests.engine.quantising import put_into_int8


def test_what_a_lora_has_for_the_text_encoder_changes_the_embeddings_only(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    plain = painted(pipe)
    own = text_tensors(pipe)
    both = written(tmp_path / "both.safetensors", {**tensors_for(pipe.transformer), **own})
    text = written(tmp_path / "text.safetensors", own)
    paint = written(tmp_path / "paint.safetensors", tensors_for(pipe.transformer))

    def embedded() -> Any:
        return pipe.encode_prompt("a fox", None, max_sequence_length=32)[1]

    usual = embedded()
    loras.apply(pipe, [both])
    assert not embedded().equal(usual)
    loras.apply(pipe, [paint])
    assert embedded().equal(usual)
    loras.apply(pipe, [text])
    assert not embedded().equal(usual)
    assert painted(pipe) != plain
    loras.remove(pipe)
    assert embedded().equal(usual)
    assert painted(pipe) == plain
    assert not hasattr(pipe.text_encoder, "peft_config")

    assert loras.text_mark([paint]) == ""
    marks = [loras.text_mark([each]) for each in (both, text, replace(text, weight=0.5))]
    assert len(set(marks)) == 3
    assert loras.text_mark([paint, text]) == marks[1]


def test_prompts_are_encoded_anew_for_weights_that_differ_in_their_last_digit(
    tmp_path: Path,
) -> None:
    pipe = pipe_of("FluxPipeline")
    lora = written(tmp_path / "words.safetensors", text_tensors(pipe))
    marks = [loras.text_mark([replace(lora, weight=w)]) for w in (0.8, 0.8000001, 0.8)]
    assert marks[0] == marks[2] != marks[1]


def test_each_half_of_a_pipeline_takes_its_own_part(tmp_path: Path) -> None:
    """As the runner loads them: text encoders alone, and a transformer without them."""
    whole = pipe_of("FluxPipeline")
    tensors = {**tensors_for(whole.transformer), **text_tensors(whole)}
    lora = written(tmp_path / "both.safetensors", tensors)
    text, paint = pipe_of("FluxPipeline"), pipe_of("FluxPipeline")
    text.transformer = text.vae = None
    words = text.encode_prompt("a fox", None, max_sequence_length=32)[1]
    paint.text_encoder = paint.text_encoder_2 = None

    assert loras.apply(text, [lora]) == loras.apply(paint, [lora]) == ()
    assert not text.encode_prompt("a fox", None, max_sequence_length=32)[1].equal(words)
    loras.remove(text)
    loras.remove(paint)
    assert text.encode_prompt("a fox", None, max_sequence_length=32)[1].equal(words)


def test_a_shared_text_encoder_is_left_plain_for_the_next_pipeline(tmp_path: Path) -> None:
    one, other = pipe_of("FluxPipeline"), pipe_of("FluxKontextPipeline")
    other.text_encoder = one.text_encoder
    plain = painted(other)
    tensors = {**tensors_for(one.transformer), **text_tensors(one)}
    lora = written(tmp_path / "both.safetensors", tensors)
    loras.apply(one, [lora])
    styled = painted(one)
    loras.apply(other, ())
    assert painted(other) == plain
    loras.apply(one, [lora])
    assert painted(one) == styled


def in_fp8(pipe: Any) -> None:
    import torch

    pipe.to(torch.bfloat16)
    for layer in fp8.matrices(pipe.transformer).values():
        layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    fp8.compute_in_bf16(pipe.transformer)


def in_int8(pipe: Any) -> None:
    import torch

    for part in ("vae", "text_encoder", "text_encoder_2"):
        getattr(pipe, part).to(torch.bfloat16)
    put_into_int8(pipe.transformer)


def in_nf4(pipe: Any) -> None:
    """bitsandbytes' own layers, put in by hand: diffusers does it only where there is a GPU."""
    import torch

    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    pipe.to(torch.bfloat16)
    for name, layer in fp8.matrices(pipe.transformer).items():
        small = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
        )
        small.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        small.bias = layer.bias
        small.support_avx512bf16_for_cpu = False  # its packed form needs wider layers
        holder, _, leaf = name.rpartition(".")
        setattr(pipe.transformer.get_submodule(holder), leaf, small.to("cpu").eval())
    pipe.transformer.is_loaded_in_4bit = True


def by_group(pipe: Any) -> None:
    import torch

    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="leaf_level"
    )


def cached(pipe: Any) -> None:
    Speed(step_cache=0.05).apply(pipe)


@pytest.mark.parametrize("prepared", [in_fp8, in_int8, in_nf4, by_group, cached])
def test_loras_go_with_few_bits_with_offloading_and_with_the_step_cache(
    prepared: Callable[[Any], None], tmp_path: Path
) -> None:
    pipe = pipe_of("FluxPipeline", layers=2)
    prepared(pipe)

    def picture() -> bytes:
        with Speed().around(pipe):
            return painted(pipe)

    plain, before = picture(), state_of(pipe)
    tensors, _ = written_as(LAYOUTS["all mixed"], "flux1")
    lora = written(tmp_path / "ink.safetensors", tensors)
    loras.apply(pipe, [lora])
    styled = picture()
    assert styled != plain
    loras.remove(pipe)
    assert picture() == plain
    assert state_of(pipe) == before
    loras.apply(pipe, [lora])
    assert picture() == styled


def test_a_lora_on_eight_bits_is_not_rounded_to_eight_bits(tmp_path: Path) -> None:
    import torch

    pipe = pipe_of("FluxPipeline")
    in_fp8(pipe)
    tensors = tensors_for(pipe.transformer)
    loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors)])
    kept = pipe.transformer.transformer_blocks[0].attn.to_q.changes[0].factor0
    asked = tensors["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"]
    assert kept.equal(asked.to(torch.bfloat16))


@pytest.mark.parametrize("layout", ["all mixed", "DoRA by inputs of joined layers"])
def test_a_change_is_streamed_with_its_layer(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: what is not on the device has NaN in the place of its numbers.

    Seen red where layers shared a factor or a length, and where one read its bias after its turn.
    """
    import torch
    from diffusers.hooks.group_offloading import ModuleGroup

    kept: dict[int, tuple[Any, Any]] = {}

    def tensors(group: Any) -> list[Any]:
        inner = [[*module.parameters(), *module.buffers()] for module in group.modules]
        return [*sum(inner, []), *(group.parameters or ()), *(group.buffers or ())]

    def offload(group: Any) -> None:
        for tensor in tensors(group):
            if not tensor.isnan().any():
                kept[id(tensor)] = tensor, tensor.data
                tensor.data = torch.full_like(tensor, float("nan"))

    def onload(group: Any) -> None:
        for tensor in tensors(group):
            if id(tensor) in kept:
                tensor.data = kept.pop(id(tensor))[1]

    def everything_in_ram() -> None:
        for tensor, data in kept.values():
            tensor.data = data
        kept.clear()

    pipe = pipe_of("FluxPipeline")
    plain = painted(pipe)
    tensors_of_file, _ = written_as(LAYOUTS[layout], "flux1")
    lora = written(tmp_path / "ink.safetensors", tensors_of_file, weight=0.3)
    loras.apply(pipe, [lora])
    styled = painted(pipe)
    loras.remove(pipe)
    monkeypatch.setattr(ModuleGroup, "offload_", offload)
    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    by_group(pipe)
    assert kept and painted(pipe) == plain
    everything_in_ram()
    loras.apply(pipe, [lora])
    assert kept and painted(pipe) == styled
    everything_in_ram()
    loras.remove(pipe)
    assert painted(pipe) == plain


@pytest.mark.parametrize("prepared", [in_fp8, in_int8, in_nf4])
def test_a_dora_measures_the_weights_that_are_held_in_few_bits(
    prepared: Callable[[Any], None], tmp_path: Path
) -> None:
    """Its layer gives what a plain layer of these weights would give with them changed."""
    import torch

    pipe = pipe_of("FluxPipeline")
    prepared(pipe)
    layer = pipe.transformer.transformer_blocks[0].attn.to_out[0]
    bias, layer.bias = layer.bias, None
    with torch.no_grad():
        held = layer(torch.eye(32, dtype=torch.bfloat16)).T.float()
    layer.bias = bias
    pieces, changed = dora("dora_scale", 1, KOHYA)(held, torch.Generator().manual_seed(0))
    place = "diffusion_model.double_blocks.0.img_attn.proj"
    tensors = {f"{place}.{piece}": tensor for piece, tensor in pieces.items()}
    loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors)])
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    with torch.no_grad():
        got = pipe.transformer.transformer_blocks[0].attn.to_out[0](x).float()
    wanted = x.float() @ changed.T + bias.float()
    assert (got - wanted).abs().max() <= 0.03 * wanted.abs().max()
    assert (x.float() @ held.T + bias.float() - wanted).abs().max() > 0.1 * wanted.abs().max()


def test_a_compiled_model_follows_its_loras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's graph capture: a graph that kept the old layers would paint the old picture."""
    import torch

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    pipe = pipe_of("FluxPipeline")
    plain = painted(pipe)
    tensors, _ = written_as(LAYOUTS["all mixed"], "flux1")
    lora = written(tmp_path / "ink.safetensors", tensors, weight=0.5)
    weak = replace(lora, weight=0.1)
    pictures = []
    for each in (lora, weak):
        loras.apply(pipe, [each])
        pictures.append(painted(pipe))
    loras.remove(pipe)
    assert len({plain, *pictures}) == 3
    Speed(compile=True).apply(pipe)
    for _ in range(2):
        assert furthest(painted(pipe), plain) <= 2
        for each, picture in zip((lora, weak), pictures, strict=True):
            loras.apply(pipe, [each])
            assert furthest(painted(pipe), picture) <= 2
        loras.remove(pipe)
