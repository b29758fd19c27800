"""How models are held on cards of every size: the table of plans, and what holds for them all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine import memory
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.memory import Machine, Plan, footprint
from runner.engine.models import SingleFile
from runner.errors import JobFailed, OutOfMemory

GIB = 2**30
MEGAPIXEL = 1024 * 1024
DEV, KLEIN, TINY = (MODEL_REGISTRY[name] for name in ("dev", "klein", "tiny"))

ADA = {
    ("schnell", "text2img"): {
        8: "nf4, text in turn nf4, offload, tiles",
        12: "nf4, text in turn bf16",
        16: "fp8, text in turn bf16, tiles",
        24: "fp8, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("dev", "text2img"): {
        8: "nf4, text in turn nf4, offload, tiles",
        12: "nf4, text in turn bf16",
        16: "fp8, text in turn bf16, tiles",
        24: "fp8, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("kontext-dev", "kontext"): {
        8: "bf16, text in turn nf4, stream, tiles",
        12: "nf4, text in turn bf16",
        16: "fp8, text in turn bf16, tiles",
        24: "fp8, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("fill-dev", "fill"): {
        8: "nf4, text in turn nf4, offload, tiles",
        12: "nf4, text in turn bf16",
        16: "fp8, text in turn bf16, tiles",
        24: "fp8, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("canny", "control"): {
        8: "nf4, text in turn nf4, offload, tiles",
        12: "nf4, text in turn bf16",
        16: "fp8, text in turn bf16, tiles",
        24: "fp8, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("dev", "redux"): {
        8: "bf16, text in turn nf4, stream, tiles",
        12: "nf4, text in turn bf16, tiles",
        16: "fp8, text in turn bf16, tiles",
        24: "fp8, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("klein", "text2img"): {
        8: "fp8, text in turn nf4, tiles",
        12: "bf16, text in turn bf16, tiles",
        16: "bf16, text in turn bf16",
        24: "bf16, text stays bf16",
        48: "bf16, text stays bf16",
    },
    ("z-image-turbo", "text2img"): {
        8: "nf4, text in turn nf4, tiles",
        12: "fp8, text in turn bf16",
        16: "bf16, text in turn bf16, tiles",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
}
"""Cards of these many GB that know fp8 (RTX 40 and later), 1024×1024, with 32 GB of RAM."""

AMPERE = {
    ("dev", "text2img"): {
        8: "nf4, text in turn nf4, offload, tiles",
        12: "nf4, text in turn bf16",
        16: "nf4, text in turn bf16",
        24: "nf4, text stays bf16",
        48: "bf16, text stays bf16",
    },
    ("klein", "text2img"): {
        8: "nf4, text in turn nf4, tiles",
        12: "bf16, text in turn bf16, tiles",
        16: "bf16, text in turn bf16",
        24: "bf16, text stays bf16",
        48: "bf16, text stays bf16",
    },
    ("z-image-turbo", "text2img"): {
        8: "nf4, text in turn nf4, tiles",
        12: "nf4, text in turn bf16",
        16: "bf16, text in turn bf16, tiles",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
}
"""The same for cards that do not (RTX 30 and before)."""

PLACEMENTS = ("stream", "offload", "resident")
BITS = {"nf4": 4, "fp8": 8, "bf16": 16, "fp32": 32}


def card(size: float, *, fp8: bool = True, ram: float = 32, bitsandbytes: bool = True) -> Machine:
    """A card of so many GB, of which the driver and the desktop have one."""
    return Machine("cuda", int((size - 1) * GIB), int(ram * GIB), fp8, bitsandbytes)


def words(plan: Plan) -> str:
    listed = [plan.precision, f"text {plan.text} {plan.text_precision}"]
    listed += [plan.placement] if plan.placement != "resident" else []
    return ", ".join(listed + (["tiles"] if plan.tiling else []))


@pytest.mark.parametrize(("model", "kind"), ADA)
def test_the_plans_for_cards_that_know_fp8(model: str, kind: str) -> None:
    made = {
        size: words(memory.plan(MODEL_REGISTRY[model], card(size), MEGAPIXEL, kind=kind))
        for size in ADA[model, kind]
    }
    assert made == ADA[model, kind]


@pytest.mark.parametrize(("model", "kind"), AMPERE)
def test_the_plans_for_cards_that_do_not_know_fp8(model: str, kind: str) -> None:
    made = {
        size: words(memory.plan(MODEL_REGISTRY[model], card(size, fp8=False), MEGAPIXEL, kind=kind))
        for size in AMPERE[model, kind]
    }
    assert made == AMPERE[model, kind]


@pytest.mark.parametrize(
    ("machine", "planned"),
    [
        (Machine("cpu", 0, 128 * GIB), "fp32, text stays fp32"),
        (Machine("cpu", 0, 44 * GIB), "bf16, text stays bf16"),
        (Machine("cpu", 0, 30 * GIB), "bf16, text in turn bf16"),
        (Machine("cpu", 0, 18 * GIB), "fp8, text in turn bf16"),
        (Machine("mps", 0, 40 * GIB), "bf16, text stays bf16"),
        (Machine("mps", 0, 25 * GIB, bitsandbytes=True), "bf16, text in turn bf16, tiles"),
        (Machine("mps", 0, 12 * GIB, bitsandbytes=True), "nf4, text in turn bf16"),
        (card(16, fp8=False, bitsandbytes=False), "fp8, text in turn bf16, tiles"),
        (card(6, ram=14, bitsandbytes=False), "fp8, text cpu bf16, stream, tiles"),
    ],
)
def test_the_plans_for_other_machines(machine: Machine, planned: str) -> None:
    assert words(memory.plan(DEV, machine, MEGAPIXEL, kind="text2img")) == planned


@pytest.mark.parametrize("machine", [Machine("cpu", 0, GIB // 2), card(1.5), card(80)])
def test_the_built_in_model_runs_in_its_own_precision_everywhere(machine: Machine) -> None:
    assert words(memory.plan(TINY, machine, 64 * 64)) == "fp32, text stays fp32"


@pytest.mark.parametrize(
    ("precision", "placement", "text", "file", "published"),
    [
        ("bf16", "resident", "bf16", "", 36.2),
        ("bf16", "offload", "", "", 23.3),
        ("gguf", "resident", "bf16", "flux1-dev-Q8_0.gguf", 26.0),
        ("gguf", "offload", "", "flux1-dev-Q8_0.gguf", 13.0),
        ("gguf", "resident", "bf16", "flux1-dev-Q4_1.gguf", 21.3),
    ],
)
def test_expected_peaks_are_near_the_published_ones(
    precision: str, placement: str, text: str, file: str, published: float
) -> None:
    model = replace(DEV, single=SingleFile(file) if file else None)
    peak = footprint.painting(model, "text2img", precision, placement, False, MEGAPIXEL)
    peak += footprint.text(model, text) if text else 0
    assert peak / GIB == pytest.approx(published, rel=0.04)


def test_a_larger_picture_takes_more_and_tiles_take_less() -> None:
    peaks = [
        footprint.painting(DEV, "text2img", "nf4", "resident", tiling, pixels)
        for pixels, tiling in ((4 * MEGAPIXEL, False), (MEGAPIXEL, False), (MEGAPIXEL, True))
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] - peaks[1] == pytest.approx(3 * 4.8 * GIB, rel=0.01)


@pytest.mark.parametrize("wanted", ["bf16", "fp8", "nf4"])
@pytest.mark.parametrize("size", [8, 16, 48])
def test_a_precision_that_is_named_is_kept(wanted: str, size: int) -> None:
    plan: Plan | None = memory.plan(DEV, card(size), MEGAPIXEL, wanted=wanted, kind="text2img")
    while plan is not None:
        assert plan.precision == wanted
        plan = memory.after_out_of_memory(
            plan, DEV, card(size), MEGAPIXEL, wanted=wanted, kind="text2img"
        )


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
        chosen = memory.plan(model, machine, MEGAPIXEL)
    except OutOfMemory:
        return
    again = memory.plan(model, machine, MEGAPIXEL, wanted=chosen.precision)
    assert words(again) == words(chosen)


@pytest.mark.parametrize(
    ("machine", "wanted", "says"),
    [
        (Machine("cpu", 0, 64 * GIB), "nf4", "dev cannot run in nf4 here: it needs a GPU"),
        (card(16, bitsandbytes=False), "nf4", "pip install bitsandbytes"),
        (Machine("mps", 0, 64 * GIB), "fp8", "Apple's GPU knows no fp8"),
        (card(16), "gguf", "names no GGUF file"),
        (card(16), "int8", "use bf16, fp8 or nf4"),
    ],
)
def test_a_precision_that_cannot_be_is_an_error_that_says_why(
    machine: Machine, wanted: str, says: str
) -> None:
    with pytest.raises(JobFailed, match=says):
        memory.plan(DEV, machine, MEGAPIXEL, wanted=wanted)


def test_where_nothing_fits_a_model_that_does_is_named() -> None:
    cases = [
        (card(6, ram=8), {"kind": "text2img"}, "12.6 GiB of RAM, and 8.0 GiB are free", "z-image"),
        (card(6, ram=8), {"kind": "redux"}, "12.6 GiB of RAM, and 8.0 GiB are free", "klein"),
        (card(2, ram=8), {"wanted": "nf4"}, "7.9 GiB of GPU memory, and 1.0 GiB are", "tiny"),
        (Machine("cpu", 0, 4 * GIB), {}, "13.6 GiB of memory, and 4.0 GiB are to be had", "tiny"),
    ]
    for machine, asked, needs, other in cases:
        with pytest.raises(OutOfMemory) as raised:
            memory.plan(DEV, machine, MEGAPIXEL, **asked)  # type: ignore[arg-type]
        assert needs in str(raised.value)
        assert f"use the model {other}" in str(raised.value)


def test_where_only_the_precision_does_not_fit_to_leave_it_out_is_advised() -> None:
    with pytest.raises(OutOfMemory, match=r"leave `precision` out, then it runs in nf4$"):
        memory.plan(DEV, card(12, ram=20), MEGAPIXEL, wanted="bf16", kind="text2img")


def test_where_no_model_fits_a_smaller_picture_is_advised() -> None:
    with pytest.raises(OutOfMemory, match=r"64 MiB are to be had: ask for a smaller picture$"):
        memory.plan(DEV, Machine("cpu", 0, 64 * 2**20), MEGAPIXEL, models={"dev": DEV})


def test_a_single_file_is_planned_by_the_bits_that_its_name_tells() -> None:
    sizes = [
        footprint.transformer(replace(DEV, single=SingleFile(name)), "gguf") / GIB
        for name in ("flux1-dev-F16.gguf", "flux1-dev.gguf", "x-Q5_K_M.gguf", "x-Q2_K.gguf")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == pytest.approx(11.83, rel=0.02)
    mine = replace(DEV, single=SingleFile("flux1-dev-Q4_K_S.gguf"))
    assert words(memory.plan(mine, card(16), MEGAPIXEL, kind="text2img")).startswith("gguf")


def ladder(machine: Machine) -> list[str]:
    rungs = [memory.plan(DEV, machine, MEGAPIXEL, kind="text2img")]
    while rung := memory.after_out_of_memory(
        rungs[-1], DEV, machine, MEGAPIXEL, wanted="auto", kind="text2img"
    ):
        rungs.append(rung)
    return [words(rung) for rung in rungs]


def test_the_ladder_after_running_out_of_memory() -> None:
    assert ladder(card(48)) == [
        "bf16, text stays bf16",
        "bf16, text in turn bf16",
        "bf16, text in turn bf16, tiles",
        "bf16, text in turn bf16, offload, tiles",
        "fp8, text in turn bf16, tiles",
        "fp8, text in turn bf16, offload, tiles",
        "nf4, text in turn bf16, tiles",
        "nf4, text in turn nf4, tiles",
        "nf4, text in turn nf4, offload, tiles",
        "bf16, text in turn nf4, stream, tiles",
        "bf16, text cpu bf16, stream, tiles",
    ]


def test_no_rung_of_the_ladder_needs_more_ram_than_there_is() -> None:
    assert ladder(card(48, ram=8)) == [
        "bf16, text stays bf16",
        "bf16, text in turn bf16",
        "bf16, text in turn bf16, tiles",
        "fp8, text in turn bf16, tiles",
        "nf4, text in turn bf16, tiles",
        "nf4, text in turn nf4, tiles",
        "nf4, text in turn nf4, offload, tiles",
    ]


def test_a_plan_says_why_in_plain_sentences() -> None:
    assert memory.lines(DEV, card(16)) == [
        "dev runs in fp8, in turn with the text encoders (bf16), decoded in tiles:"
        " about 13.6 GiB of 15.0 GiB",
        "the GPU has 15.0 GiB to use",
        "in bf16 the model would need 24.5 GiB",
        "the transformer is held in fp8, 11.3 GiB: the best that fits",
        "the text encoders, 9.1 GiB in bf16, leave before it comes, because both do not fit",
        "pictures are decoded in tiles, which takes less memory",
    ]
    assert memory.lines(DEV, card(2, ram=4))[0].startswith("dev needs")
    assert len(memory.lines(DEV, card(2, ram=4))) == 1
    streamed = memory.lines(DEV, card(6), wanted="bf16")
    assert "as was asked" in streamed[2] and "passes through the GPU" in streamed[4]


MODELS = st.sampled_from(sorted(MODEL_REGISTRY))
PIXELS = st.sampled_from([64 * 64, 512 * 512, MEGAPIXEL, 1536 * 1536, 2048 * 2048])
SIZES = st.sampled_from([size * GIB // 4 for size in range(400)])
CARDS = st.builds(Machine, st.just("cuda"), SIZES, SIZES, st.booleans(), st.booleans())
OTHERS = st.builds(Machine, st.sampled_from(["cpu", "mps"]), st.just(0), SIZES)
MACHINES = CARDS | OTHERS


def planned(name: str, machine: Machine, pixels: int, wanted: str = "auto") -> Plan | None:
    try:
        return memory.plan(MODEL_REGISTRY[name], machine, pixels, wanted=wanted)
    except JobFailed:
        return None


@given(MODELS, MACHINES, PIXELS, st.sampled_from(["auto", "bf16", "fp8", "nf4"]))
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


def worth(plan: Plan) -> tuple[int, int, bool]:
    """Where the weights live comes first, because a streamed model is several times slower."""
    return PLACEMENTS.index(plan.placement), BITS[plan.precision], not plan.tiling


@given(MODELS, MACHINES, PIXELS, st.sampled_from(["auto", "bf16", "fp8"]))
def test_the_ladder_always_ends_and_every_rung_expects_less(
    name: str, machine: Machine, pixels: int, wanted: str
) -> None:
    plan, model = planned(name, machine, pixels, wanted), MODEL_REGISTRY[name]
    while plan is not None:
        lower = memory.after_out_of_memory(plan, model, machine, pixels, wanted=wanted)
        if lower is not None:
            assert lower.bytes < plan.bytes
            assert wanted == "auto" or lower.precision == wanted
        plan = lower


def test_planning_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from runner.engine import memory, registry;"
        "has = memory.Machine('cuda', 1 << 34, 0);"
        "print(memory.lines(registry.MODEL_REGISTRY['dev'], has)[0]);"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("dev runs")
