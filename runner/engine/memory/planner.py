"""The memory planner: chooses how a model is held on this machine, before anything is loaded.

    bf16 → text encoders in turn → tiles → fp8 → nf4 → offload → stream from RAM

The first plan that fits is taken; where none does, the error names a model that fits. A precision
that a spec names is used, or it is an error. Pure: it queries no device, and gives the same plan
for the same machine and model.
"""

from collections.abc import Mapping
from dataclasses import replace

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.memory import footprint
from runner.engine.memory.plans import MemoryPlan, PlanSpace, in_words
from runner.engine.models import Model
from runner.errors import OutOfMemory


def plan(space: PlanSpace, models: Mapping[str, Model] = MODEL_REGISTRY) -> MemoryPlan:
    """The first plan of a space that fits.

    Raises OutOfMemory where none does, naming one of `models` (by default the registry's) that
    does, and InputBad where the machine cannot compute in the precision that is wanted.
    """
    chosen = _first(space)
    if chosen is None:
        raise OutOfMemory(_nothing_fits(space, models))
    return replace(chosen, reasons=_reasons(chosen, space))


def after_out_of_memory(held: MemoryPlan, space: PlanSpace) -> MemoryPlan | None:
    """The next plan with a lower peak than `held`, which ran out of memory; None after the last.

    In this order: text encoders out of the way (no pixel changes), tiles, offload, the next
    precision where none was named, and streaming.
    """
    for lower in space.fallbacks(held):
        if lower.bytes < held.bytes and space.ram(lower) <= space.machine.ram:
            return replace(lower, reasons=(*held.reasons, f"out of memory: now {lower.summary}"))
    return None


def _first(space: PlanSpace) -> MemoryPlan | None:
    room, ram = space.machine.room, space.machine.ram
    fitting = (p for p in space.candidates() if p.bytes <= room and space.ram(p) <= ram)
    return next(fitting, None)


def _reasons(chosen: MemoryPlan, space: PlanSpace) -> tuple[str, ...]:
    """Why this plan and no better one, in plain sentences."""
    model, machine = space.model, space.machine
    where = "this machine" if machine.device == "cpu" else "the GPU"
    reasons = [f"{where} has {size_text(machine.room)} to use"]
    for precision in space.precisions():
        if precision == chosen.precision:
            break
        resident = (each for each in space.candidates() if each.placement == "resident")
        least = min(each.bytes for each in resident if each.precision == precision)
        reasons.append(f"in {precision} the model would need {size_text(least)}")
    weights = size_text(footprint.transformer(model, chosen.precision))
    why = "the best that fits" if space.wanted == "auto" else "as was asked"
    if model.native and space.wanted == "auto":
        why = "its own precision"
    elif space.wanted == "auto" and (machine.device, chosen.precision) == ("cpu", "fp32"):
        # klein at 256 × 256 on a CPU without them: 123 s in fp32, 8 minutes in bf16.
        why = "most CPUs have no units for bf16, and compute in it several times slower"
    reasons.append(f"the transformer is held {in_words(chosen.precision)}, {weights}: {why}")
    text = size_text(footprint.text(model, chosen.text_precision))
    why = _WHY_TEXT[chosen.text]
    reasons.append(f"the text encoders, {text} in {chosen.text_precision}, {why}")
    if chosen.placement in _WHY_PLACED:
        reasons.append(_WHY_PLACED[chosen.placement])
    if chosen.tiling:
        reasons.append("pictures are decoded in tiles, which takes less memory")
    return tuple(reasons)


_WHY_TEXT = {
    "stays": "stay beside it",
    "in turn": "leave before it comes, because both do not fit",
    "cpu": "run on the CPU",
}
_WHY_PLACED = {
    "offload": "the transformer leaves the GPU while a picture is decoded",
    "stream": "the transformer stays in RAM and passes through the GPU: slow, but it runs",
}


def _nothing_fits(space: PlanSpace, models: Mapping[str, Model]) -> str:
    model, machine = space.model, space.machine
    what = "memory" if machine.device == "cpu" else "GPU memory"
    smallest = min(candidate.bytes for candidate in space.candidates())
    short = f"{size_text(smallest)} of {what}, and {size_text(machine.room)} are to be had"
    if smallest <= machine.room:
        fitting = (plan for plan in space.candidates() if plan.bytes <= machine.room)
        least = size_text(min(map(space.ram, fitting)))
        short = f"{least} of RAM, and {size_text(machine.ram)} are free"
    precision = "" if space.wanted == "auto" else f" in {space.wanted}"
    return f"{model.name}{precision} needs {short}: {_advice(space, models)}"


def _advice(space: PlanSpace, models: Mapping[str, Model]) -> str:
    """What to request instead: another precision, else the best other model that fits."""
    model, kind = space.model, space.kind
    in_auto = _first(replace(space, wanted="auto"))
    if in_auto is not None:
        return f"leave `precision` out, then it runs in {in_auto.precision}"
    kinds = {kind} if kind in model.serves else set(model.serves)
    fitting = {}
    for other in models.values():
        if other.name != model.name and kinds & set(other.serves):
            chosen = _first(replace(space, model=other, wanted="auto"))
            if chosen is not None:
                is_resident = chosen.placement == "resident"
                is_free = not other.builtin, not other.conditions
                fitting[*is_free, is_resident, other.weights.transformer] = other.name
    smaller = "ask for a smaller picture"
    if fitting:
        return f"use the model {fitting[max(fitting)]}, which fits, or {smaller}"
    return smaller


def size_text(count: int) -> str:
    """Bytes in GiB or MiB, to print."""
    return f"{count / footprint.GIB:.1f} GiB" if count >= 2**27 else f"{count / 2**20:.0f} MiB"
