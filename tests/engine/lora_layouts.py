"""The layouts of LoRA files that tools write, and what the change in them makes of the weights.

A layout is a prefix, a way to name layers (the model's own names or those of its first code, with
dots or underscores), and a form of the change. The changed weights are computed by the formula of
the form: no code of ours and none of peft is in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.engine.painting import painted, pipe_of

FAMILIES = {"flux1": "FluxPipeline", "klein": "Flux2KleinPipeline", "zimage": "ZImagePipeline"}

_ATTENTION = {
    "double_blocks.0.img_attn.qkv": "transformer_blocks.0.attn: to_q to_k to_v",
    "double_blocks.0.txt_attn.qkv": "transformer_blocks.0.attn: add_q_proj add_k_proj add_v_proj",
    "double_blocks.0.img_attn.proj": "transformer_blocks.0.attn: to_out.0",
    "double_blocks.0.txt_attn.proj": "transformer_blocks.0.attn: to_add_out",
    "img_in": ": x_embedder",
    "txt_in": ": context_embedder",
    "final_layer.linear": ": proj_out",
    "final_layer.adaLN_modulation.1": "swapped: norm_out.linear",
}
FIRST_NAMES: dict[str, dict[str, str]] = {
    "flux1": {
        **_ATTENTION,
        "double_blocks.0.img_mod.lin": "transformer_blocks.0: norm1.linear",
        "double_blocks.0.txt_mod.lin": "transformer_blocks.0: norm1_context.linear",
        "double_blocks.0.img_mlp.0": "transformer_blocks.0: ff.net.0.proj",
        "double_blocks.0.img_mlp.2": "transformer_blocks.0: ff.net.2",
        "double_blocks.0.txt_mlp.0": "transformer_blocks.0: ff_context.net.0.proj",
        "double_blocks.0.txt_mlp.2": "transformer_blocks.0: ff_context.net.2",
        "single_blocks.0.linear1": (
            "single_transformer_blocks.0: attn.to_q attn.to_k attn.to_v proj_mlp"
        ),
        "single_blocks.0.linear2": "single_transformer_blocks.0: proj_out",
        "single_blocks.0.modulation.lin": "single_transformer_blocks.0: norm.linear",
        "time_in.in_layer": "time_text_embed: timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed: timestep_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed: text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed: text_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed: guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed: guidance_embedder.linear_2",
    },
    "klein": {
        **_ATTENTION,
        "double_blocks.0.img_mlp.0": "transformer_blocks.0: ff.linear_in",
        "double_blocks.0.img_mlp.2": "transformer_blocks.0: ff.linear_out",
        "double_blocks.0.txt_mlp.0": "transformer_blocks.0: ff_context.linear_in",
        "double_blocks.0.txt_mlp.2": "transformer_blocks.0: ff_context.linear_out",
        "single_blocks.0.linear1": "single_transformer_blocks.0: attn.to_qkv_mlp_proj",
        "single_blocks.0.linear2": "single_transformer_blocks.0: attn.to_out",
        "double_stream_modulation_img.lin": ": double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": ": double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": ": single_stream_modulation.linear",
        "time_in.in_layer": "time_guidance_embed: timestep_embedder.linear_1",
        "time_in.out_layer": "time_guidance_embed: timestep_embedder.linear_2",
    },
    "zimage": {
        **{
            f"{block}.0.{first}": f"{block}.0: {own}"
            for block in ("layers", "noise_refiner", "context_refiner")
            for first, own in (
                ("attention.qkv", "attention.to_q attention.to_k attention.to_v"),
                ("attention.out", "attention.to_out.0"),
                ("feed_forward.w1", "feed_forward.w1"),
                ("feed_forward.w2", "feed_forward.w2"),
                ("feed_forward.w3", "feed_forward.w3"),
            )
        },
        "layers.0.adaLN_modulation.0": "layers.0: adaLN_modulation.0",
        "x_embedder": ": all_x_embedder.2-1",
        "final_layer.linear": "all_final_layer.2-1: linear",
        "final_layer.adaLN_modulation.1": "all_final_layer.2-1: adaLN_modulation.1",
        "t_embedder.mlp.0": ": t_embedder.mlp.0",
        "t_embedder.mlp.2": ": t_embedder.mlp.2",
        "cap_embedder.1": ": cap_embedder.1",
    },
}
"""The layers of a first code, and those of diffusers whose outputs follow each other in them."""

XLABS = {
    "double_blocks.0.processor.qkv_lora1": "transformer_blocks.0.attn: to_q to_k to_v",
    "double_blocks.0.processor.qkv_lora2": (
        "transformer_blocks.0.attn: add_q_proj add_k_proj add_v_proj"
    ),
    "double_blocks.0.processor.proj_lora1": "transformer_blocks.0.attn: to_out.0",
    "double_blocks.0.processor.proj_lora2": "transformer_blocks.0.attn: to_add_out",
    "single_blocks.0.processor.qkv_lora": "single_transformer_blocks.0.attn: to_q to_k to_v",
    "single_blocks.0.processor.proj_lora": "single_transformer_blocks.0: proj_out",
}

Written = tuple[dict[str, Any], Any]
"""The pieces of a layer, and its changed weight."""
Form = Callable[[Any, Any], Written]


def low_rank(down: str, up: str, alpha: float | None = None, dtype: str = "float32") -> Form:
    def write(weight: Any, made: Any) -> Written:
        import torch

        a, b = (each.to(getattr(torch, dtype)) for each in factors(made, 4, weight))
        scale = 1.0 if alpha is None else alpha / 4
        pieces = {down: a, up: b} | ({} if alpha is None else {"alpha": torch.tensor(alpha)})
        return pieces, weight + scale * (b.float() @ a.float())

    return write


def factors(made: Any, rank: int, weight: Any) -> tuple[Any, Any]:
    """Two factors (rank, in) and (out, rank) of a change that is about as large as the weight."""
    import torch

    high, wide = weight.shape
    size = (float(weight.std()) / rank**0.5) ** 0.5
    a = torch.randn(rank, wide, generator=made) * size
    return a, torch.randn(high, rank, generator=made) * size


def hadamard(weight: Any, made: Any) -> Written:
    import torch

    (a, b), (c, d) = factors(made, 3, weight), factors(made, 3, torch.ones_like(weight))
    c, d = torch.randn(c.shape, generator=made), torch.randn(d.shape, generator=made)
    pieces = {"hada_w1_a": b, "hada_w1_b": a, "hada_w2_a": d, "hada_w2_b": c}
    return {**pieces, "alpha": torch.tensor(1.5)}, weight + 0.5 * (b @ a) * (d @ c)


def kronecker(alpha: float | None, *, whole: bool = False) -> Form:
    def write(weight: Any, made: Any) -> Written:
        import torch

        high, wide = weight.shape
        # As LyCORIS with `factor: 4`; joined layers are cut in the middle of a block by it.
        up, across = (4 if not high % 4 else 1), (4 if not wide % 4 else 1)
        left = torch.randn(up, across, generator=made)
        a, b = factors(made, 2, weight[: high // up, : wide // across])
        pieces = {"lokr_w1": left} | (
            {"lokr_w2": b @ a} if whole else {"lokr_w2_a": b, "lokr_w2_b": a}
        )
        if alpha is not None:
            pieces["alpha"] = torch.tensor(alpha)
        scale = 1.0 if whole or alpha is None else alpha / 2
        return pieces, weight + scale * torch.kron(left, b @ a)

    return write


def dora(name: str, axis: int, form: Form) -> Form:
    def write(weight: Any, made: Any) -> Written:
        import torch

        pieces, changed = form(weight, made)
        had = weight.norm(dim=axis, keepdim=True)
        lengths = had * (0.5 + torch.rand(had.shape, generator=made))
        kept = lengths.flatten() if "magnitude" in name else lengths
        return {**pieces, name: kept}, changed * lengths / changed.norm(dim=axis, keepdim=True)

    return write


def full(weight: Any, made: Any) -> Written:
    import torch

    diff = torch.randn(weight.shape, generator=made) * weight.std()
    return {"diff": diff}, weight + diff


A_AND_B = low_rank("lora_A.weight", "lora_B.weight")
KOHYA = low_rank("lora_down.weight", "lora_up.weight", alpha=2)


@dataclass(frozen=True)
class Layout:
    """`mixed` are further forms: each layer of a file has the next one, in turn."""

    prefix: str
    form: Form = A_AND_B
    mixed: Sequence[Form] = ()
    first: bool = False
    underscores: bool = False
    names: Mapping[str, str] | None = None
    families: Sequence[str] = tuple(FAMILIES)


LAYOUTS = {
    "diffusers": Layout("transformer."),
    "diffusers with alpha": Layout(
        "transformer.", low_rank("lora_A.weight", "lora_B.weight", alpha=1)
    ),
    "diffusers of old": Layout("transformer.", low_rank("lora.down.weight", "lora.up.weight")),
    "diffusers with down and up": Layout("transformer.", KOHYA),
    "peft": Layout("base_model.model."),
    "peft with names of its own": Layout(
        "base_model.model.", low_rank("lora_A.default.weight", "lora_B.default.weight")
    ),
    "bare names": Layout(""),
    "bare names with alpha": Layout("", KOHYA),
    "first names": Layout("", first=True),
    "first names with alpha": Layout("", KOHYA, first=True),
    "fal": Layout("base_model.model.", first=True),
    "ai-toolkit": Layout("diffusion_model.", first=True),
    "ai-toolkit with diffusers' names": Layout("diffusion_model."),
    "ComfyUI": Layout("diffusion_model.", KOHYA, first=True),
    "ComfyUI of a whole model": Layout("model.diffusion_model.", KOHYA, first=True),
    "kohya": Layout("lora_unet_", KOHYA, first=True, underscores=True),
    "kohya with diffusers' names": Layout("lora_unet_", KOHYA, underscores=True),
    "kohya in float8": Layout(
        "lora_unet_",
        low_rank("lora_down.weight", "lora_up.weight", 2, "float8_e4m3fn"),
        first=True,
        underscores=True,
    ),
    "first names in float8": Layout(
        "", low_rank("lora_A.weight", "lora_B.weight", None, "float8_e5m2"), first=True
    ),
    "OneTrainer": Layout("lora_transformer_", KOHYA, underscores=True),
    "OneTrainer with dots": Layout("transformer.", KOHYA),
    "XLabs": Layout(
        "", low_rank("down.weight", "up.weight"), names=XLABS, first=True, families=("flux1",)
    ),
    "LoKr of kohya": Layout("lora_unet_", kronecker(1), first=True, underscores=True),
    "LoKr of ai-toolkit": Layout("diffusion_model.", kronecker(9, whole=True), first=True),
    "LoKr of LyCORIS": Layout("lycoris_", kronecker(1), underscores=True),
    "LoKr without alpha": Layout("diffusion_model.", kronecker(None)),
    "LoHa of kohya": Layout("lora_unet_", hadamard, first=True, underscores=True),
    "LoHa of LyCORIS": Layout("lycoris_", hadamard, underscores=True),
    "DoRA of kohya": Layout(
        "lora_unet_", dora("dora_scale", 1, KOHYA), first=True, underscores=True
    ),
    "DoRA of OneTrainer": Layout(
        "lora_transformer_", dora("dora_scale", 0, KOHYA), underscores=True
    ),
    "DoRA by inputs of joined layers": Layout(
        "diffusion_model.", dora("dora_scale", 0, KOHYA), first=True
    ),
    "DoRA of diffusers": Layout("transformer.", dora("lora_magnitude_vector", 1, A_AND_B)),
    "DoRA of LoHa": Layout("diffusion_model.", dora("dora_scale", 1, hadamard), first=True),
    "DoRA of LoKr": Layout("diffusion_model.", dora("dora_scale", 1, kronecker(1)), first=True),
    "full difference": Layout("diffusion_model.", full, first=True),
    "LoRA and LoKr mixed": Layout(
        "lora_unet_", KOHYA, (kronecker(1),), first=True, underscores=True
    ),
    "all mixed": Layout(
        "diffusion_model.",
        KOHYA,
        (
            hadamard,
            dora("dora_scale", 1, KOHYA),
            full,
            kronecker(1),
            dora("dora_scale", 0, KOHYA),
        ),
        first=True,
    ),
}


@cache
def pipe_for(family: str) -> Any:
    return pipe_of(FAMILIES[family])


def parts_of(text: str) -> tuple[list[str], bool]:
    head, _, names = text.partition(": ")
    head = head.removeprefix("swapped").removeprefix(":")
    return [f"{head}.{each}".lstrip(".") for each in names.split()], text.startswith("swapped")


def written_as(layout: Layout, family: str, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a file, and the weights of the layers that it changes, by diffusers' names."""
    import torch

    pipe, made = pipe_for(family), torch.Generator().manual_seed(seed)
    weights = dict(pipe.transformer.named_parameters())
    forms = itertools.cycle((layout.form, *layout.mixed))
    tensors, changed = {}, {}
    for first, text in (layout.names or FIRST_NAMES[family]).items():
        names, swapped = parts_of(text)
        groups = [(first, names, swapped)]
        if not layout.first:
            groups = [(name, [name], False) for name in names]
        for name, own, turned in groups:
            before = torch.cat([weights[f"{each}.weight"].detach() for each in own])
            if turned:
                before = torch.cat(before.chunk(2)[::-1])
            pieces, after = next(forms)(before, made)
            if turned:
                after = torch.cat(after.chunk(2)[::-1])
            rows = [len(weights[f"{each}.weight"]) for each in own]
            changed |= dict(zip(own, after.split(rows), strict=True))
            place = layout.prefix + (name.replace(".", "_") if layout.underscores else name)
            for piece, tensor in pieces.items():
                join = "_" if piece in ("down.weight", "up.weight") and "lora" not in place else "."
                tensors[f"{place}{join}{piece}"] = tensor.contiguous()
    return tensors, changed


@cache
def inputs_of(family: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a picture's second step gives the transformer."""
    kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    pipe = pipe_for(family)
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, options: kept.append((args, options)), with_kwargs=True
    )
    painted(pipe)
    hook.remove()
    return kept[-1]


def output(family: str) -> Any:
    """What the transformer gives for these inputs: a step of a picture, before it is rounded."""
    import torch

    args, options = inputs_of(family)
    with torch.no_grad():
        made = pipe_for(family).transformer(*args, **options)
    while not torch.is_tensor(made):
        made = made[0]
    return made


@cache
def plain_output(family: str) -> Any:
    return output(family)


def expected(family: str, changed: Mapping[str, Any]) -> Any:
    """The output with these weights in place of the model's."""
    import torch

    transformer = pipe_for(family).transformer
    layers = {name: transformer.get_submodule(name) for name in changed}
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(changed[name])
        try:
            return output(family)
        finally:
            for name, layer in layers.items():
                layer.weight.copy_(before[name])


def alike(one: Any, other: Any) -> bool:
    return float((one - other).abs().max()) <= 2e-4 * float(other.abs().max())
