"""Images that are alike are made in one call where that is proven to change nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine import gpu
from runner.engine.batch_layers import row_by_row
from runner.engine.batching import MAX_BATCH
from runner.engine.gpu_thread import GpuThread
from runner.engine.pictures import previews
from runner.executor import Progressed, Rendered, StoppedEarly
from runner.job import Phase
from runner.task import ImageTask
from tests.fakes import Watched

TaskOf = Callable[..., ImageTask]


@pytest.fixture
def executor(data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An executor with the built-in model itself, however busy this machine is."""
    monkeypatch.setattr("runner.engine.batching._TRIAL_STEP_SECONDS", 1000.0)
    made = GpuThread(data, device="cpu")
    yield made
    made.close()


def answers(executor: GpuThread, tasks: list[ImageTask]) -> list[Any]:
    executor.start("gpu0", tasks)
    found: list[Any] = []
    while len(found) < len(tasks):
        event = executor.events.get(timeout=50)
        if not isinstance(event, Progressed):
            found.append(event)
    return found


def alike(task_of: TaskOf, first: int, count: int) -> list[ImageTask]:
    return [
        task_of("text2img", prompt=f"a {colour} circle", seed=first + number)
        for number, colour in zip(range(count), ("red", "blue", "green", "red") * 3, strict=False)
    ]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the main pipeline makes."""
    seen: list[int] = []
    denoised = gpu.denoised

    def counted(stages: Any, pieces: Any, *given: Any) -> Any:
        seen.append(len(pieces))
        return denoised(stages, pieces, *given)

    monkeypatch.setattr(gpu, "denoised", counted)
    return seen


def test_after_a_trial_images_alike_are_made_at_once_with_the_pixels_of_each_alone(
    executor: GpuThread, task_of: TaskOf, calls: list[int]
) -> None:
    tasks = alike(task_of, 7, 7)
    alone = [answers(executor, [task])[0].image.tobytes() for task in tasks]
    size = executor.slots()[0].batch_size
    if size == 1:  # this machine's kernels round otherwise for more rows, or gain nothing
        assert answers(executor, tasks[:MAX_BATCH]) and max(calls[-MAX_BATCH:]) == 1
        return
    assert size == MAX_BATCH
    calls.clear()
    together = answers(executor, tasks[:MAX_BATCH])
    assert calls == [MAX_BATCH]
    assert [answer.task for answer in together] == tasks[:MAX_BATCH]
    assert [answer.image.tobytes() for answer in together] == alone[:MAX_BATCH]
    assert answers(executor, tasks[4:5])[0].image.tobytes() == alone[4]


def test_layers_of_one_vector_an_image_add_up_as_for_one_image_and_are_left_as_they_were() -> None:
    import torch

    layer, other = torch.nn.Linear(96, 64), torch.nn.Linear(96, 64)
    model = torch.nn.ModuleList([layer, other])
    vectors, words = torch.randn(4, 96), torch.randn(4, 5, 96)
    alone = torch.cat([layer(row) for row in vectors.split(1)])
    asked: list[tuple[int, ...]] = []
    own = torch.nn.functional.linear
    other.forward = lambda given: asked.append(tuple(given.shape))  # type: ignore[assignment]
    with row_by_row(model):
        assert torch.equal(layer(vectors), alone)
        assert torch.equal(layer(words), own(words, layer.weight, layer.bias))
        other(vectors)
    assert asked == [(4, 96)], "a forward that somebody else put there was touched"
    assert "forward" not in vars(layer) and "forward" in vars(other)


@pytest.fixture
def proven(executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch) -> GpuThread:
    """An executor whose trial has passed, whatever this machine's own would say."""
    monkeypatch.setattr("runner.engine.batching._passes", lambda *given: True)
    for task in alike(task_of, 1, 3):
        answers(executor, [task])
    assert executor.slots()[0].batch_size == MAX_BATCH
    return executor


def test_what_was_not_proven_is_made_one_by_one(
    proven: GpuThread, task_of: TaskOf, calls: list[int]
) -> None:
    others = [task_of("text2img", seed=seed, guidance=2.0) for seed in range(3)]
    calls.clear()
    made = answers(proven, others)
    assert [type(answer) for answer in made] == [Rendered] * 3
    assert calls[:3] == [1, 1, 1]


