"""What holds for every plan, whatever the model, the machine and the size of the picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.memory import planner as memory
from runner.engine.memory.plans import Machine, MemoryPlan, PlanSpace
from runner.errors import JobFailed, OutOfMemory
from tests.engine.cards import DEV, GIB, MEGAPIXEL, card, plan_for, words

PLACEMENTS = ("stream", "offload", "resident")
BITS = {"nf4": 4, "int8": 8, "fp8": 8, "bf16": 16, "fp32": 32}

MODELS = st.sampled_from(sorted(MODEL_REGISTRY))
PIXELS = st.sampled_from([64 * 64, 512 * 512, MEGAPIXEL, 1536 * 1536, 2048 * 2048])
SIZES = st.sampled_from([size * GIB // 4 for size in range(400)])
CARDS = st.builds(Machine, st.just("cuda"), SIZES, SIZES, st.booleans(), st.booleans())
OTHERS = st.builds(Machine, st.sampled_from(["cpu", "mps"]), st.just(0), SIZES)
MACHINES = CARDS | OTHERS


@pytest.mark.parametrize("wanted", ["bf16", "fp8", "int8", "nf4"])
@pytest.mark.parametrize("size", [8, 16, 48])
def test_a_precision_that_is_named_is_kept(wanted: str, size: int) -> None:
    plan: MemoryPlan | None = plan_for(DEV, card(size), MEGAPIXEL, wanted=wanted, kind="text2img")
    while plan is not None:
        assert plan.precision == wanted
        space = PlanSpace(DEV, card(size), MEGAPIXEL, wanted, "text2img")
        plan = memory.after_out_of_memory(plan, space)


@given(
    st.sampled_from(sorted(MODEL_REGISTRY)),
    st.floats(6, 80),
    st.floats(8, 128),
    st.booleans(),
)
def test_naming_the_precision_that_was_chosen_gives_the_same_plan_again(
    name: str, size: float, ram: float, fp8: bool
) -> None:
    """A sidecar names it, and has to make the same picture."""
    model, machine = MODEL_REGISTRY[name], card(size, fp8=fp8, ram=ram)
    try:
        chosen = plan_for(model, machine, MEGAPIXEL)
    except OutOfMemory:
        return
    again = plan_for(model, machine, MEGAPIXEL, wanted=chosen.precision)
    assert words(again) == words(chosen)


def planned(name: str, machine: Machine, pixels: int, wanted: str = "auto") -> MemoryPlan | None:
    try:
        return plan_for(MODEL_REGISTRY[name], machine, pixels, wanted=wanted)
    except JobFailed:
        return None


@given(MODELS, MACHINES, PIXELS, st.sampled_from(["auto", "bf16", "fp8", "int8", "nf4"]))
def test_no_plan_expects_more_than_there_is(
    name: str, machine: Machine, pixels: int, wanted: str
) -> None:
    plan = planned(name, machine, pixels, wanted)
    if plan is None:
        return
    assert plan.bytes <= machine.room
    assert wanted == "auto" or plan.precision == wanted
    assert machine.device == "cuda" or plan.placement == "resident"


@given(MODELS, CARDS, PIXELS, SIZES, SIZES)
def test_more_memory_never_gives_a_worse_plan(
    name: str, machine: Machine, pixels: int, vram: int, ram: int
) -> None:
    plan = planned(name, machine, pixels)
    more = planned(name, replace(machine, vram=machine.vram + vram, ram=machine.ram + ram), pixels)
    if plan is not None:
        assert more is not None
        assert worth(more) >= worth(plan)


def worth(plan: MemoryPlan) -> tuple[int, int, bool]:
    """Where the weights live comes first, because a streamed model is several times slower."""
    return PLACEMENTS.index(plan.placement), BITS[plan.precision], not plan.tiling


@given(MODELS, MACHINES, PIXELS, st.sampled_from(["auto", "bf16", "fp8", "int8"]))
def test_the_ladder_always_ends_and_every_fallback_expects_less(
    name: str, machine: Machine, pixels: int, wanted: str
) -> None:
    plan, model = planned(name, machine, pixels, wanted), MODEL_REGISTRY[name]
    while plan is not None:
        lower = memory.after_out_of_memory(plan, PlanSpace(model, machine, pixels, wanted))
        if lower is not None:
            assert lower.bytes < plan.bytes
            assert wanted == "auto" or lower.precision == wanted
        plan = lower
