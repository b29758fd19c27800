"""Converts the settings that other programs write into a fluxdrop spec.

A setting without a field in a spec is kept under an `x_` key. So is a size, a seed or a number of
steps out of range; the model's default then applies, as it does for a guidance out of range. So is
a negative prompt that did nothing (at a CFG scale of 1) or that the model does not take.
"""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from runner.gallery.infotext import Infotext
from specs.rules import LARGEST_SIDE, SIZE_STEP, SMALLEST_SIDE

# The beginning of a tag with a name: those without are many where a text is to take long.
_TAG, _WEIGHT = re.compile("<lora:(?=[^:>])"), re.compile(r"[\d.+-]+")
_LONGEST_NAME = 200
# The models with a negative prompt and true CFG.
_NEGATIVE = frozenset(
    {"dev", "krea", "kontext-dev", "tiny", "klein-base", "klein-base-9b", "flux3-klein-base"}
)
_GUIDED_BY_CFG = dict.fromkeys(("klein-base", "klein-base-9b", "flux3-klein-base"), "guidance")
# The first match wins, so the more specific patterns come first.
_MODELS = (
    (r"flux.?3.*klein.?base", "flux3-klein-base"),
    (r"flux.?3.*klein", "flux3-klein"),
    (r"klein.?base.?9b", "klein-base-9b"),
    (r"klein.?base", "klein-base"),
    (r"klein.?9b.?kv", "klein-9b-kv"),
    (r"klein.?9b", "klein-9b"),
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


def from_infotext(infotext: Infotext) -> dict[str, Any]:
    """A spec from the text that A1111, Forge, sd.cpp and similar programs write."""
    pairs = infotext.pairs
    size = re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", ""))
    spec: dict[str, Any] = {"kind": pairs.get("Pipeline", "text2img")}
    spec |= _model(pairs.get("Model"))
    prompt, tags = _without_tags(infotext.prompt)
    spec["prompt"] = prompt.strip()
    spec |= _integer("seed", pairs.get("Seed"), 0, 2**32 - 1)
    spec |= _integer("steps", pairs.get("Steps"), 1, 1000)
    spec |= _guidance(pairs.get("Distilled CFG Scale", pairs.get("Guidance")))
    if size:
        spec |= _size(size[1], size[2])
    loras = [
        {"path": f"{name}.safetensors", "weight": _number(weight, 1.0), "name": name}
        for name, weight in tags
    ]
    if loras:
        spec["loras"] = loras
    if pairs.get("Control type") in ("canny", "depth"):
        spec["control"] = pairs["Control type"]
    if spec["kind"] == "control" and spec.get("model") == "z-image-turbo":
        spec |= {"model": "z-image-control"}
        weight = _number(pairs.get("Control weight"), -1.0)
        spec |= {"strength": weight} if 0 <= weight <= 1 else {}
    cfg = _number(pairs.get("CFG scale"), 1.0)
    negative = infotext.negative.strip()
    if spec.get("model") in _NEGATIVE and 1.01 <= cfg <= 100 and len(negative) <= 2000:
        spec |= {"negative_prompt": negative} if negative else {}
        spec[_GUIDED_BY_CFG.get(str(spec["model"]), "true_cfg")] = cfg
        negative = ""
    made_with, strength = pairs.get("Version"), pairs.get("Denoising strength")
    return spec | _extra(negative_prompt=negative, strength=strength, made_with=made_with)


def from_mflux(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A spec from mflux's sidecar or EXIF text; None for a mapping that is neither."""
    if "mflux_version" not in settings or not isinstance(settings.get("prompt"), str):
        return None
    name = str(settings.get("base_model") or settings.get("model") or "")
    spec: dict[str, Any] = {"kind": "text2img"} | _model(name) | {"prompt": settings["prompt"]}
    spec |= _integer("seed", settings.get("seed"), 0, 2**32 - 1)
    spec |= _integer("steps", settings.get("steps"), 1, 1000)
    spec |= _guidance(settings.get("guidance"))
    spec |= _size(settings.get("width"), settings.get("height"))
    paths, scales = settings.get("lora_paths") or (), settings.get("lora_scales") or ()
    if isinstance(paths, list) and paths:
        weights = [*scales, *[1.0] * len(paths)] if isinstance(scales, list) else [1.0] * len(paths)
        spec["loras"] = [
            {"path": PurePath(str(path)).name, "weight": _number(weight, 1.0)}
            for path, weight in zip(paths, weights, strict=False)
        ]
    return spec | _extra(
        negative_prompt=settings.get("negative_prompt"),
        made_with=f"mflux {settings['mflux_version']}",
        image_path=settings.get("image_path"),
        controlnet_image_path=settings.get("controlnet_image_path"),
        masked_image_path=settings.get("masked_image_path"),
    )


def _without_tags(prompt: str) -> tuple[str, list[tuple[str, str]]]:
    """A prompt without its tags `<lora:name:weight>` and the blanks before them, and the tags.

    Reads it once: an expression for whole tags would look for the end of each again and again.
    """
    pieces, tags = [], []
    at = 0
    while (tag := _TAG.search(prompt, at)) and (end := prompt.find(">", tag.end())) >= 0:
        name, _, rest = prompt[tag.end() : end].partition(":")
        weight = _WEIGHT.match(rest)
        tags.append((name, weight[0] if weight else ""))
        pieces.append(prompt[at : tag.start()].rstrip())
        at = end + 1
    return "".join(pieces) + prompt[at:], tags


def _model(name: str | None) -> dict[str, str]:
    if not name:
        return {}
    for pattern, model in _MODELS:
        if re.search(pattern, name[:_LONGEST_NAME].lower()):
            return {"model": model}
    return {"x_model": name[:_LONGEST_NAME]}


def _integer(key: str, value: object, lowest: int, highest: int) -> dict[str, Any]:
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
    if all(SMALLEST_SIDE <= side <= LARGEST_SIDE and side % SIZE_STEP == 0 for side in sides):
        return {"width": sides[0], "height": sides[1]}
    return {"x_size": f"{sides[0]}x{sides[1]}"}


def _number(value: object, otherwise: float) -> float:
    try:
        return float(str(value))
    except ValueError:
        return otherwise


def _extra(**values: object) -> dict[str, str]:
    return {f"x_{key}": str(value) for key, value in values.items() if value}
