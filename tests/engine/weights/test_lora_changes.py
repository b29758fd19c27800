"""A LoRA that does not fit is told in a sentence, before anything of the model is touched."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.engine.weights import lora_changes, loras
from runner.errors import InputBad, ModelMissing
from runner.task import Lora
from tests.engine.lora_files import tensors_for, wider, written
from tests.engine.lora_layouts import alike, output, pipe_for
from tests.engine.painting import painted, pipe_of, state_of


def test_a_control_lora_is_refused_where_no_control_picture_is_read(tmp_path: Path) -> None:
    pipe = pipe_of("FluxPipeline")
    lora = written(tmp_path / "canny.safetensors", wider(pipe.transformer))
    with pytest.raises(InputBad, match="use it with `kind: control`"):
        loras.apply(pipe, [lora])


@pytest.mark.parametrize(
    ("pipeline", "width", "fits"),
    [
        ("FluxPipeline", 64, True),
        ("FluxPipeline", 16, False),
        ("FluxPipeline", 384, False),
        ("FluxFillPipeline", 384, True),
        ("FluxFillPipeline", 64, True),
        ("FluxFillPipeline", 128, False),
        ("Flux2KleinPipeline", 256, False),
    ],
)
def test_the_input_layer_takes_a_lora_only_for_as_many_channels_as_a_pipeline_has(
    pipeline: str, width: int, fits: bool, tmp_path: Path
) -> None:
    import torch

    pipe = pipe_of(pipeline)
    tensors = tensors_for(pipe.transformer)
    out = pipe.transformer.x_embedder.out_features
    tensors["transformer.x_embedder.lora_A.weight"] = torch.ones(4, width)
    tensors["transformer.x_embedder.lora_B.weight"] = torch.ones(out, 4)
    lora = written(tmp_path / "ink.safetensors", tensors)
    if fits:
        assert loras.apply(pipe, [lora]) == ()
        loras.remove(pipe)
    else:
        with pytest.raises(InputBad, match=f"x_embedder is {width} wide, and "):
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
        "1 of the 7 layers of ink.safetensors are not in this model, or are there twice, and were"
        " left out, as guidance",
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
        (unnamed, "made for another model: .* of its .* layers do not exist here"),
        (elsewhere, "made for another model: .* of its .* layers do not exist here"),
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


@pytest.mark.parametrize("when", ["hashed", "listed", "read"])
def test_a_file_that_cannot_be_read_is_told_with_the_reason_whenever_that_is(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipe_of("FluxPipeline")
    before = state_of(pipe)
    lora = written(tmp_path / "ink.safetensors", tensors_for(pipe.transformer))
    module, name = {
        "hashed": (loras, "sha256_of"),
        "listed": (safetensors, "safe_open"),
        "read": (lora_changes, "fitting"),
    }[when]

    def refused(*given: Any, **settings: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    loras._keys.cache_clear()
    monkeypatch.setattr(module, name, refused)
    with pytest.raises(InputBad, match="ink.safetensors cannot be read: Permission denied"):
        loras.apply(pipe, [lora])
    assert state_of(pipe) == before


def test_a_pipeline_that_knows_no_loras_says_so() -> None:
    from tests.fakes import FakePipe

    assert loras.apply(FakePipe(), ()) == ()
    with pytest.raises(InputBad, match="leave `loras` out"):
        loras.apply(FakePipe(), [Lora(Path("ink.safetensors"))])


@pytest.mark.parametrize(
    ("settings_of", "weight"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn.to_q": 2}}, None),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"^\w+\.[01]\.attn\.to_q": 2}}, None),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"\w*_blocks.*to_q": 2}}, None),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"o_q": 2, "to_": 3, "[^.]+_q": 2}}, None),
        ({"r": 4, "lora_alpha": 2, "use_rslora": True}, 1.0),
        ({"r": 4}, 1.0),
    ],
)
def test_the_alpha_of_pefts_settings_is_divided_by_the_rank(
    settings_of: dict[str, Any], weight: float | None, tmp_path: Path
) -> None:
    pipe = pipe_for("flux1")
    header = json.dumps({f"transformer.{key}": value for key, value in settings_of.items()})
    tensors = tensors_for(pipe.transformer)
    named = written(tmp_path / "named.safetensors", tensors, lora_adapter_metadata=header)
    if weight is None:
        weight = 2.0
        tensors = {
            key: tensor * 0.25 if "attn.to_q.lora_B" in key else tensor
            for key, tensor in tensors.items()
        }
    exact = written(tmp_path / "exact.safetensors", tensors, weight=weight)
    try:
        loras.apply(pipe, [named])
        made = output("flux1")
        loras.apply(pipe, [exact])
        assert alike(made, output("flux1"))
    finally:
        loras.remove(pipe)


REFUSED = {
    "OFT": {"oft_blocks": (2, 4, 4)},
    "GLoRA": {"a1.weight": (4, 4), "b1.weight": (4, 4)},
    "IA3": {"weight": (4,), "on_input": ()},
    "VeRA": {"vera_lambda_b": (4,)},
    "LyCORIS Tucker": {
        "lora_down.weight": (4, 4),
        "lora_up.weight": (4, 4),
        "lora_mid.weight": (4, 4),
    },
    "LyCORIS norm": {"w_norm": (4,)},
    "Nunchaku (SVDQuant)": {"lora_down": (4, 4), "lora_up": (4, 4)},
    "scaled float8": {"lora_down.weight": (4, 4), "scale_weight": ()},
}


@pytest.mark.parametrize("other", REFUSED)
def test_what_cannot_act_is_refused_by_the_name_of_its_format(other: str, tmp_path: Path) -> None:
    import torch

    pipe = pipe_for("flux1")
    before = state_of(pipe)
    tensors = tensors_for(pipe.transformer)
    for block in ("double_blocks_0_img_attn_proj", "single_blocks_0_linear1"):
        for piece, shape in REFUSED[other].items():
            tensors[f"lora_unet_{block}.{piece}"] = torch.ones(shape)
    with pytest.raises(InputBad) as caught:
        loras.apply(pipe, [written(tmp_path / "odd.safetensors", tensors)])
    assert str(caught.value) == (
        f"odd.safetensors changes layers in the format {other} (2 of them), which cannot act here:"
        " convert it to a plain LoRA"
    )
    assert state_of(pipe) == before


def test_a_difference_of_a_norm_is_refused_by_its_name(tmp_path: Path) -> None:
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    tensors["diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff"] = torch.ones(16)
    with pytest.raises(InputBad, match="trains the norm transformer_blocks.0.attn.norm_k"):
        loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors)])


@pytest.mark.parametrize(
    ("piece", "shape", "says"),
    [
        ("lora_down.weight", (4, 32), "is incomplete: double_blocks_0_img_mlp_2 has no `up`"),
        ("alpha", (), "is incomplete: double_blocks_0_img_mlp_2 has no `change`"),
        ("hada_w1_a", (32, 4), "is incomplete: double_blocks_0_img_mlp_2 has no `hada_w1_b`"),
        ("lokr_w1", (2, 2), "is incomplete: double_blocks_0_img_mlp_2 has no `lokr_w2`"),
        ("lokr_w1_a", (2, 2), "is incomplete: double_blocks_0_img_mlp_2 has no `lokr_w1_b`"),
        (
            "dora_scale",
            (32, 1),
            "is damaged: the tensors of double_blocks_0_img_mlp_2 do not",
        ),
        ("diff_b", (31,), "is damaged: the tensors of double_blocks_0_img_mlp_2 do not"),
        ("diff", (32, 31), "was made for another model: its layer .* is 31 wide, and 128 here"),
    ],
)
def test_a_layer_that_is_incomplete_or_disagrees_is_refused(
    piece: str, shape: tuple[int, ...], says: str, tmp_path: Path
) -> None:
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    tensors[f"lora_unet_double_blocks_0_img_mlp_2.{piece}"] = torch.ones(shape)
    with pytest.raises(InputBad, match=says):
        loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors)])


SETTINGS = [
    {"lora_alpha": "much"},
    {"lora_alpha": 10**400},
    {"lora_alpha": math.nan},
    {"alpha_pattern": [1]},
    {"alpha_pattern": {"(": 1}},
    {"alpha_pattern": {"a{99999999999}": 1}},
    {"alpha_pattern": {r"(\w+)+x": 1}},  # would take for ever, as would each of these
    {"alpha_pattern": {r"(\w|.)(\w|.)(\w|.)(\w|.)x": 1}},
    {"alpha_pattern": {rf"{n}\w*\w*\w*x": 1 for n in range(50)}},
]


@pytest.mark.parametrize(
    "header",
    [
        "no json",
        "[1]",
        *(json.dumps({f"transformer.{k}": v for k, v in s.items()}) for s in SETTINGS),
    ],
)
def test_settings_that_cannot_be_read_are_damage(header: str, tmp_path: Path) -> None:
    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    lora = written(tmp_path / "ink.safetensors", tensors, lora_adapter_metadata=header)
    with pytest.raises(InputBad, match="is damaged"):
        loras.apply(pipe, [lora])


@pytest.mark.parametrize("fault", ["rank 0", "complex"])
def test_numbers_that_no_layer_can_take_are_damage(fault: str, tmp_path: Path) -> None:
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    rank = 0 if fault == "rank 0" else 4
    dtype = torch.float32 if fault == "rank 0" else torch.complex64
    layer = "lora_unet_double_blocks_0_img_mlp_2"
    tensors[f"{layer}.lora_down.weight"] = torch.ones(rank, 128, dtype=dtype)
    tensors[f"{layer}.lora_up.weight"] = torch.ones(32, rank, dtype=dtype)
    tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    with pytest.raises(InputBad, match=r"ink.safetensors is damaged: .*img_mlp_2"):
        loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors)])


def test_pefts_own_file_without_an_alpha_says_that_its_settings_lie_beside_it(
    tmp_path: Path,
) -> None:
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer, prefix="base_model.model.")
    own = written(tmp_path / "adapter_model.safetensors", tensors)
    try:
        (said,) = loras.apply(pipe, [own])
        assert "`weight` by its lora_alpha / r" in said
        assert loras.apply(pipe, [written(tmp_path / "fal.safetensors", tensors)]) == ()
        alphas = {
            key.replace("lora_A.weight", "alpha"): torch.tensor(4.0)
            for key in tensors
            if "lora_A" in key
        }
        own = written(tmp_path / "2" / own.path.name, {**tensors, **alphas})
        assert loras.apply(pipe, [own]) == ()
    finally:
        loras.remove(pipe)


def more(name: str, *shapes: tuple[int, ...]) -> dict[str, Any]:
    import torch

    ends = ("lora_A.weight", "lora_B.weight")
    return {f"{name}.{end}": torch.ones(s) for end, s in zip(ends, shapes, strict=True)}


@pytest.mark.parametrize(
    ("family", "extra", "count", "example"),
    [
        (
            "flux1",
            more("diffusion_model.double_blocks.7.img_mlp.0", (4, 32), (128, 4)),
            "1 of the 7",
            "double_blocks_7_img_mlp_0",
        ),
        (
            "zimage",
            more("layers.0.attention.qkv", (4, 32), (96, 4)),
            "1 of the 10",
            "layers_0_attention_qkv",
        ),
        (
            "zimage",
            more("lora_unet_layers_0_attention_to_q", (4, 32), (32, 4)),
            "2 of the 11",
            "transformer.layers.0.attention.to_q.lora_A.weight",
        ),
        ("flux1", {"bundle_emb.fox.clip_l": None}, "1 of the 7", "bundle_emb.fox.clip_l"),
        (
            "flux1",
            more("lora_unet_double_blocks_0_img_mod_lin.lora_A.weight", (4, 32), (192, 4)),
            "1 of the 7",
            "double_blocks_0_img_mod_lin_lora_A_weight",
        ),
        (
            "klein",
            more("lora_te3_encoder_block_0_layer_0_SelfAttention_q", (4, 32), (32, 4)),
            "1 of the 4",
            "encoder_block_0_layer_0_SelfAttention_q",
        ),
    ],
)
def test_what_is_left_over_is_counted_and_named(
    family: str, extra: dict[str, Any], count: str, example: str, tmp_path: Path
) -> None:
    import torch

    pipe = pipe_for(family)
    tensors = tensors_for(pipe.transformer)
    extra = {key: torch.ones(1) if value is None else value for key, value in extra.items()}
    try:
        (warning,) = loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors | extra)])
        assert warning == (
            f"{count} layers of ink.safetensors are not in this model, or are there twice, and were"
            f" left out, as {example}"
        )
    finally:
        loras.remove(pipe)


def test_the_scalar_of_lycoris_multiplies_the_change_of_its_layer(tmp_path: Path) -> None:
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    stems = [key.removesuffix("lora_A.weight") for key in tensors if "lora_A" in key]
    weighed = {**tensors, **{f"{stem}scalar": torch.tensor(0.25) for stem in stems}}
    try:
        assert loras.apply(pipe, [written(tmp_path / "weighed.safetensors", weighed)]) == ()
        found = output("flux1")
        loras.apply(pipe, [written(tmp_path / "plain.safetensors", tensors, weight=0.25)])
        assert alike(found, output("flux1"))
    finally:
        loras.remove(pipe)


def test_an_unknown_piece_of_a_known_layer_is_named_as_one(tmp_path: Path) -> None:
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    stems = [key.removesuffix("lora_A.weight") for key in tensors if "lora_A" in key]
    odd = {**tensors, **{f"{stem}foo": torch.ones(3) for stem in stems}}
    try:
        assert loras.apply(pipe, [written(tmp_path / "odd.safetensors", odd)]) == (
            "odd.safetensors has unknown pieces of layers: foo",
        )
    finally:
        loras.remove(pipe)


def test_a_lora_of_zeros_says_that_it_changes_nothing(tmp_path: Path) -> None:
    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    zeros = {key: each * ("lora_B" not in key) for key, each in tensors.items()}
    try:
        assert loras.apply(pipe, [written(tmp_path / "new.safetensors", zeros)]) == (
            "new.safetensors changes nothing in the transformer: all its matrices are zero",
        )
        zeros[max(zeros)] += 1
        assert loras.apply(pipe, [written(tmp_path / "one.safetensors", zeros)]) == ()
    finally:
        loras.remove(pipe)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "int64"])
def test_whole_numbers_are_refused_as_quantised_except_for_an_alpha(
    dtype: str, tmp_path: Path
) -> None:
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    first = next(key for key in tensors if "lora_A" in key)
    alpha = {first.replace("lora_A.weight", "alpha"): torch.tensor(4)}
    try:
        assert loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors | alpha)]) == ()
        whole = {**tensors, first: tensors[first].to(getattr(torch, dtype))}
        with pytest.raises(InputBad, match=f"has whole numbers .torch.{dtype}. in .*lora_A"):
            loras.apply(pipe, [written(tmp_path / "whole.safetensors", whole)])
    finally:
        loras.remove(pipe)


def test_a_lora_most_of_whose_layers_do_not_exist_was_made_for_another_model(
    tmp_path: Path,
) -> None:
    """As one for a large model on a small one of its family, which has fewer blocks."""
    pipe = pipe_for("klein")
    tensors = tensors_for(pipe.transformer)
    for block in range(1, 4):
        tensors |= {
            key.replace("blocks.0", f"blocks.{block}"): tensor
            for key, tensor in tensors_for(pipe.transformer).items()
        }
    with pytest.raises(InputBad, match="made for another model: 9 of its 12 layers do not exist"):
        loras.apply(pipe, [written(tmp_path / "ink.safetensors", tensors)])


NAMES = st.one_of(
    st.text(min_size=1, max_size=40),
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["", "transformer.", "lora_unet_", "diffusion_model.", "lycoris_"]),
            st.sampled_from(
                [
                    "transformer_blocks.0.attn.to_q",
                    "double_blocks.0.img_attn.qkv",
                    "double_blocks_0_img_attn_proj",
                    "single_blocks.0.linear2",
                    "double_blocks.9.img_mlp.0",
                    "transformer_blocks.0.attn.norm_q",
                    "double_blocks.0.img_attn.norm.query_norm",
                    "processor",
                ]
            ),
            st.sampled_from(["", ".", "_"]),
            st.sampled_from(
                "lora_A.weight lora_B.weight lora_down.weight lora.up.weight lora_B.bias alpha diff"
                " diff_b dora_scale hada_w1_a hada_w2_b lokr_w1 lokr_w2_a weight scale bias"
                " lora_magnitude_vector lora_C.weight scalar lora_down lokr_w1_b".split()
            ),
        ),
    ),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=NAMES)
def test_a_tensor_that_does_not_act_is_never_passed_over_in_silence(
    key: str, tmp_path: Path
) -> None:
    """One tensor of a size that no layer has, beside a LoRA that acts."""
    import torch

    pipe = pipe_for("flux1")
    tensors = tensors_for(pipe.transformer)
    if key in tensors or "\0" in key:
        return
    lora = written(tmp_path / "ink.safetensors", {**tensors, key: torch.ones(7, 7)})
    try:
        warnings = loras.apply(pipe, [lora])
    except InputBad:
        return
    finally:
        loras.remove(pipe)
    assert warnings
