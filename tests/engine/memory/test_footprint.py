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
    assert longer == (footprint._other_tokens(model, kind) > model.max_sequence_length)


def test_a_model_that_computes_both_prompts_as_one_batch_is_planned_for_twice_the_tokens() -> None:
    plain = MODEL_REGISTRY["z-image-turbo"]
    serves = {kind: replace(each, negative="guidance") for kind, each in plain.serves.items()}
    step, twice = (
        footprint._step(model, "text2img", "bf16", 1024 * 1024)
        for model in (plain, replace(plain, serves=serves))
    )
    assert twice == pytest.approx(2 * step, rel=0.01)
