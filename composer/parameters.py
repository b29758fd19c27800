"""Merges the parameters of a composed image, in one order, strongest first.

    spec ─ variable ─ subject ─ pack ─ settings ─ model

An aspect ratio becomes a width and a height here. Seeds of a pack are moved into the spec where all
prompts have the same, so that seeds vary fastest as in every other job.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.layers import Block
from composer.packs import Pack
from composer.sizes import ONE_MEGAPIXEL, resolve_size
from composer.tokencount import Encoder, flux1_like
from specs.expand import needs_base

ModelDefaults = Callable[[str | None], Mapping[str, Any]]
"""Gives a model's default parameters by its name.

Besides spec fields these may be `only_sizes`, the (width, height) pairs of a model that makes no
other sizes, and `encoders`, a function that returns its text encoders.
"""

SEEDS = ("seed", "seeds", "count")
"""The fields that say which seeds a prompt has."""


def no_defaults(model: str | None) -> Mapping[str, Any]:
    """Model defaults where none are known."""
    return {}


def encoders_of(defaults: Mapping[str, Any]) -> Sequence[Encoder]:
    """The text encoders that a model's defaults give; FLUX.1's where they give none."""
    encoders: Sequence[Encoder] = defaults.get("encoders", flux1_like)()
    return encoders


def entry_fields(
    pack: Pack,
    spec: Mapping[str, Any],
    subject: Block,
    variable: Block | None,
    settings: Mapping[str, Any],
    model_defaults: ModelDefaults,
) -> dict[str, Any]:
    """The spec fields that variable, subject and pack add; never one that the spec has."""
    of_variable = pack.override("variable", variable.name).defaults if variable else {}
    levels = [of_variable, pack.override("subject", subject.name).defaults, pack.defaults]
    fields: dict[str, Any] = {}
    for level in levels:
        for key in ("model", "steps", "guidance"):
            if key in level and key not in spec:
                fields.setdefault(key, level[key])
    model = spec.get("model", fields.get("model", settings.get("model")))
    below = {**model_defaults(None if model is None else str(model)), **settings}
    pixels = int(below.get("width", 0)) * int(below.get("height", 0)) or ONE_MEGAPIXEL
    # A matrix over one side is not considered: the other side never follows it by a ratio.
    size = resolve_size([spec, *levels], pixels, tuple(below.get("only_sizes", ())))
    fields.update({side: length for side, length in size.items() if side not in spec})
    if not any(key in spec for key in SEEDS):
        seeds = next((level["seeds"] for level in levels if "seeds" in level), None)
        if seeds is not None:
            fields["seeds"] = seeds
    return fields


def common_seeds(spec: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The spec, with the seeds of the prompts added if all prompts have the same seeds."""
    own = [{key: fields[key] for key in SEEDS if key in fields} for fields in entries]
    counts = [each.get("count", 1) for each in own if "seeds" not in each]
    if own and all(each == own[0] for each in own):
        return {**spec, **own[0]}
    # The rows of a table, each with a first seed.
    same = len(counts) == len(own) and len(set(counts)) == 1
    return {**spec, "count": counts[0]} if same else dict(spec)


def own_seeds(spec: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The mappings of one prompt for `specs.expand`: one for each seed of its own, if it has any.

    A prompt's seeds are ignored where the spec has seeds.
    """
    plain = without_seeds(fields)
    if any(key in spec for key in SEEDS):
        first = {"seed": fields["seed"]} if "seed" in fields and needs_base(spec) else {}
        return ({**plain, **first},)
    seeds = seeds_of(spec, fields)
    return tuple(plain if seed is None else {**plain, "seed": seed} for seed in seeds)


def without_seeds(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without the fields that say which seeds it has."""
    return {key: value for key, value in spec.items() if key not in SEEDS}


def seeds_of(spec: Mapping[str, Any], fields: Mapping[str, Any]) -> Sequence[int | None]:
    """The seeds of one prompt, the spec's or else its own; a None for each that is to be drawn."""
    given = spec if any(key in spec for key in SEEDS) else fields
    seeds, first, count = given.get("seeds"), given.get("seed"), int(given.get("count", 1))
    if isinstance(seeds, Mapping):
        first, count = seeds["start"], int(seeds["count"])
    elif seeds is not None:
        return [int(seed) for seed in seeds]
    return [None] * count if first is None else range(int(first), int(first) + count)
