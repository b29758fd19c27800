"""Where no plan is to be had: what is said, and what is advised instead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.engine.memory.plans import Machine
from runner.engine.models import SingleFile
from runner.errors import InputBad, OutOfMemory
from tests.engine.cards import DEV, GIB, MEGAPIXEL, card, plan_for


@pytest.mark.parametrize(
    ("machine", "wanted", "says"),
    [
        (
            Machine("cpu", 0, 64 * GIB),
            "nf4",
            "dev cannot .* nf4 here: it needs a GPU; .* use fp32 or bf16 or fp8 or int8$",
        ),
        (card(16, bitsandbytes=False), "nf4", "pip install bitsandbytes"),
        (
            Machine("mps", 0, 64 * GIB),
            "fp8",
            "Apple's GPU knows no fp8; .* or use fp32 or bf16$",
        ),
        (card(16), "gguf", "names no GGUF file"),
        (card(16), "int4", "there is no such precision; .* or bf16 or fp8 or int8 or nf4$"),
        (
            replace(card(16), int8=False),
            "int8",
            "compute capability 7.5 .RTX 20. or newer; .* or bf16 or fp8 or nf4$",
        ),
        (Machine("mps", 0, 64 * GIB), "int8", "no product of 8-bit .*; .* use fp32 or bf16$"),
    ],
)
def test_a_precision_that_cannot_be_is_an_error_that_says_why(
    machine: Machine, wanted: str, says: str
) -> None:
    with pytest.raises(InputBad, match=says):
        plan_for(DEV, machine, MEGAPIXEL, wanted=wanted)


def test_where_nothing_fits_a_model_that_does_is_named() -> None:
    cases = [
        (card(6, ram=8), {"kind": "text2img"}, "12.4 GiB of RAM, and 8.0 GiB are free", "z-image"),
        (card(6, ram=8), {"kind": "redux"}, "12.4 GiB of RAM, and 8.0 GiB are free", "klein"),
        (card(2, ram=8), {"wanted": "nf4"}, "7.7 GiB of GPU memory, and 1.0 GiB are", "tiny"),
        (Machine("cpu", 0, 4 * GIB), {}, "13.5 GiB of memory, and 4.0 GiB are to be had", "tiny"),
    ]
    for machine, asked, needs, other in cases:
        with pytest.raises(OutOfMemory) as raised:
            plan_for(DEV, machine, MEGAPIXEL, **asked)  # type: ignore[arg-type]
        assert needs in str(raised.value)
        assert f"use the model {other}" in str(raised.value)


def test_where_only_the_precision_does_not_fit_to_leave_it_out_is_advised() -> None:
    with pytest.raises(OutOfMemory, match=r"leave `precision` out, then it runs in nf4$"):
        plan_for(DEV, card(12, ram=20), MEGAPIXEL, wanted="bf16", kind="text2img")


def test_a_file_that_is_taken_as_it_is_is_not_advised_to_be_another_or_itself() -> None:
    """Seen red: it was to leave a `precision` out that it had not, or to use itself."""
    mine = replace(DEV, name="mine", single=SingleFile("/x.safetensors"))
    as_stored = replace(mine, native="stored", bytes=2 * mine.weights.others + 12 * GIB)
    with pytest.raises(OutOfMemory) as raised:
        plan_for(as_stored, card(12), MEGAPIXEL, models={"dev": DEV, "mine": mine})
    assert str(raised.value).endswith("use the model dev, which fits, or ask for a smaller picture")


def test_where_no_model_fits_a_smaller_picture_is_advised() -> None:
    with pytest.raises(OutOfMemory, match=r"64 MiB are to be had: ask for a smaller picture$"):
        plan_for(DEV, Machine("cpu", 0, 64 * 2**20), MEGAPIXEL, models={"dev": DEV})
