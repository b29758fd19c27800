"""Checks the rules about specs that JSON Schema cannot express.

`check` also takes values that the schema has refused: each rule tests only the fields it needs and
leaves wrong types to the schema. Reads no file and no clock.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from specs import schemas
from specs.document import short
from specs.expand import SEED_END
from specs.suggest import did_you_mean, nearest
from specs.times import parse_moment, parse_window

SIZE_STEP = 16
"""Widths and heights are multiples of this: 8 pixels a latent of the VAE, 2 latents a patch."""
SMALLEST_SIDE, LARGEST_SIDE = 64, 4096
"""The bounds of a width and of a height in pixels."""

COMPOSING = ("choices", "sample", "sample_seed")
"""The fields that say how the prompts of `compose` are made."""

# Names that Windows reserves for devices, whatever the extension.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_OUTBOX_NAMES = frozenset({"drops", "runner.json", "index.html"})

Violation = tuple[list[str | int], str]
"""The path of a value that breaks a rule, and one sentence."""


def check(name: str, value: dict[str, Any]) -> Iterator[Violation]:
    """Every rule that a value breaks; `name` is the schema it is checked by."""
    if name == "settings":
        models = value.get("models")
        for kind in models if isinstance(models, dict) else ():
            if kind not in schemas.kinds():
                yield ["models", kind], unknown_kind(kind)
        yield from _receivers(value)
    elif name not in schemas.kinds():
        return
    else:
        yield from _id(value)
        yield from _seeds(value)
        has_quality = _whole_number(value.get("quality")) is not None
        # Of a table, each row is checked with the spec.
        if has_quality and value.get("format", "png") == "png" and "table" not in value:
            yield ["quality"], "'quality' works with `format: jpeg` or `format: webp` only"
        if value.get("keep_original") is True and not _upscales(value):
            yield ["keep_original"], "'keep_original' keeps the picture before 'upscale': give one"
        for name in COMPOSING if "compose" not in value else ():
            if name in value:
                yield [name], f"{name!r} is about the blocks of a pack: give `compose` as well"
        if isinstance(value.get("outpaint"), dict) and not any(value["outpaint"].values()):
            yield ["outpaint"], "nothing to add: give at least one side a number of pixels"
    yield from _times(value)


def unknown_receivers(names: Any, known: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The place in the list and a sentence for each name that is of no receiver."""
    known = [*known]
    there = f"there are {', '.join(known)}" if known else "there are none"
    for number, name in enumerate(names if isinstance(names, list) else ()):
        if isinstance(name, str) and name not in known:
            hint = did_you_mean(name, known, there)
            yield number, f"{short(name)} is none of the settings' receivers: {hint}"


def _receivers(settings: dict[str, Any]) -> Iterator[Violation]:
    known, on = settings.get("receivers", {}), settings.get("on")
    for name, receiver in known.items() if isinstance(known, dict) else ():
        try:
            parts = urlsplit(receiver.get("url", "//x"))
            is_url = parts.hostname and parts.port != 0 and parts.hostname.encode("idna")
        except (AttributeError, TypeError, ValueError):
            is_url = False
        if not is_url:
            yield ["receivers", name, "url"], "not a URL: see its host, and its port, 1 to 65535"
        elif parts.username is not None:
            yield ["receivers", name, "url"], "has a user, who is not sent: sign with `secret_env`"
    for event, names in on.items() if isinstance(on, dict) and isinstance(known, dict) else ():
        for number, why in unknown_receivers(names, known):
            yield ["on", event, number], why


def unknown_kind(value: Any) -> str:
    """The sentence for something that is not a kind."""
    kinds, other = schemas.kinds(), schemas.other_name(str(value))
    hint = did_you_mean(value, kinds, f"there are {', '.join(kinds)}")
    return f"{short(value)} is not a kind ({f'here it is {other}' if '`' in other else hint})"


def meant_kind(value: Any) -> str | None:
    """The kind that something which is none is a misspelling or another program's word of."""
    _, _, other = schemas.other_name(str(value)).partition("`")
    return nearest(other.partition("`")[0] or value, schemas.kinds())


def _id(value: dict[str, Any]) -> Iterator[Violation]:
    job_id = value.get("id")
    if not isinstance(job_id, str):
        return
    if job_id.lower() in _OUTBOX_NAMES:
        yield ["id"], f"{short(job_id)} is a name that the outbox uses itself"
    elif _DEVICES.fullmatch(job_id):
        yield ["id"], f"{short(job_id)} is a device on Windows and cannot name a folder there"


def _seeds(value: dict[str, Any]) -> Iterator[Violation]:
    ranges: list[tuple[list[str | int], Any, Any]] = [
        (["count"], value.get("seed"), value.get("count", 1))
    ]
    seeds = value.get("seeds")
    if isinstance(seeds, dict):
        ranges.append((["seeds", "count"], seeds.get("start"), seeds.get("count")))
    for path, first, number in ranges:
        start, count = _whole_number(first), _whole_number(number)
        if start is not None and count is not None and start < SEED_END < start + count:
            yield path, f"seed {start} plus {count} images passes the last seed, {SEED_END - 1}"


def _upscales(value: dict[str, Any]) -> bool:
    matrix = value.get("matrix")
    in_matrix = isinstance(matrix, dict) and "upscale" in matrix
    return in_matrix or not value.keys().isdisjoint(("upscale", "table"))


def _times(value: dict[str, Any]) -> Iterator[Violation]:
    for field, parse in (("window", parse_window), ("not_before", parse_moment)):
        text = value.get(field)
        if not isinstance(text, str) or len(text) > 40:
            continue
        pattern: str = schemas.load("common")["$defs"][field]["pattern"]
        # The schema has already reported a text that does not match its pattern.
        if not re.fullmatch(pattern, text):
            continue
        try:
            parse(text)
        except ValueError as exc:
            yield [field], f"{short(text)}: {exc}"


def _whole_number(value: Any) -> int | None:
    """The value as an int if it is a whole number (20.0 is one) from 0 to 2**40 - 1, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**40:
        return None
    return int(value) if value == int(value) else None
