"""What is reserved for a step grows with what the true pipelines put into one."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class Living(TorchDispatchMode):
    """Counts the bytes of the tensors that live at once, but for views of others."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not made._is_view():
            size = made.numel() * made.element_size()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(made, self._gone, size)
        return made

    def _gone(self, size: int) -> None:
        self.now -= size


def test_enlarging_takes_less_room_than_decoding_so_that_no_plan_has_to_count_it() -> None:
    """The largest of the published nets, measured on a small tile; its weights are 5 MB."""
    from runner.engine.pictures.upscaling import TILE, build, tiled

    net = build(64, 34, 4)
    net.body.requires_grad_(False)
    side = 64
    with Living() as living:
        tiled(torch.zeros(3, side, side), net, "cpu", 4, lambda: None)
    each = living.most / side**2
    assert each < 1500, "bytes for each pixel of a tile"
    for pixels in (64 * 64, 1024 * 1024, 2048 * 2048):
        tile = min(pixels, (TILE + 2 * net.reach) ** 2)
        for tiling in (False, True):
            assert tile * each < footprint._decode(pixels, tiling)
