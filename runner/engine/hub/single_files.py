"""What a file of weights is, by its header: the transformer of which model, or none; whole, or not.

People name LoRAs, text encoders and files of other models in `file`, which diffusers finds out
after minutes, with an error about a key, or not at all. Reads names, shapes and dtypes, no weights.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.engine.hub.sources import HEAVY, read_json
from runner.engine.models import Model

_LONGEST_HEADER = 100_000_000
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
_SCALES = (".weight_scale", ".scale_weight")
_NOT_NEEDED = (".input_scale", ".scale_input", ".comfy_quant", "scaled_fp8")
"""Scales of inputs, which are not quantised here, and notes about the layout."""
_OTHERS = "use the bf16 or GGUF file"
_NO_TRANSFORMERS = (
    (r"\.(?:qweight|wscales|smooth_factor)$", f"quantised by SVDQuant (Nunchaku): {_OTHERS}"),
    (r"bitsandbytes__|\.absmax$", f"quantised by bitsandbytes: {_OTHERS}"),
    (
        r"^lora_|[._]lora_(?:A|B|up|down)\b|\.(?:lokr|hada)_w",
        "a LoRA file: name it under `loras` of a spec",
    ),
    (r"^control(?:net)?_|input_hint_block", "a ControlNet, which no model here uses"),
)
_FAMILIES = {
    "flux1": r"(?:vector_in\.in_layer|time_text_embed\.text_embedder\.linear_1)\.weight",
    "flux2": r"double_stream_modulation_img\.lin(?:ear)?\.weight",
    "zimage": r"cap_pad_token",
}
_TITLES = {"flux1": "FLUX.1", "flux2": "FLUX.2", "zimage": "Z-Image"}
_CLASSES = {
    "FluxTransformer2DModel": "flux1",
    "Flux2Transformer2DModel": "flux2",
    "ZImageTransformer2DModel": "zimage",
}
_EMBEDDERS = ("img_in.weight", "x_embedder.weight", "all_x_embedder.2-1.weight")
_CHANNELS = {"fill": 384, "control": 128}
"""What FLUX.1's transformer reads for a patch of these kinds; of the others 64."""
_OTHER_PARTS = (
    (r"(?:input_blocks|down_blocks)\.\d", "a model or VAE of another sort"),
    (r"(?:^|\.)(?:en|de)coder\.(?:conv_in|mid|down|up)\b", "a VAE"),
    (
        r"(?:^|\.)(?:text_model|encoder\.block|embed_tokens|token_embd|self_attn)(?:\.|$)",
        "a text encoder",
    ),
)


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name: shapes, and dtypes in the words of its format.

    `missing` says how many bytes are missing at its end.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    missing: int

    def transformer(self) -> dict[str, str]:
        """The names of a transformer's tensors, each with its name in the file.

        Many tools put a prefix before them. A whole checkpoint has text encoders and a VAE under
        other prefixes, which are left out.
        """
        for prefix in _PREFIXES:
            found = {n.removeprefix(prefix): n for n in self.shapes if n.startswith(prefix)}
            if any(name in found for name in _EMBEDDERS):
                return found
        return {name: name for name in self.shapes}

    def scales(self) -> dict[str, str]:
        """The names of weights in 8-bit floats, each with that of their scale.

        There is one scale, or one for each row. Raises ValueError with the name of any other
        quantised layout.
        """
        scales: dict[str, str] = {}
        for name, dtype in self.dtypes.items():
            stem = name.removesuffix(".weight")
            found = [stem + end for end in _SCALES if stem + end in self.shapes and stem != name]
            if stem != name and f"{stem}.weight_scale_2" in self.shapes:
                raise ValueError("nvfp4")
            if stem != name and dtype in ("U8", "I8"):
                raise ValueError("int8" if dtype == "I8" else "4 bits in uint8")
            if not found:
                continue
            if not dtype.startswith("F8_E"):
                raise ValueError(f"{dtype} with scales")
            if math.prod(self.shapes[found[0]]) not in (1, self.shapes[name][0]):
                raise ValueError("fp8 in blocks")
            scales[name] = found[0]
        return scales

    def needed(self, name: str) -> bool:
        """Whether a tensor is a weight of the model, or has to be applied to one."""
        return not name.endswith((*_NOT_NEEDED, *_SCALES))


def header(file: Path) -> Header:
    """The header of a safetensors or GGUF file. Raises ValueError where it has none."""
    read = _gguf if file.suffix.lower() == ".gguf" else _safetensors
    try:
        return read(file)
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("the header is damaged") from error


