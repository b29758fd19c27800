"""What a file or folder of weights is: the transformer of which model, or none; whole, or not.

People name LoRAs, text encoders and files of other models in `file`, which diffusers finds out
after minutes, with an error about a key, or not at all. Reads names, shapes and dtypes, no weights.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.engine.hub.sources import HEAVY, components, read_index, read_json, single_source
from runner.engine.models import Model
from runner.files import instead_of_weights, tensors_in

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
_SCALES = (".weight_scale", ".scale_weight")
_NOT_NEEDED = (*_SCALES, ".weight_scale_2", ".input_scale", ".scale_input", ".comfy_quant",
               "scaled_fp8")  # fmt: skip
"""Scales are applied to their weights; inputs are not quantised here; the others are notes."""
_OTHERS = "use the bf16 or GGUF file"
_NO_TRANSFORMERS = {
    r"\.(?:qweight|wscales|smooth_factor)$": f"quantised by SVDQuant (Nunchaku): {_OTHERS}",
    r"bitsandbytes__|\.absmax$": f"quantised by bitsandbytes: {_OTHERS}",
    r"^lora_|[._]lora_(?:A|B|up|down)\b|\.(?:lokr|hada)_w": (
        "a LoRA file: name it under `loras` of a spec"
    ),
    r"^control(?:net)?_|input_hint_block": "a ControlNet, which is no transformer",
}
_FAMILIES = {
    "flux1": r"(?:vector_in\.in_layer|time_text_embed\.text_embedder\.linear_1)\.weight",
    "flux2": r"double_stream_modulation_img\.lin(?:ear)?\.weight",
    "flux3": r"early_stream_modulations\.txt\.lin(?:ear)?\.weight",
    "zimage": r"cap_pad_token",
}
_EMBEDDERS = (
    "img_in.weight",
    "x_embedder.weight",
    "all_x_embedder.2-1.weight",
    "emb_in.image.weight",
    "x_embedders.image.weight",
)
_CHANNELS = {"fill": 384, "control": 128}
"""What FLUX.1's transformer reads for a patch of these kinds; of the others 64."""
_CLASSES = dict(zip(("Flux", "Flux2", "Flux3", "ZImage"), _FAMILIES, strict=True))
_OTHER_PARTS = {
    r"(?:input_blocks|down_blocks)\.\d": "a model or VAE of another sort",
    r"(?:^|\.)(?:en|de)coder\.(?:conv_in|mid|down|up)\b": "a VAE",
    r"(?:^|\.)(?:text_model|encoder\.block|embed_tokens|token_embd|self_attn)(?:\.|$)": (
        "a text encoder"
    ),
}

