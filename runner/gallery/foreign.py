"""Other programs' settings as our spec, as far as they go.

What we have no field for is kept under an `x_` key, so that nothing is dropped in silence; what
we could not do (a size, a seed out of range) is left out, and the model's default applies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from runner.gallery.infotext import Infotext
from specs.rules import SIZE_STEP

_LORA = re.compile(r"\s*<lora:([^:>]+)(?::([\d.+-]+))?[^>]*>")
# The first that fits wins, so the special ones stand before the plain ones.
_MODELS = (
    (r"klein.?4b|^klein$", "klein"),
    (r"z.?image.?turbo", "z-image-turbo"),
    (r"kontext", "kontext-dev"),
    (r"schnell", "schnell"),
    (r"krea", "krea"),
    (r"flux.*fill|fill.?dev", "fill-dev"),
    (r"flux.*canny", "canny"),
    (r"flux.*depth", "depth"),
    (r"flux.?1?.?dev|^dev$", "dev"),
    (r"^tiny$", "tiny"),
)


def from_infotext(said: Infotext) -> dict[str, Any]:
    """A spec out of the text that A1111, Forge, sd.cpp and their kin write."""
    pairs = said.pairs
    size = re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", ""))
    spec: dict[str, Any] = {"kind": pairs.get("Pipeline", "text2img")}
    spec |= _model(pairs.get("Model"))
    spec["prompt"] = _LORA.sub("", said.prompt).strip()
    spec |= _whole("seed", pairs.get("Seed"), 0, 2**32 - 1)
    spec |= _whole("steps", pairs.get("Steps"), 1, 1000)
    spec |= _guidance(pairs.get("Distilled CFG Scale", pairs.get("Guidance")))
    if size:
        spec |= _size(size[1], size[2])
    loras = [
        {"path": f"{name}.safetensors", "weight": _number(weight, 1.0), "name": name}
        for name, weight in _LORA.findall(said.prompt)
    ]
    if loras:
        spec["loras"] = loras
    if pairs.get("Control type") in ("canny", "depth"):
        spec["control"] = pairs["Control type"]
    return spec | _kept(negative_prompt=said.negative, made_with=pairs.get("Version"))


def from_mflux(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """A spec out of mflux's sidecar or its EXIF text; None where the mapping is no such thing."""
    if "mflux_version" not in said or not isinstance(said.get("prompt"), str):
        return None
    name = str(said.get("base_model") or said.get("model") or "")
    spec: dict[str, Any] = {"kind": "text2img"} | _model(name) | {"prompt": said["prompt"]}
    spec |= _whole("seed", said.get("seed"), 0, 2**32 - 1)
    spec |= _whole("steps", said.get("steps"), 1, 1000)
    spec |= _guidance(said.get("guidance"))
    spec |= _size(said.get("width"), said.get("height"))
    paths, scales = said.get("lora_paths") or (), said.get("lora_scales") or ()
    if isinstance(paths, list) and paths:
        weights = [*scales, *[1.0] * len(paths)] if isinstance(scales, list) else [1.0] * len(paths)
        spec["loras"] = [
            {"path": PurePath(str(path)).name, "weight": _number(weight, 1.0)}
            for path, weight in zip(paths, weights, strict=False)
        ]
    return spec | _kept(
        negative_prompt=said.get("negative_prompt"),
        made_with=f"mflux {said['mflux_version']}",
        image_path=said.get("image_path"),
        controlnet_image_path=said.get("controlnet_image_path"),
        masked_image_path=said.get("masked_image_path"),
    )


def _model(name: str | None) -> dict[str, str]:
    if not name:
        return {}
    for pattern, ours in _MODELS:
        if re.search(pattern, name.lower()):
            return {"model": ours}
    return {"x_model": name}


def _whole(key: str, value: object, lowest: int, highest: int) -> dict[str, Any]:
    try:
        number = int(str(value))
    except ValueError:
        return {}
    return {key: number} if lowest <= number <= highest else {f"x_{key}": str(value)}


def _guidance(value: object) -> dict[str, Any]:
    number = _number(value, -1.0)
    return {"guidance": number} if 0 <= number <= 100 else {}


def _size(width: object, height: object) -> dict[str, Any]:
    try:
        sides = (int(str(width)), int(str(height)))
    except ValueError:
        return {}
    if all(64 <= side <= 4096 and side % SIZE_STEP == 0 for side in sides):
        return {"width": sides[0], "height": sides[1]}
    return {"x_size": f"{sides[0]}x{sides[1]}"}


def _number(value: object, otherwise: float) -> float:
    try:
        return float(str(value))
    except ValueError:
        return otherwise


def _kept(**facts: object) -> dict[str, str]:
    return {f"x_{key}": str(value) for key, value in facts.items() if value}
