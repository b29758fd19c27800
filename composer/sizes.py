"""Picture sizes from aspect ratios: multiples of 16 that keep a model's number of pixels.

Pure arithmetic; it knows no model and fills in no default of its own but one megapixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from specs.rules import SIZE_STEP

SMALLEST, LARGEST = 64, 4096
ONE_MEGAPIXEL = 1024 * 1024


def parse_ratio(ratio: str) -> tuple[int, int]:
    """Width and height of a ratio such as "16:9"."""
    wide, high = ratio.split(":")
    return int(wide), int(high)


def size_for(ratio: str, pixels: int = ONE_MEGAPIXEL) -> tuple[int, int]:
    """The width and height nearest to a ratio with about so many pixels."""
    wide, high = parse_ratio(ratio)
    return _fit(sqrt(pixels * wide / high)), _fit(sqrt(pixels * high / wide))


def _fit(length: float) -> int:
    return min(LARGEST, max(SMALLEST, round(length / SIZE_STEP) * SIZE_STEP))


def size_problem(defaults: Mapping[str, Any]) -> str:
    """Why an aspect ratio and the sizes beside it cannot both hold; empty if they can."""
    if "aspect_ratio" not in defaults:
        return ""
    wide, high = parse_ratio(str(defaults["aspect_ratio"]))
    if max(wide / high, high / wide) > LARGEST / SMALLEST:
        return f"{wide}:{high} is narrower than any picture can be"
    if "width" not in defaults or "height" not in defaults:
        return ""
    width, height = int(defaults["width"]), int(defaults["height"])
    # Sizes are multiples of 16, so people round either side to a neighbouring step.
    if min(abs(width - height * wide / high), abs(height - width * high / wide)) <= SIZE_STEP:
        return ""
    return f"the aspect ratio {wide}:{high} contradicts {width} × {height}: leave one of them out"


def resolve_size(
    levels: Sequence[Mapping[str, Any]],
    pixels: int = ONE_MEGAPIXEL,
    only: Sequence[tuple[int, int]] = (),
) -> dict[str, int]:
    """Width and height from several levels of parameters, the strongest first.

    A level's aspect ratio outweighs the sizes of the levels below it; together with one size of a
    stronger level it gives the other one. `only` are the sizes of a model that makes no others.
    """
    size: dict[str, int] = {}
    for level in levels:
        for side in ("width", "height"):
            if side in level:
                size.setdefault(side, int(level[side]))
        if len(size) == 2:
            break
        if "aspect_ratio" in level:
            wide, high = parse_ratio(str(level["aspect_ratio"]))
            if only and not size:
                near = min(only, key=lambda pair: abs(pair[0] / pair[1] - wide / high))
                return {"width": near[0], "height": near[1]}
            if "width" in size:
                size["height"] = _fit(size["width"] * high / wide)
            elif "height" in size:
                size["width"] = _fit(size["height"] * wide / high)
            else:
                size["width"], size["height"] = size_for(str(level["aspect_ratio"]), pixels)
            break
    return size
