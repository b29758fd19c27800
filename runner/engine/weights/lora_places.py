"""The layers of a module by every name that a LoRA file may have for them.

Files name layers as diffusers does or as the model's first code did, with dots or underscores. The
names are made for a module at hand, so that no table has the number or the size of its blocks.
diffusers' converters are not used: they have both for some models, and drop what they do not know.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from runner.lora_names import plain

_QKV = "attn.to_q attn.to_k attn.to_v"
_REFINED = {
    "attention.to_q attention.to_k attention.to_v": "attention.qkv",
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
}
_BLOCKS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "transformer_blocks": (
        "double_blocks",
        {
            _QKV: "img_attn.qkv processor.qkv_lora1",
            "attn.add_q_proj attn.add_k_proj attn.add_v_proj": "txt_attn.qkv processor.qkv_lora2",
            "attn.to_out.0": "img_attn.proj processor.proj_lora1",
            "attn.to_add_out": "txt_attn.proj processor.proj_lora2",
            "ff.net.0.proj": "img_mlp.0",
            "ff.linear_in": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff.linear_out": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.linear_in": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
            "ff_context.linear_out": "txt_mlp.2",
            "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin",
            "attn.norm_q": "img_attn.norm.query_norm",
            "attn.norm_k": "img_attn.norm.key_norm",
            "attn.norm_added_q": "txt_attn.norm.query_norm",
            "attn.norm_added_k": "txt_attn.norm.key_norm",
        },
    ),
    "single_transformer_blocks": (
        "single_blocks",
        {
            f"{_QKV} proj_mlp": "linear1",
            _QKV: "processor.qkv_lora",
            "attn.to_qkv_mlp_proj": "linear1",
            "proj_out": "linear2 processor.proj_lora",
            "attn.to_out": "linear2",
            "norm.linear": "modulation.lin",
            "attn.norm_q": "norm.query_norm",
            "attn.norm_k": "norm.key_norm",
        },
    ),
    **{name: (name, _REFINED) for name in ("layers", "noise_refiner", "context_refiner")},
}
"""Of each list of blocks its first name, and the first names of the layers in a block.

Several layers under one first name lie in its output one after the other. `processor` is XLabs'.
"""

_SWAPPED = "final_layer.adaLN_modulation.1"
_OUTSIDE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder": "time_in",
    "time_text_embed.text_embedder": "vector_in",
    "time_text_embed.guidance_embedder": "guidance_in",
    "time_guidance_embed.timestep_embedder": "time_in",
    "time_guidance_embed.guidance_embedder": "guidance_in",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "norm_out.linear": _SWAPPED,
    "proj_out": "final_layer.linear",
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": _SWAPPED,
}


class Place(NamedTuple):
    """The layers that a name stands for; `swapped` where the halves of the output changed place."""

    layers: tuple[str, ...]
    swapped: bool = False


def places(layers: Mapping[str, Any]) -> dict[str, Place]:
    """The layers of a module, by every name that a file may have for them."""
    table: dict[str, Place] = {}

    def add(alias: str, *names: str) -> None:
        if all(name in layers for name in names):
            swapped = alias == _SWAPPED and names == ("norm_out.linear",)
            table.setdefault(plain(alias), Place(names, swapped))

    for name in layers:
        add(name, name)
    for name in layers:
        for inner in ("text_model.", "model."):  # with and without, by the version of transformers
            add(name.removeprefix(inner), name)
            add(inner + name, name)
        if name.startswith("transformer_blocks."):
            add(name.removeprefix("tran"), name)  # some tools cut `transformer_`, and more
    for head, number in {tuple(name.split(".")[:2]) for name in layers if name.count(".") > 1}:
        first, rows = _BLOCKS.get(head, ("", {}))
        for own, others in rows.items():
            for other in others.split():
                names = (f"{head}.{number}.{each}" for each in own.split())
                add(f"{first}.{number}.{other}", *names)
    for own, other in _OUTSIDE.items():
        add(other, own)
        add(f"{other}.in_layer", f"{own}.linear_1")
        add(f"{other}.out_layer", f"{own}.linear_2")
    return table