def test_a_stop_at_a_step_stops_all_that_are_made_at_once(
    proven: GpuThread, task_of: TaskOf
) -> None:
    def see(event: Any) -> None:
        if isinstance(event, Progressed) and event.step == 2:
            proven.stop("gpu0")

    proven.events = Watched(see)  # type: ignore[assignment]
    made = answers(proven, alike(task_of, 20, MAX_BATCH))
    assert [type(answer) for answer in made] == [StoppedEarly] * MAX_BATCH


def test_a_fault_in_the_one_call_leaves_each_image_its_own_answer(
    proven: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoised = gpu.denoised

    def full(stages: Any, pieces: Any, *given: Any) -> Any:
        if len(pieces) > 1:
            raise RuntimeError("CUDA error: out of memory")
        return denoised(stages, pieces, *given)

    monkeypatch.setattr(gpu, "denoised", full)
    made = answers(proven, alike(task_of, 30, MAX_BATCH))
    assert [type(answer) for answer in made] == [Rendered] * MAX_BATCH


@pytest.mark.parametrize("result", ["not equal", "not faster"])
def test_a_trial_that_fails_keeps_images_alone(
    result: str, executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    denoised = gpu.denoised

    def otherwise(stages: Any, pieces: Any, *given: Any) -> Any:
        latents = denoised(stages, pieces, *given)
        if len(pieces) > 1 and result == "not equal":
            latents = latents.clone()
            latents.view(-1)[0] = latents.view(-1)[0].nextafter(latents.new_tensor(9.0))
        return latents

    monkeypatch.setattr(gpu, "denoised", otherwise)
    # The trial asks three times: before, between, after.
    clock = itertools.cycle([0.0, 1.0, 5.0 if result == "not faster" else 1.1])
    monkeypatch.setattr("runner.engine.batching.time", FixedTime(clock))
    for task in alike(task_of, 1, 4):
        answers(executor, [task])
    assert executor.slots()[0].batch_size == 1
    assert time.monotonic() > 0


class FixedTime:
    """A `time` whose counter says what it is told."""

    def __init__(self, clock: Any) -> None:
        self.perf_counter = lambda: next(clock)


def test_a_time_limit_of_its_own_keeps_an_image_alone(
    proven: GpuThread, task_of: TaskOf, calls: list[int]
) -> None:
    limited = [task_of("text2img", seed=seed, timeout=60) for seed in range(3)]
    calls.clear()
    answers(proven, limited)
    assert MAX_BATCH not in calls and 3 not in calls


def test_progress_of_images_made_at_once_is_told(proven: GpuThread, task_of: TaskOf) -> None:
    told: list[tuple[Phase, int]] = []

    def see(event: Any) -> None:
        if isinstance(event, Progressed):
            told.append((event.phase, event.step))

    proven.events = Watched(see)  # type: ignore[assignment]
    answers(proven, alike(task_of, 40, MAX_BATCH))
    assert (Phase.DENOISING, 3) in told and (Phase.DECODING, 0) in told


def test_of_images_made_at_once_the_first_has_the_previews(
    executor: GpuThread, task_of: TaskOf, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "_SECONDS", 0.0)
    # On a busy machine the trial may find that four take longer.
    clock = itertools.cycle([0.0, 1.0, 1.1])
    monkeypatch.setattr("runner.engine.batching.time", FixedTime(clock))
    shown: list[int] = []

    def see(event: Any) -> None:
        if isinstance(event, Progressed) and event.preview:
            shown.append(event.task.index)

    executor.events = Watched(see)  # type: ignore[assignment]
    tasks = [
        replace(task, index=n, preview=True) for n, task in enumerate(alike(task_of, 50, 4), 1)
    ]
    for _ in range(2):
        shown.clear()
        calls.clear()
        made = answers(executor, tasks)
    assert calls == [4]
    assert shown == [1, 1]
    plain = answers(executor, [replace(task, preview=False) for task in tasks])
    assert [a.image.tobytes() for a in made] == [a.image.tobytes() for a in plain]