def problem(file: Path, model: Model, base: Path | None, shipped: Iterable[Model]) -> str | None:
    """Why a file cannot be the transformer of a model, as a sentence; None where it can be.

    `base` is the folder of the pipeline whose transformer it replaces, where that is here.
    """
    try:
        found = header(file)
    except ValueError:
        return f"{file.name} {_unreadable(file)}"
    if found.missing:
        short = f"its last {found.missing:,} bytes are missing"
        return f"{file.name} is cut short, {short}: {_again(model)}"
    for pattern, what in _NO_TRANSFORMERS:
        if any(re.search(pattern, name) for name in found.shapes):
            return f"{file.name} is {what}"
    has = _traits(found)
    if has is None:
        parts = (what for p, what in _OTHER_PARTS if any(re.search(p, n) for n in found.shapes))
        what = next(parts, "of another model")
        return f"{file.name} is {what}: `file` takes a transformer of FLUX.1, FLUX.2 or Z-Image"
    wants = _wanted(read_json(base / HEAVY / "config.json") if base else None)
    if has.family != model.family or (wants and has != wants):
        like = [each.name for each in shipped if _fits(each, has)]
        if wants and has.family == wants.family and has.width != wants.width:
            like = []
        return f"{file.name} is a transformer of {_TITLES[has.family]} " + (
            f"as in {' or '.join(like)}, and {model.name} is like another: write `like: {like[0]}`"
            if like
            else f"that is {has.width} wide, and no model here is like it"
        )
    try:
        found.scales()
    except ValueError as error:
        return f"{file.name} is quantised as {error}, which cannot be read: {_OTHERS}"
    return None


@dataclass(frozen=True)
class _Traits:
    """What tells transformers apart: the width of a token, and what a patch has to be."""

    family: str
    width: int
    channels: int
    guided: bool


def _traits(found: Header) -> _Traits | None:
    """What the transformer in a file is like; None where there is none of a known family."""
    names = found.transformer()
    embedder = next((names[each] for each in _EMBEDDERS if each in names), None)
    for family, pattern in _FAMILIES.items():
        if embedder and any(re.fullmatch(pattern, name) for name in names):
            width, *_, channels = found.shapes[embedder]
            guided = any(re.search(r"guidance_(?:in|embedder)\.", name) for name in names)
            return _Traits(family, width, channels, guided)
    return None


def _wanted(config: Any) -> _Traits | None:
    """The same of the transformer that a configuration describes; None where it says nothing."""
    if not isinstance(config, dict) or config.get("_class_name") not in _CLASSES:
        return None
    family = _CLASSES[config["_class_name"]]
    if family == "zimage":  # its patches have 2×2 places
        return _Traits(family, config["dim"], 4 * config["in_channels"], False)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return _Traits(family, width, config["in_channels"], config["guidance_embeds"])


def _fits(model: Model, has: _Traits) -> bool:
    """Whether a model that ships has such a transformer, by what it serves."""
    if model.builtin or model.family != has.family:
        return False
    if has.family != "flux1":
        return not has.guided
    channels = next((_CHANNELS[kind] for kind in model.serves if kind in _CHANNELS), 64)
    guided = any(serving.guided for serving in model.serves.values())
    return (channels, guided) == (has.channels, has.guided)


def _unreadable(file: Path) -> str:
    with file.open("rb") as stream:
        begins = stream.read(100).lstrip().lower()
    if begins.startswith(b"version https://git-lfs"):
        return "is what Git LFS left in place of the weights: run `git lfs pull` in its folder"
    if begins.startswith((b"<!doctype", b"<html")):
        return "is a web page and holds no weights: download the file that it shows"
    return f"is damaged, or no {file.suffix} file: fetch it again"


def _again(model: Model) -> str:
    single = model.single
    if single and single.repo and not Path(single.repo).is_absolute():
        return f"run `fluxdrop models pull {model.name} --verify`"
    return "copy it again"


def _safetensors(file: Path) -> Header:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            raise ValueError("no safetensors file")
        text = stream.read(length)
    if len(text) < length:
        return Header({}, {}, length - len(text))
    entries = {name: each for name, each in json.loads(text).items() if name != "__metadata__"}
    ends = max((each["data_offsets"][1] for each in entries.values()), default=0)
    return Header(
        {name: tuple(each["shape"]) for name, each in entries.items()},
        {name: each["dtype"] for name, each in entries.items()},
        max(8 + length + ends - size, 0),
    )


def _gguf(file: Path) -> Header:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

    class Reader(GGUFReader):
        """Stops before the weights: gguf maps each, and fails without a number at the first gap."""

        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            self.ends = start_offs
            self.infos = {}
            for field in fields:
                _, name, _, dims, dtype, offset = field.parts
                kind, count = GGMLQuantizationType(dtype[0]), math.prod(dims.tolist())
                block, width = GGML_QUANT_SIZES[kind]
                self.ends = max(self.ends, start_offs + int(offset[0]) + count // block * width)
                self.infos[bytes(name).decode()] = (tuple(reversed(dims.tolist())), kind.name)

    found = Reader(file)
    return Header(
        {name: shape for name, (shape, _) in found.infos.items()},
        {name: dtype for name, (_, dtype) in found.infos.items()},
        max(int(found.ends) - file.stat().st_size, 0),
    )
