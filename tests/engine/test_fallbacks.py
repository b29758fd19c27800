"""Out of memory is answered by one fallback after the other, and only then by a failure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine import gpu
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.families import FLUX1
from runner.engine.gpu_thread import GpuThread
from runner.engine.memory import planner as memory
from runner.engine.memory.plans import Machine, MemoryPlan
from runner.engine.models import Model
from runner.engine.pictures import upscaling
from runner.engine.resolved_task import TaskResolver
from runner.engine.weights import assembly
from runner.errors import InputBad
from runner.executor import Failed, Rendered
from runner.task import ImageTask
from tests.fakes import PlannedCache, TwinLibrary, life

TaskOf = Callable[..., ImageTask]
FULL = "CUDA error: out of memory"
PLAN = MemoryPlan("fp32", "fp32", "stays", "resident", tiling=False, bytes=9)
FALLBACKS = [
    replace(PLAN, tiling=True, bytes=8),
    replace(PLAN, precision="bf16", text_precision="bf16", bytes=7),
]


@pytest.fixture
def executor(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An executor whose planner knows two plans below the first."""
    lower = dict(zip([PLAN, *FALLBACKS], [*FALLBACKS, None], strict=True))
    monkeypatch.setattr(memory, "after_out_of_memory", lambda held, space: lower[held])
    pipelines = PlannedCache(TwinLibrary(data), PLAN)
    made = GpuThread(tmp_path, pipelines=pipelines)
    yield made
    made.close()


def outcome(executor: GpuThread, task: ImageTask) -> Any:
    executor.start("gpu0", [task])
    return life(executor)[-1]


def failing(times: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that finds the device full as often as told, then does its work."""
    left = [times]

    def wrapped(*given: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise RuntimeError(FULL)
        return call(*given, **named)

    return wrapped


PHASES = {
    "loading the encoders": (assembly, "text_stage"),
    "encoding": (FLUX1, "encode"),
    "loading the transformer": (assembly, "paint_stage"),
    "denoising": (gpu, "_call"),
    "decoding": (FLUX1, "decode"),
    "enlarging": (upscaling, "tiled"),
}


@pytest.mark.parametrize(
    ("phase", "times"),
    # How often is the same for every phase: what catches it is one place.
    [*((phase, 2) for phase in PHASES), ("denoising", 1), ("denoising", 3), ("decoding", 3)],
)
def test_a_full_device_is_tried_again_with_less_whatever_it_was_doing(
    phase: str, times: int, executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = PHASES[phase]
    wrapped = failing(times, getattr(place, name))
    if place is FLUX1:
        families = {"flux1": replace(FLUX1, **{name: wrapped})}
        monkeypatch.setattr("runner.engine.resolved_task.FAMILIES", families)
    else:
        monkeypatch.setattr(place, name, wrapped)
    answer = outcome(executor, task_of("text2img", upscale=1 + (phase == "enlarging")))
    assert isinstance(answer, Rendered), answer
    # The first plan is the same plan on a device that holds nothing else.
    held = [PLAN, *FALLBACKS][times - 1]
    assert answer.facts["precision"] == held.precision
    assert bool(answer.warnings) == (times > 1)
    if times > 1:
        assert "ran out of memory" in answer.warnings[0] and held.summary in answer.warnings[0]


def test_the_plan_that_held_is_used_for_the_next_image(
    executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_call", failing(3, gpu._call))
    assert outcome(executor, task_of("text2img")).facts["precision"] == "bf16"
    again = outcome(executor, task_of("text2img", seed=8))
    assert (again.facts["precision"], again.warnings) == ("bf16", ())


def test_a_model_that_was_published_quantised_keeps_the_plan_that_held_too(
    data: Path, tmp_path: Path, task_of: TaskOf
) -> None:
    class Published(TwinLibrary):
        def main(self, model: Model, kind: str) -> Path:
            return published

    task, pixels = task_of("text2img"), 1024 * 1024
    twins = TwinLibrary(data)
    published = shutil.copytree(twins.main(twins.models[task.model], task.kind), tmp_path / "model")
    config = published / "transformer" / "config.json"
    quantised = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "any"}}
    config.write_text(json.dumps(quantised))
    resolver = TaskResolver(Published(data), Machine("cpu", 0, 2**40), device="cpu")
    lower = resolver.lower(resolver.resolve(task, pixels))
    assert lower is not None and lower.plan.precision == "stored"
    assert resolver.resolve(task, pixels) == lower
    lowest = resolver.lower(lower)
    assert lowest is not None and lowest.plan.bytes < lower.plan.bytes
    assert lowest.plan.precision == "stored" and resolver.resolve(task, pixels) == lowest
    assert lowest.plan.summary.startswith("as it was published, ")
    with pytest.raises(InputBad, match="were published quantised; leave `precision` out$"):
        resolver.resolve(task_of("text2img", precision="fp8"), pixels)


def test_a_plan_for_many_references_is_not_that_of_one(data: Path, task_of: TaskOf) -> None:
    machine = Machine("cuda", 24 * 2**30, 2**40)
    resolver = TaskResolver(TwinLibrary(data), machine, device="cuda")
    resolver._library.models = MODEL_REGISTRY
    (one,) = (task := task_of("kontext", "klein-9b-kv")).inputs["image"]
    four = replace(task, inputs={"image": (one,) * 4})
    few, many = resolver.resolve(task, 1024 * 1024), resolver.resolve(four, 1024 * 1024)
    assert (few.plan.precision, many.plan.precision) == ("bf16", "fp8")
    lower = resolver.lower(many)
    assert resolver.resolve(four, 1024 * 1024) == lower != many
    assert resolver.resolve(task, 1024 * 1024).plan == few.plan


def test_below_the_last_fallback_the_job_fails_and_the_next_one_runs(
    executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "_call", failing(99, gpu._call))
        answer = outcome(executor, task_of("text2img"))
    assert isinstance(answer, Failed) and answer.reason == "OutOfMemory"
    assert "smaller" in answer.message
    assert isinstance(outcome(executor, task_of("text2img")), Rendered)


def test_before_another_try_nothing_of_the_failed_one_is_alive(
    executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    import torch

    kept: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    call = gpu._call

    def full_once(*given: Any) -> Any:
        gc.disable()
        alive.extend(each() is not None for each in kept)
        if not kept:
            latents = torch.zeros(10)
            kept.append(weakref.ref(latents))
            raise RuntimeError(FULL)
        return call(*given)

    monkeypatch.setattr(gpu, "_call", full_once)
    try:
        assert isinstance(outcome(executor, task_of("text2img")), Rendered)
    finally:
        gc.enable()
    assert alive == [False]
