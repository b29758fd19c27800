"""Bulk jobs: how many images a spec asks for, and what each one of them is.

    image index  =  (prompt of compose, combination of the matrix, seed)
                     varies slowest ──────────────────────► fastest

Counting is arithmetic and every image is made from its index alone: no list of ten thousand specs
is ever built. Takes specs that `validate` has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from specs.errors import Problem, SpecInvalid

MAX_IMAGES = 10_000
SEED_END = 2**32
# What the realised spec of one image leaves out: the axes that it is one point of, and what
# readers ignore.
_AXES = frozenset({"compose", "count", "seeds", "matrix", "$schema", "schema", "result"})
_OF_THE_JOB = frozenset({"id", "priority", "window", "not_before", "timeout"})


def count(spec: Mapping[str, Any], prompts: int = 1) -> int:
    """How many images the spec asks for, `prompts` being the number that `compose` gave."""
    total = prompts * prod(len(values) for values in _matrix(spec)) * seeds_each(spec)
    if total > MAX_IMAGES:
        message = f"{total:,} images: a job may have {MAX_IMAGES:,}, so split it"
        raise SpecInvalid("TooManyImages", [Problem(0, 0, "", message)])
    return total


def draw_base(count: int) -> int:
    """A random first seed with room for `count` images after it."""
    # Only an acceptance without a seed pays for this import.
    import secrets

    return secrets.randbelow(SEED_END - max(count, 1) + 1)


def needs_base(spec: Mapping[str, Any]) -> bool:
    """Whether the spec names no seed, so that a base has to be drawn at acceptance."""
    return "seed" not in spec and "seeds" not in spec


def image(
    spec: Mapping[str, Any],
    index: int,
    base_seed: int,
    prompts: Sequence[str | Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The realised spec of image `index` (from 0): one prompt, one combination, one seed.

    A composed prompt may come with fields of its own (a mapping with `prompt`); the spec's fields
    win over those.
    """
    rest, nth_seed = divmod(index, seeds_each(spec))
    chosen: dict[str, Any] = {}
    for field, values in reversed(list(spec.get("matrix", {}).items())):
        rest, which = divmod(rest, len(values))
        chosen[field] = values[which]
    if not 0 <= rest < (1 if prompts is None else len(prompts)):
        raise IndexError(f"the spec has no image {index}")
    composed: Mapping[str, Any] = {}
    if prompts is not None:
        text = prompts[rest]
        composed = {"prompt": text} if isinstance(text, str) else text
    own = {key: value for key, value in spec.items() if key not in _AXES}
    realised = {**own, **{key: value for key, value in composed.items() if key not in own}}
    for field in list(spec.get("matrix", {})):
        realised[field] = chosen[field]
    realised["seed"] = _seed(spec, index, nth_seed, base_seed, composed)
    return realised


def for_sidecar(realised: Mapping[str, Any]) -> dict[str, Any]:
    """A realised spec without what belongs to the job: id, priority, hours and timeout."""
    return {key: value for key, value in realised.items() if key not in _OF_THE_JOB}


def _matrix(spec: Mapping[str, Any]) -> list[Sequence[Any]]:
    return list(spec.get("matrix", {}).values())


def seeds_each(spec: Mapping[str, Any]) -> int:
    """How many images in a row differ in nothing but the seed."""
    seeds = spec.get("seeds")
    if seeds is None:
        return int(spec.get("count", 1))
    return int(seeds["count"]) if isinstance(seeds, Mapping) else len(seeds)


def _seed(
    spec: Mapping[str, Any], index: int, nth: int, base_seed: int, composed: Mapping[str, Any]
) -> int:
    seeds = spec.get("seeds")
    if isinstance(seeds, Mapping):
        return int(seeds["start"]) + nth
    if seeds is not None:
        return int(seeds[nth])
    if "seed" in spec:
        return int(spec["seed"]) + nth
    if "seed" in composed:
        return int(composed["seed"]) + nth
    return base_seed + index