_Traits = tuple[str, int, int, bool]
"""What tells transformers apart: family, width of a token, channels of a patch, guidance."""


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name: shapes, and dtypes in the words of its format.

    `missing` says how many bytes are missing at its end, or less than 0 for too many. `noted` says
    that it has ComfyUI's notes about quantised layers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    missing: int
    noted: bool = False

    def transformer(self) -> dict[str, str]:
        """The names of a transformer's weights, each with its name in the file.

        Many tools put a prefix before them. A whole checkpoint has text encoders and a VAE under
        other prefixes, which are left out.
        """
        weights = [name for name in self.shapes if not name.endswith(_NOT_NEEDED)]
        for prefix in _PREFIXES:
            found = {n.removeprefix(prefix): n for n in weights if n.startswith(prefix)}
            if any(name in found for name in _EMBEDDERS):
                return found
        return {name: name for name in weights}

    def scales(self) -> dict[str, str]:
        """The names of weights in 8-bit floats, each with that of their scale, or one for each row.

        Without those in nvfp4. Raises ValueError with the name of any other quantised layout.
        """
        scales: dict[str, str] = {}
        bare: list[str] = []
        for name in (name for name in self.transformer().values() if name.endswith(".weight")):
            stem, dtype = name.removesuffix(".weight"), self.dtypes[name]
            found = [stem + end for end in _SCALES if stem + end in self.shapes]
            if f"{stem}.weight_scale_2" in self.shapes:
                if not self._is_nvfp4(stem):
                    raise ValueError("nvfp4 in another layout than BFL's")
                continue
            if dtype in ("U8", "I8"):
                raise ValueError("int8" if dtype == "I8" else "4 bits in uint8")
            if found:
                if not dtype.startswith("F8_E"):
                    raise ValueError(f"{dtype} with scales")
                if math.prod(self.shapes[found[0]]) not in (1, *self.shapes[name][:1]):
                    raise ValueError("fp8 in blocks")
                scales[name] = found[0]
            elif dtype.startswith("F8_E") and len(self.shapes[name]) == 2:
                bare.append(name)
        is_marked = any(f"{prefix}scaled_fp8" in self.shapes for prefix in ("", *_PREFIXES))
        if bare and (scales or is_marked):
            raise ValueError(f"fp8 without the scale of {bare[0]}")
        return scales

    def scheme(self) -> str:
        """What BFL's quantiser calls this layout: nvfp4, fp8r (a scale for each row), or "".

        Raises ValueError as `scales`.
        """
        scales = self.scales()
        if any(f"{name}_scale_2" in self.shapes for name in self.transformer().values()):
            return "nvfp4"
        by_row = (
            self.dtypes[name] == "F8_E4M3"
            and len(self.shapes[name]) == 2
            and math.prod(self.shapes[scale]) == self.shapes[name][0]
            for name, scale in scales.items()
        )
        return "fp8r" if scales and all(by_row) else ""

    def _is_nvfp4(self, stem: str) -> bool:
        """Whether a layer is in nvfp4 as BFL has it: ComfyUI orders the scales in another way."""
        shapes, dtypes = self.shapes, self.dtypes
        rows, *packed = shapes[f"{stem}.weight"] or (0,)
        ends = ("weight", "weight_scale", "weight_scale_2", "input_scale")
        alone = (shapes.get(f"{stem}.{end}") in ((), (1,)) for end in ends[2:])
        return (
            not self.noted
            and [dtypes.get(f"{stem}.{end}") for end in ends] == ["U8", "F8_E4M3", "F32", "F32"]
            and [8 * n for n in shapes[f"{stem}.weight_scale"]] == [8 * rows, *packed]
            and all(alone)
        )


def header(file: Path) -> Header:
    """The header of a safetensors or GGUF file. Raises ValueError where it has none."""
    try:
        return _gguf(file) if file.suffix.lower() == ".gguf" else _safetensors(file)
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("the header is damaged") from error


def damage(file: Path, model: Model) -> str | None:
    """Why a file of a model's weights is none or not whole, as a sentence; None where it is."""
    again = "copy it again"
    if not model.single or not single_source(model).is_local:
        again += f", or run `fluxdrop models pull {model.name} --verify`"
    try:
        found = header(file)
    except ValueError:
        with file.open("rb") as stream:
            what = instead_of_weights(stream) or f"damaged, or no {file.suffix} file"
        return f"{file.name} is {what}: {again}"
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror}"
    if found.missing:
        last = f"its last {abs(found.missing):,} bytes are"
        what = f"cut short, {last} missing" if found.missing > 0 else f"damaged, {last} too many"
        return f"{file.name} is {what}: {again}"
    return None


def problem(file: Path, model: Model, base: Path | None, shipped: Iterable[Model]) -> str | None:
    """Why a file cannot be the transformer of a model, as a sentence; None where it can be.

    `base` is the folder of the pipeline whose transformer it replaces, where that is here.
    """
    if damaged := damage(file, model):
        return damaged
    found = header(file)
    for pattern, what in _NO_TRANSFORMERS.items():
        if any(re.search(pattern, name) for name in found.shapes):
            return f"{file.name} is {what}"
    has = _traits(found)
    if has is None:
        known = (w for p, w in _OTHER_PARTS.items() if any(re.search(p, n) for n in found.shapes))
        what = next(known, "of another model")
        return f"{file.name} is {what}: `file` takes a transformer of FLUX.1 to 3 or Z-Image"
    wants = _wanted(model.family, read_json(base / HEAVY / "config.json") if base else None)
    if has[0] != model.family or (wants and has != wants):
        return _like(file.name, has, model, shipped)
    try:
        found.scales()
    except ValueError as error:
        return f"{file.name} is quantised as {error}, which cannot be read: {_OTHERS}"
    return None


