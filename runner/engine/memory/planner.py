"""The memory planner: how a model is held on this machine, decided before anything is loaded.

    bf16 → text encoders in turn → tiles → fp8 → nf4 → offload → stream from RAM

The first that fits is taken; where none does, the error names a model that would. A precision that
a spec names is kept, or it is an error: never silently another. Pure: no torch, no device is asked,
and the same machine and model always give the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runner.engine.memory import footprint
from runner.engine.memory.plans import Machine, MemoryPlan, Ways
from runner.engine.models import Model
from runner.errors import JobFailed, OutOfMemory

__all__ = ["Machine", "MemoryPlan", "after_out_of_memory", "lines", "plan"]


def plan(
    model: Model,
    machine: Machine,
    pixels: int,
    *,
    wanted: str = "auto",
    kind: str = "",
    models: Mapping[str, Model] | None = None,
) -> MemoryPlan:
    """How this model makes pictures of so many pixels here; without a kind, all that it serves.

    Raises OutOfMemory where nothing fits, naming one of `models` (else of the registry) that does,
    and JobFailed where the machine cannot compute in the precision that is wanted.
    """
    ways = Ways(model, machine, pixels, wanted, kind)
    found = _first(ways)
    if found is None:
        raise OutOfMemory(_nothing_fits(ways, models))
    return replace(found, reasons=_reasons(found, ways))


def after_out_of_memory(
    held: MemoryPlan, model: Model, machine: Machine, pixels: int, *, wanted: str, kind: str = ""
) -> MemoryPlan | None:
    """The next plan down when the device was fuller than expected; None after the last.

    Text encoders out of the way (no pixel changes), then tiles, offload, the next precision where
    none was named, and streaming. Every one expects a lower peak than the one before it.
    """
    ways = Ways(model, machine, pixels, wanted, kind)
    for lower in ways.below(held):
        if ways.ram(lower) <= machine.ram:
            return replace(lower, reasons=(*held.reasons, f"out of memory: now {lower.summary}"))
    return None


def lines(
    model: Model,
    machine: Machine,
    pixels: int | None = None,
    *,
    wanted: str = "auto",
    models: Mapping[str, Model] | None = None,
) -> list[str]:
    """The plan of a model and its reasons, or why there is none, for people.

    Without `pixels`, for pictures of the model's own size.
    """
    width, height = model.sizes.default
    try:
        found = plan(model, machine, pixels or width * height, wanted=wanted, models=models)
    except JobFailed as error:
        return [str(error)]
    peak = f"{_size(found.bytes)} of {_size(machine.room)}"
    return [f"{model.name} runs {found.summary}: about {peak}", *found.reasons]


def _first(ways: Ways) -> MemoryPlan | None:
    machine = ways.machine
    for candidate in ways.candidates():
        if candidate.bytes <= machine.room and ways.ram(candidate) <= machine.ram:
            return candidate
    return None


def _reasons(found: MemoryPlan, ways: Ways) -> tuple[str, ...]:
    """Why this plan and no better one, in plain sentences."""
    model, machine = ways.model, ways.machine
    where = "this machine" if machine.device == "cpu" else "the GPU"
    said = [f"{where} has {_size(machine.room)} to use"]
    for precision in ways.precisions():
        if precision == found.precision:
            break
        said.append(f"in {precision} the model would need {_size(_resident(ways, precision))}")
    weights = _size(footprint.transformer(model, found.precision))
    why = "the best that fits" if ways.wanted == "auto" else "as was asked"
    if model.native:
        why = "its own precision"
    said.append(f"the transformer is held in {found.precision}, {weights}: {why}")
    text = _size(footprint.text(model, found.text_precision))
    said.append(f"the text encoders, {text} in {found.text_precision}, {_WHY_TEXT[found.text]}")
    said += [_WHY_PLACED[found.placement]] if found.placement in _WHY_PLACED else []
    said += ["pictures are decoded in tiles, which takes less memory"] if found.tiling else []
    return tuple(said)


_WHY_TEXT = {
    "stays": "stay beside it",
    "in turn": "leave before it comes, because both do not fit",
    "cpu": "run on the CPU",
}
_WHY_PLACED = {
    "offload": "the transformer leaves the GPU while a picture is decoded",
    "stream": "the transformer stays in RAM and passes through the GPU: slow, but it runs",
}


def _resident(ways: Ways, precision: str) -> int:
    """The smallest peak with the transformer on the device in this precision."""
    return min(
        each.bytes
        for each in ways.candidates()
        if each.precision == precision and each.placement == "resident"
    )


def _nothing_fits(ways: Ways, models: Mapping[str, Model] | None) -> str:
    from runner.engine.entries import MODEL_REGISTRY

    model, machine = ways.model, ways.machine
    what = "memory" if machine.device == "cpu" else "GPU memory"
    smallest = min(each.bytes for each in ways.candidates())
    short = f"{_size(smallest)} of {what}, and {_size(machine.room)} are to be had"
    if smallest <= machine.room:
        ram = min(ways.ram(each) for each in ways.candidates() if each.bytes <= machine.room)
        short = f"{_size(ram)} of RAM, and {_size(machine.ram)} are free"
    named = "" if ways.wanted == "auto" else f" in {ways.wanted}"
    return f"{model.name}{named} needs {short}: {_advice(ways, models or MODEL_REGISTRY)}"


def _advice(ways: Ways, models: Mapping[str, Model]) -> str:
    """What to ask for instead: another precision, else the best other model that fits."""
    model, kind = ways.model, ways.kind
    own = _first(replace(ways, wanted="auto"))
    if own is not None:
        return f"leave `precision` out, then it runs in {own.precision}"
    kinds = {kind} if kind in model.serves else set(model.serves)
    fitting = {}
    for other in models.values():
        if other != model and kinds & set(other.serves):
            found = _first(replace(ways, model=other, wanted="auto"))
            if found is not None:
                whole = found.placement == "resident"
                fitting[not other.builtin, whole, other.weights.transformer] = other.name
    smaller = "ask for a smaller picture"
    if fitting:
        return f"use the model {fitting[max(fitting)]}, which fits, or {smaller}"
    return smaller


def _size(count: int) -> str:
    return f"{count / footprint.GIB:.1f} GiB" if count >= 2**27 else f"{count / 2**20:.0f} MiB"
