"""Cards of any size, and a plan for one of them as a line of words."""

from __future__ import annotations

from collections.abc import Mapping

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.memory import planner as memory
from runner.engine.memory.plans import Machine, MemoryPlan, PlanSpace
from runner.engine.models import Model

GIB = 2**30
MEGAPIXEL = 1024 * 1024
DEV = MODEL_REGISTRY["dev"]


def card(size: float, *, fp8: bool = True, ram: float = 32, bitsandbytes: bool = True) -> Machine:
    """A card of so many GB, of which the driver and the desktop have one."""
    return Machine("cuda", int((size - 1) * GIB), int(ram * GIB), fp8, bitsandbytes)


def plan_for(
    model: Model,
    machine: Machine,
    pixels: int = MEGAPIXEL,
    wanted: str = "auto",
    kind: str = "",
    models: Mapping[str, Model] = MODEL_REGISTRY,
) -> MemoryPlan:
    """The first plan that fits."""
    return memory.plan(PlanSpace(model, machine, pixels, wanted, kind), models)


def words(plan: MemoryPlan) -> str:
    """A plan as one line of words."""
    listed = [plan.precision, f"text {plan.text} {plan.text_precision}"]
    listed += [plan.placement] if plan.placement != "resident" else []
    return ", ".join(listed + (["tiles"] if plan.tiling else []))