def folder_problem(folder: Path, model: Model, shipped: Iterable[Model]) -> str | None:
    """Why the transformer in a pipeline's folder is not such a model's; None where it may be."""
    config, index = read_json(folder / HEAVY / "config.json"), read_index(folder)
    where = config if HEAVY in components(index) else index
    kind = str(where.get("_class_name") or "") if isinstance(where, dict) else ""
    family = _CLASSES.get(kind.removesuffix("Transformer2DModel"))
    if family is None and kind and model.family in _FAMILIES:
        return f"{folder} holds another model ({kind}): FLUX.1 to 3 and Z-Image are known here"
    has = _wanted(family, config) if family else None
    if has is None or _fits(model, *has):
        return None
    return _like(f"the transformer in {folder}", has, model, shipped)


def _like(what: str, has: _Traits, model: Model, shipped: Iterable[Model]) -> str:
    like = [each.name for each in shipped if each.width == has[1] and _fits(each, *has)]
    if not like:
        return f"{what} is a transformer {has[1]} wide, and no model here is like it"
    return f"{what} is as in {' or '.join(like)}, {model.name} is not: write `like: {like[0]}`"


def _traits(found: Header) -> _Traits | None:
    """What the transformer in a file is like; None where there is none of a known family."""
    names = found.transformer()
    embedder = next((names[each] for each in _EMBEDDERS if each in names), None)
    for family, pattern in _FAMILIES.items():
        if embedder and any(re.fullmatch(pattern, name) for name in names):
            if len(found.shapes[embedder]) != 2:
                return None
            width, channels = found.shapes[embedder]
            guided = any(re.search(r"guidance_(?:in|embedder)\.", name) for name in names)
            return family, width, channels, guided
    return None


def _wanted(family: str, config: Any) -> _Traits | None:
    """The same of the transformer that a configuration describes; None where it says nothing."""
    try:
        if family == "zimage":  # its patches have 2×2 places
            return family, config["dim"], 4 * config["in_channels"], False
        width = config["num_attention_heads"] * config["attention_head_dim"]
        guided = family != "flux3" and config["guidance_embeds"]
        return family, width, config["in_channels"], guided
    except (TypeError, LookupError):
        return None


def _fits(model: Model, family: str, width: int, channels: int, guided: bool) -> bool:
    """Whether a model has such a transformer, by what it serves."""
    if model.family != family:
        return False
    if family != "flux1":
        return not guided
    usual = {_CHANNELS.get(kind, 64) for kind in model.serves}
    return channels in usual and guided == any(each.guided for each in model.serves.values())


def _safetensors(file: Path) -> Header:
    with file.open("rb") as stream:
        entries, missing = tensors_in(stream)
        if missing > 0 and instead_of_weights(stream):  # a header of 64 MB may begin as a pickle
            raise ValueError("no safetensors file")
        stream.seek(0)
        text = stream.read(int.from_bytes(stream.read(8), "little"))
    return Header(
        {name: tuple(each["shape"]) for name, each in entries.items()},
        {name: each["dtype"] for name, each in entries.items()},
        missing,
        b'"_quantization_metadata"' in text or any(n.endswith(".comfy_quant") for n in entries),
    )


def _gguf(file: Path) -> Header:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

    class Reader(GGUFReader):
        """Stops before the weights: gguf maps each, and fails without a number at the first gap."""

        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            self.shapes, self.dtypes, self.ends = {}, {}, start_offs
            for field in fields:
                _, name, _, dims, dtype, offset = field.parts
                kind, shape = GGMLQuantizationType(dtype[0]), tuple(reversed(dims.tolist()))
                block, width = GGML_QUANT_SIZES[kind]
                size = math.prod(shape) // block * width
                self.ends = max(self.ends, start_offs + int(offset[0]) + size)
                self.shapes[bytes(name).decode()] = shape
                self.dtypes[bytes(name).decode()] = kind.name

    found = Reader(file)
    return Header(found.shapes, found.dtypes, max(int(found.ends) - file.stat().st_size, 0))
