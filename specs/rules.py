"""What JSON Schema cannot say about a spec, in one function.

Works on values that the schema may have refused: each rule looks at what it needs and leaves wrong
types to the schema. Never reads a file and never asks for the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from specs import schemas
from specs.document import short
from specs.suggest import did_you_mean
from specs.times import parse_moment, parse_window

SEED_END = 2**32
SIZE_STEP = 16
"""Widths and heights are multiples of this: 8 pixels a latent of the VAE, 2 latents a patch."""
# Names that Windows keeps for devices, whatever the ending, and names the outbox uses itself.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_TAKEN = frozenset({"drops", "runner.json", "index.html"})

Rule = tuple[list[str | int], str]


def check(name: str, value: dict[str, Any]) -> Iterator[Rule]:
    """Every rule that the value breaks: the path and one sentence."""
    if name == "settings":
        yield from _kinds_named(value)
    elif name not in schemas.kinds():
        return
    else:
        yield from _id(value)
        yield from _seeds(value)
        if _whole(value.get("quality")) is not None and value.get("format") not in ("jpeg", "webp"):
            yield ["quality"], "'quality' works with `format: jpeg` or `format: webp` only"
        if isinstance(value.get("outpaint"), dict) and not any(value["outpaint"].values()):
            yield ["outpaint"], "nothing to add: give at least one side a number of pixels"
    yield from _times(value)


def _id(value: dict[str, Any]) -> Iterator[Rule]:
    given = value.get("id")
    if not isinstance(given, str):
        return
    if given.lower() in _TAKEN:
        yield ["id"], f"{short(given)} is a name that the outbox uses itself"
    elif _DEVICES.fullmatch(given):
        yield ["id"], f"{short(given)} is a device on Windows and cannot name a folder there"


def _seeds(value: dict[str, Any]) -> Iterator[Rule]:
    start, count = _whole(value.get("seed")), _whole(value.get("count", 1))
    if start is not None and count is not None and start < SEED_END < start + count:
        yield ["count"], _passes(start, count)
    seeds = value.get("seeds")
    if isinstance(seeds, dict):
        start, count = _whole(seeds.get("start")), _whole(seeds.get("count"))
        if start is not None and count is not None and start < SEED_END < start + count:
            yield ["seeds", "count"], _passes(start, count)


def _passes(start: int, count: int) -> str:
    return f"seed {start} plus {count} images passes the last seed, {SEED_END - 1}"


def _times(value: dict[str, Any]) -> Iterator[Rule]:
    for field, parse in (("window", parse_window), ("not_before", parse_moment)):
        text = value.get(field)
        if not isinstance(text, str) or len(text) > 40 or not _wellformed(field, text):
            continue
        try:
            parse(text)
        except ValueError as exc:
            yield [field], f"{short(text)}: {exc}"


def _wellformed(field: str, text: str) -> bool:
    """Whether the schema lets it through; else it has said so already."""
    pattern: str = schemas.load("common")["$defs"][field]["pattern"]
    return re.fullmatch(pattern, text) is not None


def _kinds_named(value: dict[str, Any]) -> Iterator[Rule]:
    models = value.get("models")
    for kind in models if isinstance(models, dict) else ():
        if kind not in schemas.kinds():
            offered = ", ".join(schemas.kinds())
            hint = did_you_mean(kind, schemas.kinds(), f"there are {offered}")
            yield ["models", kind], f"{short(kind)} is not a kind ({hint})"


def _whole(value: Any) -> int | None:
    """The number if it is a whole one of reasonable size."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**40:
        return None
    return int(value) if value == int(value) else None
