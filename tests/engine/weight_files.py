"""Files of weights as people have them, as far as their headers go, and small whole ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1, "I8": 1, "I32": 4}


def flux1(channels: int = 64, *, guided: bool = True, prefix: str = "") -> Shapes:
    """Some tensors of a FLUX.1 transformer, in its makers' names and true shapes."""
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (3072, channels),
        "vector_in.in_layer.weight": (3072, 768),
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "final_layer.linear.weight": (64, 3072),
    }
    if guided:
        shapes["guidance_in.in_layer.weight"] = (3072, 256)
    return {prefix + name: shape for name, shape in shapes.items()}


def flux2(width: int = 3072) -> Shapes:
    """Some tensors of a FLUX.2 transformer."""
    return {
        "img_in.weight": (width, 128),
        "double_stream_modulation_img.lin.weight": (18, width),
        "time_in.in_layer.weight": (width, 256),
    }


def flux3() -> Shapes:
    """Some tensors of a FLUX.3 transformer."""
    return {
        "emb_in.image.weight": (3072, 128),
        "early_stream_modulations.txt.lin.weight": (9, 3072),
        "ref_time_in.in_layer.weight": (3072, 256),
    }


def zimage() -> Shapes:
    """Some tensors of a Z-Image transformer."""
    return {
        "x_embedder.weight": (3840, 64),
        "cap_pad_token": (1, 3840),
        "layers.0.attention.qkv.weight": (3, 3840),
    }


def header_only(
    file: Path, shapes: Shapes, *, cut: int = 0, dtypes: Mapping[str, str] | None = None
) -> Path:
    """A safetensors file of zeros, in BF16 where `dtypes` do not say otherwise.

    Its last `cut` bytes are missing.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(name, "BF16")
        begin, end = end, end + math.prod(shape) * _BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end - cut)
    return file


def gguf(file: Path, shapes: Shapes, *, cut: int = 0) -> Path:
    """A GGUF file of zeros in float16, whose last `cut` bytes are missing."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(file, "flux")
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - cut)
    return file


def original(transformer: Any) -> dict[str, Any]:
    """The weights of a transformer in the names of its makers' own files; not of FLUX.1."""
    state = dict(transformer.state_dict())
    if type(transformer).__name__ == "ZImageTransformer2DModel":
        return _original_zimage(state)
    if type(transformer).__name__ == "Flux3Transformer2DModel":
        return _original_flux3(state)
    return _original_flux2(state)


