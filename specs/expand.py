"""Expands bulk jobs: counts the images of a spec and computes the spec of any one of them.

    image index  =  (prompt of table and compose, combination of the matrix, seed)
                     varies slowest ──────────────────────► fastest

The count is a product, and each image is computed from its index alone: no list of ten thousand
specs is ever built. The specs passed in must have been checked by `specs.validate`.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from specs.errors import Problem, SpecInvalid

MAX_IMAGES = 10_000
SEED_END = 2**32
"""Seeds are below this number."""

# Left out of the spec of one image: the axes, of which it is one point, and ignored fields.
AXES = frozenset(
    "compose choices sample sample_seed table on_error count seeds matrix"
    " $schema schema result".split()
)
JOB_FIELDS = frozenset({"id", "notify", "priority", "reuse", "window", "not_before", "timeout"})


def count(spec: Mapping[str, Any], prompts: int = 1) -> int:
    """The number of images of a spec, where `prompts` is the number of prompts of `compose`.

    Raises SpecInvalid (TooManyImages) above `MAX_IMAGES`.
    """
    combinations = prod(len(values) for values in spec.get("matrix", {}).values())
    total = prompts * combinations * seeds_each(spec)
    if total > MAX_IMAGES:
        message = f"{total:,} images: a job may have {MAX_IMAGES:,}, so split it"
        raise SpecInvalid("TooManyImages", [Problem(0, 0, "", message)])
    return total


def seeds_each(spec: Mapping[str, Any]) -> int:
    """The number of consecutive images that differ only in their seed."""
    seeds = spec.get("seeds")
    if seeds is None:
        return int(spec.get("count", 1))
    return int(seeds["count"]) if isinstance(seeds, Mapping) else len(seeds)


def draw_base(count: int) -> int:
    """A random first seed that leaves `count` consecutive seeds below `SEED_END`."""
    # Imported here because only the acceptance of a spec without a seed needs it.
    import secrets

    return secrets.randbelow(SEED_END - max(count, 1) + 1)


def needs_base(spec: Mapping[str, Any]) -> bool:
    """Whether the spec names no seed, so that a base seed has to be drawn at acceptance."""
    return "seed" not in spec and "seeds" not in spec


def image(
    spec: Mapping[str, Any],
    index: int,
    base_seed: int,
    prompts: Sequence[str | Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The realised spec of image `index` (from 0): one prompt, one combination, one seed.

    A composed prompt is a text, or a mapping with `prompt` and further fields; a field of the spec
    wins over the same field of the prompt. Raises IndexError past the last image.
    """
    matrix: Mapping[str, Sequence[Any]] = spec.get("matrix", {})
    rest, nth_seed = divmod(index, seeds_each(spec))
    chosen: dict[str, Any] = {}
    for field, values in reversed(list(matrix.items())):
        rest, nth_value = divmod(rest, len(values))
        chosen[field] = values[nth_value]
    if not 0 <= rest < (1 if prompts is None else len(prompts)):
        raise IndexError(f"the spec has no image {index}")
    composed: Mapping[str, Any] = {}
    if prompts is not None:
        prompt = prompts[rest]
        composed = {"prompt": prompt} if isinstance(prompt, str) else prompt
    realised = {key: value for key, value in spec.items() if key not in AXES}
    realised |= {key: value for key, value in composed.items() if key not in realised}
    realised |= {field: chosen[field] for field in matrix}
    realised["seed"] = _seed(spec, index, nth_seed, base_seed, composed)
    return realised


def for_sidecar(realised: Mapping[str, Any]) -> dict[str, Any]:
    """A realised spec without the fields of its job: id, notify, order, reuse, hours, timeout."""
    return {key: value for key, value in realised.items() if key not in JOB_FIELDS}


def _seed(
    spec: Mapping[str, Any], index: int, nth: int, base_seed: int, composed: Mapping[str, Any]
) -> int:
    seeds = spec.get("seeds")
    if isinstance(seeds, Mapping):
        return int(seeds["start"]) + nth
    if seeds is not None:
        return int(seeds[nth])
    first = spec.get("seed", composed.get("seed"))
    return base_seed + index if first is None else int(first) + nth
