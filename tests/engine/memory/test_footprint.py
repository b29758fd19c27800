"""What is reserved for a step grows with what the true pipelines put into one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.memory import footprint
from runner.engine.models import Model
from tests.engine.painting import attention, painted, pipe_of

SERVED = {
    f"{serving.pipeline}-{kind}": (model, kind)
    for model in MODEL_REGISTRY.values()
    for kind, serving in model.serves.items()
    if not serving.prior  # it adds a fixed number of tokens
}


@pytest.mark.parametrize(("model", "kind"), SERVED.values(), ids=SERVED)
def test_a_kind_whose_picture_makes_each_step_longer_is_planned_longer(
    model: Model, kind: str
) -> None:
    """Of 128×128 pixels, each a 256th of a token, and of 32 tokens of text at most."""
    with attention() as calls:
        painted(pipe_of(model.serves[kind].pipeline), size=128, serving=(model, kind))
    longer = max(tokens for tokens, _ in calls) > 128 * 128 // 256 + 32
    others = footprint._other_tokens(model, kind, 128 * 128)
    assert longer == (others > model.max_sequence_length)


def test_a_reference_on_the_grid_of_the_picture_is_planned_as_large_as_it() -> None:
    def more(model: str) -> int:
        small, large = (
            footprint._other_tokens(MODEL_REGISTRY[model], "kontext", side * side)
            for side in (512, 2048)
        )
        return large - small

    assert more("kontext-dev") == 128 * 128 - 32 * 32
    assert more("klein") == 0


def test_a_model_that_computes_both_prompts_as_one_batch_is_planned_for_twice_the_tokens() -> None:
    plain = MODEL_REGISTRY["z-image-turbo"]
    serves = {kind: replace(each, negative="guidance") for kind, each in plain.serves.items()}
    step, twice = (
        footprint._step(model, "text2img", "bf16", 1024 * 1024)
        for model in (plain, replace(plain, serves=serves))
    )
    assert twice == pytest.approx(2 * step, rel=0.01)


def test_what_is_kept_of_the_references_is_planned_for_where_they_are_read_once() -> None:
    """Keys and values of 32 blocks, 4096 wide, in bf16: 2 GiB a megapixel."""
    plain, kept = MODEL_REGISTRY["klein-9b"], MODEL_REGISTRY["klein-9b-kv"]
    pixels = 1024 * 1024

    def more(kind: str) -> float:
        one, other = (footprint._step(each, kind, "bf16", pixels) for each in (plain, kept))
        return (other - one) / footprint.GIB

    assert more("text2img") == 0
    assert more("kontext") == more("redux") == more("") == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("precision", ["bf16", "fp8", "nf4", "gguf"])
def test_a_controlnet_is_planned_for_beside_its_transformer(precision: str) -> None:
    plain, control = MODEL_REGISTRY["z-image-turbo"], MODEL_REGISTRY["z-image-control"]
    assert footprint.controlnet(plain, precision) == 0
    size = footprint.controlnet(control, precision) / footprint.GIB
    assert size == pytest.approx({"fp8": 3.3, "nf4": 1.9}.get(precision, 6.25), rel=0.02)
    asked = (precision, "resident", False, 1024 * 1024)
    peaks = [
        footprint.painting(plain, "text2img", *asked),
        footprint.painting(control, "control", *asked),
    ]
    assert peaks[1] - peaks[0] >= size * footprint.GIB * 0.99