def scaled(state: Mapping[str, Any], ending: str, *, by_row: bool) -> dict[str, Any]:
    """The same with the matrices of the blocks in float8 e4m3 beside scales, as in ComfyUI."""
    import torch

    made: dict[str, Any] = {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}
    for name, tensor in state.items():
        if tensor.ndim == 2 and ("blocks." in name or "layers." in name):
            stem = name.removesuffix(".weight")
            top = tensor.float().abs()
            scale = (top.amax(1, keepdim=True) if by_row else top.max()) / 448
            made[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            made[f"{stem}.{ending}"] = scale.flatten() if by_row else scale
            made[f"{stem}.{'scale_input' if ending == 'scale_weight' else 'input_scale'}"] = (
                torch.ones(())
            )
            if ending == "weight_scale":
                note = b'{"format": "float8_e4m3fn"}'
                made[f"{stem}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
        else:
            made[name] = tensor
    return made


def by_bfl(state: Mapping[str, Any], scheme: str) -> dict[str, Any]:
    """The same with the matrices of the blocks in `fp8r` or `nvfp4`, by BFL's own quantiser."""
    import torch
    from diffusers.quantizers.bfl import utils

    made: dict[str, Any] = {}
    for name, tensor in state.items():
        inside = tensor.ndim == 2 and ("blocks." in name or "layers." in name)
        if not inside or tensor.shape[1] % 16:
            made[name] = tensor
        elif scheme == "fp8r":
            made[name], made[f"{name}_scale"] = utils.quantize_fp8r(tensor)
        else:
            weight, scale, whole = utils.quantize_nvfp4(tensor)
            made |= {name: weight, f"{name}_scale": scale, f"{name}_scale_2": whole}
            made[name.replace(".weight", ".input_scale")] = torch.ones(())
    return made


def _original_zimage(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    made = {}
    for name, tensor in state.items():
        for theirs, ours in (
            (".attention.out.", ".attention.to_out.0."),
            (".attention.k_norm.", ".attention.norm_k."),
            (".attention.q_norm.", ".attention.norm_q."),
            ("final_layer.", "all_final_layer.2-1."),
            ("x_embedder.", "all_x_embedder.2-1."),
        ):
            name = name.replace(ours, theirs)
        if ".to_q." in name:
            parts = [state[name.replace(".to_q.", f".to_{each}.")] for each in "qkv"]
            made[name.replace(".to_q.", ".qkv.")] = torch.cat(parts)
        elif ".to_k." not in name and ".to_v." not in name:
            made[name] = tensor
    return made


_FLUX3 = (
    (r"attn\.to_([qkv])\.", r"\1_proj."),
    (r"attn\.to_out\.0\.", "attn_out."),
    (r"attn\.norm_q\.weight", "norm.query_norm.scale"),
    (r"attn\.norm_k\.weight", "norm.key_norm.scale"),
    (r"ff\.linear_", "mlp_"),
    (r"^mode_blocks", "content_mode_blocks"),
    (r"^single_transformer_blocks", "single_blocks"),
    (r"_modulations\.(\w+)\.linear", r"_modulations.\1.lin"),
    (r"^x_embedders", "emb_in"),
    (r"^context_embedder", "txt_in"),
    (r"^target_timestep_embedder", "ref_time_in"),
    (r"^timestep_embedder", "time_in"),
    (r"time_in\.linear_1", "time_in.in_layer"),
    (r"time_in\.linear_2", "time_in.out_layer"),
    (r"^proj_out", "final_layer.image.linear"),
    (r"^norm_out\.linear", "final_layer.image.adaLN_modulation.1"),
)


def _original_flux3(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    made = {}
    for name, tensor in state.items():
        for ours, theirs in _FLUX3:
            name = re.sub(ours, theirs, name)
        is_swapped = "adaLN_modulation" in name
        made[name] = torch.cat(tensor.chunk(2)[::-1]) if is_swapped else tensor
    return made


_FLUX2 = (
    ("x_embedder", "img_in"),
    ("context_embedder", "txt_in"),
    ("time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("_img.linear", "_img.lin"),
    ("_txt.linear", "_txt.lin"),
    ("single_stream_modulation.linear", "single_stream_modulation.lin"),
    ("proj_out", "final_layer.linear"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("single_transformer_blocks", "single_blocks"),
    ("transformer_blocks", "double_blocks"),
    ("attn.norm_q.weight", "img_attn.norm.query_norm.scale"),
    ("attn.norm_k.weight", "img_attn.norm.key_norm.scale"),
    ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
    ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
    ("attn.to_out.0", "img_attn.proj"),
    ("attn.to_add_out", "txt_attn.proj"),
    ("ff.linear_in", "img_mlp.0"),
    ("ff.linear_out", "img_mlp.2"),
    ("ff_context.linear_in", "txt_mlp.0"),
    ("ff_context.linear_out", "txt_mlp.2"),
    ("attn.to_qkv_mlp_proj", "linear1"),
    ("attn.to_out", "linear2"),
)


def _original_flux2(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    made = {}
    for name, tensor in state.items():
        fused = {"to_q": ("img_attn", "to_{}"), "add_q_proj": ("txt_attn", "add_{}_proj")}
        part = name.split(".")[-2]
        if part in ("to_k", "to_v", "add_k_proj", "add_v_proj"):
            continue
        if part in fused:
            where, named = fused[part]
            parts = [state[name.replace(part, named.format(each))] for each in "qkv"]
            number = name.split(".")[1]
            made[f"double_blocks.{number}.{where}.qkv.weight"] = torch.cat(parts)
            continue
        theirs = name
        for ours, original in _FLUX2:
            theirs = theirs.replace(ours, original)
        if theirs.startswith("single_blocks"):
            theirs = theirs.replace(".img_attn.norm.", ".norm.")
        if "adaLN" in theirs:
            scale, shift = tensor.chunk(2)
            tensor = torch.cat([shift, scale])
        made[theirs] = tensor
    return made
