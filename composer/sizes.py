"""Computes picture sizes from aspect ratios: multiples of 16 with a model's number of pixels.

Pure arithmetic; the only default is one megapixel. All sizes are in pixels.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from specs.rules import LARGEST_SIDE, SIZE_STEP, SMALLEST_SIDE

ONE_MEGAPIXEL = 1024 * 1024


def _parse_ratio(ratio: str) -> tuple[int, int]:
    wide, high = ratio.split(":")
    return int(wide), int(high)


def _fit(length: float) -> int:
    return min(LARGEST_SIDE, max(SMALLEST_SIDE, round(length / SIZE_STEP) * SIZE_STEP))


def size_problem(defaults: Mapping[str, Any]) -> str:
    """Why an aspect ratio and the sizes in the same mapping contradict each other; empty if not."""
    if "aspect_ratio" not in defaults:
        return ""
    wide, high = _parse_ratio(str(defaults["aspect_ratio"]))
    if max(wide / high, high / wide) > LARGEST_SIDE / SMALLEST_SIDE:
        return f"{wide}:{high} is narrower than any picture can be"
    if "width" not in defaults or "height" not in defaults:
        return ""
    width, height = int(defaults["width"]), int(defaults["height"])
    # Sizes are multiples of 16, so either side may be rounded to a neighbouring multiple.
    if min(abs(width - height * wide / high), abs(height - width * high / wide)) <= SIZE_STEP:
        return ""
    return f"the aspect ratio {wide}:{high} contradicts {width} × {height}: leave one of them out"


def resolve_size(
    levels: Sequence[Mapping[str, Any]],
    pixels: int = ONE_MEGAPIXEL,
    only: Sequence[tuple[int, int]] = (),
) -> dict[str, int]:
    """Width and height from several levels of parameters, the strongest first.

    A level's aspect ratio overrides the sizes of the levels below it; together with one side from a
    stronger level it gives the other side, else both, with about `pixels` pixels. `only` lists the
    (width, height) pairs of a model that makes no other sizes. Sides that no level determines are
    absent.
    """
    size: dict[str, int] = {}
    for level in levels:
        for side in ("width", "height"):
            if side in level:
                size.setdefault(side, int(level[side]))
        if len(size) == 2:
            break
        if "aspect_ratio" in level:
            wide, high = _parse_ratio(str(level["aspect_ratio"]))
            if only and not size:
                nearest = min(only, key=lambda pair: abs(pair[0] / pair[1] - wide / high))
                return {"width": nearest[0], "height": nearest[1]}
            if "width" in size:
                size["height"] = _fit(size["width"] * high / wide)
            elif "height" in size:
                size["width"] = _fit(size["height"] * wide / high)
            else:
                size["width"] = _fit(sqrt(pixels * wide / high))
                size["height"] = _fit(sqrt(pixels * high / wide))
            break
    return size
