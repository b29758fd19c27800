"""How models are held on cards of every size: the table of plans, peaks and fallbacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.hub.library import Disk
from runner.engine.memory import footprint
from runner.engine.memory import planner as memory
from runner.engine.memory.plans import Machine, PlanSpace
from runner.engine.models import SingleFile
from runner.engine.resolved_task import explain_plan
from runner.errors import OutOfMemory
from tests.engine.cards import DEV, GIB, MEGAPIXEL, card, plan_for, words

TINY = MODEL_REGISTRY["tiny"]

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
        8: "fp8, text in turn bf16, tiles",
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
    ("z-image-control", "control"): {
        8: "nf4, text in turn nf4, tiles",
        12: "fp8, text in turn bf16, tiles",
        16: "fp8, text in turn bf16",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("klein-base", "text2img"): {
        8: "fp8, text in turn bf16, tiles",
        12: "bf16, text in turn bf16, tiles",
        16: "bf16, text in turn bf16",
        24: "bf16, text stays bf16",
        48: "bf16, text stays bf16",
    },
    ("klein-9b", "kontext"): {
        8: "nf4, text in turn nf4, tiles",
        12: "fp8, text in turn nf4, tiles",
        16: "fp8, text in turn bf16",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("klein-base-9b", "text2img"): {
        8: "nf4, text in turn nf4, tiles",
        12: "fp8, text in turn nf4, tiles",
        16: "fp8, text in turn bf16",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("klein-9b-kv", "kontext"): {
        8: "bf16, text in turn nf4, stream, tiles",
        12: "nf4, text in turn nf4",
        16: "fp8, text in turn bf16",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("flux3-klein", "text2img"): {
        8: "fp8, text in turn nf4, tiles",
        12: "fp8, text in turn bf16",
        16: "bf16, text in turn bf16, tiles",
        24: "bf16, text stays bf16",
        48: "bf16, text stays bf16",
    },
    ("flux3-klein", "kontext"): {
        8: "nf4, text in turn nf4, tiles",
        12: "fp8, text in turn bf16",
        16: "bf16, text in turn bf16, tiles",
        24: "bf16, text stays bf16",
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
        8: "nf4, text in turn bf16, tiles",
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
    ("z-image-control", "control"): {
        8: "nf4, text in turn nf4, tiles",
        12: "nf4, text in turn bf16",
        16: "nf4, text in turn bf16",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("klein-9b", "kontext"): {
        8: "nf4, text in turn nf4, tiles",
        12: "nf4, text in turn nf4",
        16: "nf4, text in turn bf16",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("klein-9b-kv", "kontext"): {
        8: "bf16, text in turn nf4, stream, tiles",
        12: "nf4, text in turn nf4",
        16: "nf4, text in turn bf16",
        24: "bf16, text in turn bf16",
        48: "bf16, text stays bf16",
    },
    ("flux3-klein", "text2img"): {
        8: "nf4, text in turn nf4, tiles",
        12: "nf4, text in turn bf16",
        16: "bf16, text in turn bf16, tiles",
        24: "bf16, text stays bf16",
        48: "bf16, text stays bf16",
    },
}
"""The same for cards that do not (RTX 30 and before)."""


INT8 = {
    ("schnell", "text2img"): {
        8: ("int8, text in turn nf4, stream, tiles", 4.6),
        12: ("int8, text in turn bf16, stream, tiles", 9.6),
        16: ("int8, text in turn bf16, tiles", 12.5),
        24: ("int8, text in turn bf16", 16.1),
    },
    ("dev", "text2img"): {
        8: ("int8, text in turn nf4, stream, tiles", 4.6),
        12: ("int8, text in turn bf16, stream, tiles", 9.6),
        16: ("int8, text in turn bf16, tiles", 12.5),
        24: ("int8, text in turn bf16", 16.1),
    },
    ("kontext-dev", "kontext"): {
        8: ("int8, text in turn nf4, stream, tiles", 4.6),
        12: ("int8, text in turn bf16, stream, tiles", 9.6),
        16: ("int8, text in turn bf16, tiles", 13.0),
        24: ("int8, text in turn bf16", 16.1),
    },
    ("klein", "text2img"): {
        8: ("int8, text in turn bf16, tiles", 6.3),
        12: ("int8, text in turn bf16", 8.7),
        16: ("int8, text stays bf16", 14.5),
        24: ("int8, text stays bf16", 14.5),
    },
    ("z-image-turbo", "text2img"): {
        8: ("int8, text in turn nf4, offload, tiles", 6.6),
        12: ("int8, text in turn bf16", 10.7),
        16: ("int8, text in turn bf16", 10.7),
        24: ("int8, text stays bf16", 18.0),
    },
    ("flux3-klein", "text2img"): {
        8: ("int8, text in turn nf4, tiles", 7.0),
        12: ("int8, text in turn bf16", 10.4),
        16: ("int8, text in turn bf16", 10.4),
        24: ("int8, text stays bf16", 17.1),
    },
    ("klein-9b", "kontext"): {
        8: ("int8, text in turn nf4, stream, tiles", 5.9),
        12: ("int8, text in turn nf4, tiles", 10.9),
        16: ("int8, text in turn bf16", 13.7),
        24: ("int8, text in turn bf16", 13.7),
    },
    ("klein-9b-kv", "kontext"): {
        8: ("int8, text in turn nf4, stream, tiles", 5.9),
        12: ("int8, text in turn nf4, stream, tiles", 5.9),
        16: ("int8, text in turn bf16", 13.7),
        24: ("int8, text in turn bf16", 13.7),
    },
    ("z-image-control", "control"): {
        12: ("int8, text in turn bf16, tiles", 11.0),
        16: ("int8, text in turn bf16", 13.8),
        24: ("int8, text stays bf16", 21.1),
    },
}
"""With `precision: int8`, on RTX 20 and later, and the expected peak in GiB."""


@pytest.mark.parametrize(("model", "kind"), INT8)
def test_the_plans_for_cards_that_are_asked_for_int8(model: str, kind: str) -> None:
    made = {}
    for size in INT8[model, kind]:
        has = card(size, fp8=False)
        plan = plan_for(MODEL_REGISTRY[model], has, MEGAPIXEL, "int8", kind)
        made[size] = (words(plan), round(plan.bytes / GIB, 1))
    assert made == INT8[model, kind]


def test_int8_is_on_no_device_what_auto_takes() -> None:
    machines = [card(24), card(16, fp8=False), card(12, bitsandbytes=False)]
    machines += [Machine("cpu", 0, 18 * GIB), Machine("mps", 0, 25 * GIB)]
    for machine in machines:
        assert "int8" not in PlanSpace(DEV, machine, MEGAPIXEL).precisions()


def test_a_step_of_a_file_that_is_taken_as_it_is_is_planned_with_what_is_rounded() -> None:
    file = replace(DEV, single=SingleFile("/x.safetensors"))

    def more(pixels: int) -> float:
        steps = [footprint._step(file, "text2img", each, pixels) for each in ("bf16", "stored")]
        return (steps[1] - steps[0]) / GIB

    assert more(64 * 64) == pytest.approx(3 * 2 * 18_432 * 3072 / GIB, rel=0.01), "of a layer"
    assert more(MEGAPIXEL) == pytest.approx(4608 * 15_360 * 12 / GIB, rel=0.01)


@pytest.mark.parametrize(("model", "kind"), ADA)
def test_the_plans_for_cards_that_know_fp8(model: str, kind: str) -> None:
    made = {
        size: words(plan_for(MODEL_REGISTRY[model], card(size), MEGAPIXEL, kind=kind))
        for size in ADA[model, kind]
    }
    assert made == ADA[model, kind]


@pytest.mark.parametrize(("model", "kind"), AMPERE)
def test_the_plans_for_cards_that_do_not_know_fp8(model: str, kind: str) -> None:
    made = {
        size: words(plan_for(MODEL_REGISTRY[model], card(size, fp8=False), MEGAPIXEL, kind=kind))
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
    assert words(plan_for(DEV, machine, MEGAPIXEL, kind="text2img")) == planned


@pytest.mark.parametrize("machine", [Machine("cpu", 0, GIB // 2), card(1.5), card(80)])
def test_the_built_in_model_runs_in_its_own_precision_everywhere(machine: Machine) -> None:
    assert words(plan_for(TINY, machine, 64 * 64)) == "fp32, text stays fp32"


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


def test_a_single_file_is_planned_by_the_bits_that_its_name_tells() -> None:
    sizes = [
        footprint.transformer(replace(DEV, single=SingleFile(name)), "gguf") / GIB
        for name in ("flux1-dev-F16.gguf", "flux1-dev.gguf", "x-Q5_K_M.gguf", "x-Q2_K.gguf")
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == pytest.approx(11.83, rel=0.02)
    mine = replace(DEV, single=SingleFile("flux1-dev-Q4_K_S.gguf"))
    assert words(plan_for(mine, card(16), MEGAPIXEL, kind="text2img")).startswith("gguf")


def test_a_model_that_shares_layers_with_another_is_never_streamed() -> None:
    control = MODEL_REGISTRY["z-image-control"]
    with pytest.raises(OutOfMemory, match="z-image-control needs 10.7 GiB of GPU memory, and 7.0"):
        plan_for(control, card(8, bitsandbytes=False), MEGAPIXEL, kind="control")
    held = plan_for(control, card(48), MEGAPIXEL, kind="control")
    placed = []
    space = PlanSpace(control, card(48), MEGAPIXEL, kind="control")
    while lower := memory.after_out_of_memory(held, space):
        held = lower
        placed.append(held.placement)
    assert set(placed) == {"resident", "offload"}


def fallbacks(machine: Machine) -> list[str]:
    plans = [plan_for(DEV, machine, MEGAPIXEL, kind="text2img")]
    space = PlanSpace(DEV, machine, MEGAPIXEL, kind="text2img")
    while plan := memory.after_out_of_memory(plans[-1], space):
        plans.append(plan)
    return [words(plan) for plan in plans]


def test_the_fallbacks_after_running_out_of_memory() -> None:
    assert fallbacks(card(48)) == [
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


def test_no_fallback_needs_more_ram_than_there_is() -> None:
    assert fallbacks(card(48, ram=8)) == [
        "bf16, text stays bf16",
        "bf16, text in turn bf16",
        "bf16, text in turn bf16, tiles",
        "fp8, text in turn bf16, tiles",
        "nf4, text in turn bf16, tiles",
        "nf4, text in turn nf4, tiles",
        "nf4, text in turn nf4, offload, tiles",
    ]


def test_a_plan_says_why_in_plain_sentences(tmp_path: Path) -> None:
    assert explain_plan(Disk(tmp_path), DEV, card(16)) == [
        "dev runs in fp8, in turn with the text encoders (bf16), decoded in tiles:"
        " about 13.5 GiB of 15.0 GiB",
        "the GPU has 15.0 GiB to use",
        "in bf16 the model would need 24.5 GiB",
        "the transformer is held in fp8, 11.1 GiB: the best that fits",
        "the text encoders, 9.1 GiB in bf16, leave before it comes, because both do not fit",
        "pictures are decoded in tiles, which takes less memory",
    ]
    (refused,) = explain_plan(Disk(tmp_path), DEV, card(2, ram=4))
    assert refused.startswith("dev needs")
    streamed = plan_for(DEV, card(6), MEGAPIXEL, wanted="bf16").reasons
    assert "as was asked" in streamed[1] and "passes through the GPU" in streamed[3]


def test_a_plan_for_a_cpu_says_why_it_is_not_bf16() -> None:
    large = Machine("cpu", 0, 128 * GIB)
    why = "most CPUs have no units for bf16, and compute in it several times slower"
    assert any(why in each for each in plan_for(DEV, large, MEGAPIXEL).reasons)
    asked = plan_for(DEV, large, MEGAPIXEL, wanted="fp32").reasons
    assert any("fp32" in each and "as was asked" in each for each in asked)


def test_planning_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from runner.engine import registry;"
        "from runner.engine.memory import planner, plans;"
        "has = plans.Machine('cuda', 1 << 34, 0);"
        "space = plans.PlanSpace(registry.MODEL_REGISTRY['dev'], has, 1 << 20);"
        "print(planner.plan(space).summary);"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("in fp8")
