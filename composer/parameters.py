"""The parameters of a composed image, merged in one order, strongest first.

    spec ─ variable ─ subject ─ pack ─ settings ─ model

An aspect ratio becomes a width and a height here. Seeds that a pack brings are handed to the spec
where all prompts share them, so that seeds vary fastest as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.packs import Block, Pack
from composer.sizes import ONE_MEGAPIXEL, resolve_size
from composer.tokencount import Encoder, flux1_like

ModelDefaults = Callable[[str | None], Mapping[str, Any]]
"""A model's own parameters by its name. Beside those that are spec fields: `only_sizes`, the sizes
of one that makes no others, and `encoders`, a function that gives what reads its prompts."""

BESIDE = ("only_sizes", "encoders")
"""What model defaults say beside spec fields."""

_SEEDS = ("seed", "seeds", "count")
_PLAIN = ("model", "steps", "guidance")


def no_defaults(model: str | None) -> Mapping[str, Any]:
    """Model defaults where none are known."""
    return {}


def encoders_of(model_defaults: ModelDefaults) -> Callable[[str | None], Sequence[Encoder]]:
    """What reads the prompts of a model, by its name."""

    def of(model: str | None) -> Sequence[Encoder]:
        defaults = model_defaults(model)
        if "encoders" in defaults:
            given: Sequence[Encoder] = defaults["encoders"]()
            return given
        return flux1_like()

    return of


def entry_fields(
    pack: Pack,
    spec: Mapping[str, Any],
    subject: Block,
    variable: Block | None,
    settings: Mapping[str, Any],
    model_defaults: ModelDefaults,
) -> dict[str, Any]:
    """What variable, subject and pack give to an image: spec fields, none that the spec has."""
    named = pack.override("variable", variable.name).defaults if variable else {}
    levels = [named, pack.override("subject", subject.name).defaults, pack.defaults]
    fields: dict[str, Any] = {}
    for level in levels:
        for key in _PLAIN:
            if key in level and key not in spec:
                fields.setdefault(key, level[key])
    model = spec.get("model", fields.get("model", settings.get("model")))
    below = {**model_defaults(None if model is None else str(model)), **settings}
    pixels = int(below.get("width", 0)) * int(below.get("height", 0)) or ONE_MEGAPIXEL
    # A matrix over one side leaves the other to the levels below it, never to a ratio.
    size = resolve_size([spec, *levels], pixels, tuple(below.get("only_sizes", ())))
    fields.update({side: length for side, length in size.items() if side not in spec})
    if not any(key in spec for key in _SEEDS):
        seeds = next((level["seeds"] for level in levels if "seeds" in level), None)
        if seeds is not None:
            fields["seeds"] = seeds
    return fields


def common_seeds(spec: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The spec, with the seeds that all prompts bring, if they bring the same."""
    first = entries[0].get("seeds") if entries else None
    if first is None or any(fields.get("seeds") != first for fields in entries):
        return dict(spec)
    return {**spec, "seeds": first}


def own_seeds(spec: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The mappings of one prompt for `specs.expand`: one for each seed that only it brings."""
    plain = {key: value for key, value in fields.items() if key != "seeds"}
    seeds = fields.get("seeds")
    if seeds is None or any(key in spec for key in _SEEDS):
        return (plain,)
    if isinstance(seeds, Mapping):
        start = int(seeds["start"])
        return tuple({**plain, "seed": start + n} for n in range(int(seeds["count"])))
    return tuple({**plain, "seed": int(seed)} for seed in seeds)
