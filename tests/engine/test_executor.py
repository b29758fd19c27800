"""The promises of the executor seam, kept by the GPU thread and by the fake that stands in for it.

Whatever the spool's tests show on flat colours rests on these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from runner.engine.gpu_thread import GpuThread
from runner.executor import (
    Event,
    Executor,
    Failed,
    Progressed,
    Rendered,
    SlotLost,
    SlotState,
    StoppedEarly,
    Woken,
)
from runner.task import ImageTask, InputImage
from tests.harness import eventually
from tests.spool.device import FlatColours, SeveralSlots

_ANSWERS = (Rendered, Failed, StoppedEarly)


def two() -> SeveralSlots:
    return SeveralSlots("a", "b")


def wait_to_be_told(executor: Executor) -> None:
    """Have a fake answer no task by itself."""
    for each in getattr(executor, "each", {"": executor}).values():
        each.by_hand = True


@pytest.fixture(params=["the GPU thread", "flat colours", "two slots of flat colours"])
def executor(
    request: pytest.FixtureRequest, executor_of: Callable[..., GpuThread]
) -> Iterator[Executor]:
    if request.param != "the GPU thread":
        slots = [FlatColours()]
        if request.param.startswith("two"):
            fake: Executor = (several := two())
            several.by_themselves()
            slots = [*several.each.values()]
        else:
            fake = slots[0]
        for slot in slots:
            slot.failing["bad", 1] = ("InputBad", "gone.png is no picture: send a PNG")
        yield fake
        fake.close()
    else:
        yield executor_of()


@pytest.fixture
def bad(task_of: Callable[..., ImageTask], tmp_path: Path) -> ImageTask:
    """A task that no executor can do."""
    broken = tmp_path / "gone.png"
    broken.write_bytes(b"no picture")
    inputs: Mapping[str, Any] = {"image": (InputImage(broken),)}
    return replace(task_of("kontext", inputs=inputs), job="bad")


def answered(executor: Executor) -> list[Event]:
    """All events up to and with the answer; fails where none comes."""
    events: list[Event] = []
    while not (events and isinstance(events[-1], _ANSWERS)):
        events.append(executor.events.get(timeout=60))
    return events


def assert_nothing_more(executor: Executor) -> None:
    """Every slot is free, and no second answer is on its way."""
    assert all(slot.is_free for slot in executor.slots())
    with pytest.raises(Empty):
        executor.events.get_nowait()


def test_a_task_is_answered_once_with_a_picture_of_its_size(
    executor: Executor, task_of: Callable[..., ImageTask]
) -> None:
    task = task_of("text2img")
    slot = executor.slots()[0]
    executor.start(slot.name, [task])
    *before, answer = answered(executor)
    assert isinstance(answer, Rendered)
    assert (answer.slot, answer.task, answer.image.size) == (slot.name, task, (64, 64))
    assert answer.image.mode == "RGB" and answer.seconds > 0 and "device" in answer.facts
    assert_nothing_more(executor)
    assert all(isinstance(event, Progressed) and event.task == task for event in before)
    steps = [event.step for event in before if isinstance(event, Progressed) and event.step]
    assert steps and steps == sorted(steps) and steps[-1] <= task.steps


def test_the_seed_decides_the_picture(
    executor: Executor, task_of: Callable[..., ImageTask]
) -> None:
    pixels = []
    for seed in (7, 8, 7):
        executor.start(executor.slots()[0].name, [task_of("text2img", seed=seed)])
        answer = answered(executor)[-1]
        assert isinstance(answer, Rendered)
        pixels.append(answer.image.tobytes())
    assert pixels[0] == pixels[2] != pixels[1]


def test_what_cannot_be_made_fails_with_a_reason_and_the_slot_takes_the_next(
    executor: Executor, task_of: Callable[..., ImageTask], bad: ImageTask
) -> None:
    name = executor.slots()[0].name
    executor.start(name, [bad])
    answer = answered(executor)[-1]
    assert isinstance(answer, Failed)
    assert (answer.task, answer.reason) == (bad, "InputBad") and "gone.png" in answer.message
    assert_nothing_more(executor)
    executor.start(name, [task_of("text2img")])
    assert isinstance(answered(executor)[-1], Rendered)


def test_a_task_that_is_stopped_is_answered_so_and_leaves_nothing(
    executor: Executor, task_of: Callable[..., ImageTask]
) -> None:
    wait_to_be_told(executor)
    task = task_of("text2img", steps=100)
    name = executor.slots()[0].name
    executor.start(name, [task])
    executor.stop(name)
    assert answered(executor)[-1] == StoppedEarly(name, task)
    assert_nothing_more(executor)


def test_to_stop_an_idle_slot_does_nothing(
    executor: Executor, task_of: Callable[..., ImageTask]
) -> None:
    name = executor.slots()[0].name
    executor.stop(name)
    assert_nothing_more(executor)
    executor.start(name, [task_of("text2img")])
    assert isinstance(answered(executor)[-1], Rendered)


def test_the_loaded_models_are_named_until_they_are_released(
    executor: Executor, task_of: Callable[..., ImageTask]
) -> None:
    assert executor.slots()[0].models == ()
    executor.start(executor.slots()[0].name, [task_of("text2img")])
    answered(executor)
    assert executor.slots()[0].models == ("tiny",)
    executor.release()
    eventually(lambda: executor.slots()[0].models == (), "no model on the device")


def test_closing_answers_what_is_in_hand(
    executor: Executor, task_of: Callable[..., ImageTask]
) -> None:
    wait_to_be_told(executor)
    task = task_of("text2img", steps=100)
    executor.start(executor.slots()[0].name, [task])
    executor.close()
    assert isinstance(answered(executor)[-1], StoppedEarly)


def test_a_slot_that_is_busy_or_unknown_takes_no_task(
    executor: Executor, task_of: Callable[..., ImageTask]
) -> None:
    wait_to_be_told(executor)
    name, task = executor.slots()[0].name, task_of("text2img", steps=100)
    executor.start(name, [task])
    with pytest.raises(ValueError):
        executor.start(name, [task_of("text2img")])
    with pytest.raises(ValueError):
        executor.start("another", [task])
    executor.stop(name)
    assert answered(executor)[-1] == StoppedEarly(name, task)
    assert_nothing_more(executor)


# -- several slots -----------------------------------------------------------------------------


def test_of_two_slots_each_answers_its_own_task(task_of: Callable[..., ImageTask]) -> None:
    executor = two()
    names = [slot.name for slot in executor.slots()]
    tasks = {name: task_of("text2img", seed=seed) for seed, name in enumerate(names)}
    for name, task in tasks.items():
        executor.start(name, [task])
    executor.stop(names[0])
    executor[names[1]].finish()
    stopped, rendered = answered(executor)[-1], answered(executor)[-1]
    assert stopped == StoppedEarly(names[0], tasks[names[0]])
    assert isinstance(rendered, Rendered)
    assert (rendered.slot, rendered.task) == (names[1], tasks[names[1]])
    assert_nothing_more(executor)


@pytest.mark.parametrize("charged", [True, False])
def test_a_lost_slot_is_told_once_the_others_go_on_and_it_takes_tasks_when_it_is_back(
    task_of: Callable[..., ImageTask], charged: bool
) -> None:
    executor = two()
    lost, other = (slot.name for slot in executor.slots())
    for name in (lost, other):
        executor.start(name, [task_of("text2img")])
    executor.lose(lost, "killed by SIGKILL", charged=charged)
    assert executor.events.get_nowait() == SlotLost(lost, "killed by SIGKILL", charged)
    executor.be(lost, SlotState.STARTING)
    assert executor.events.get_nowait() == Woken()
    with pytest.raises(ValueError):
        executor.start(lost, [task_of("text2img")])
    assert executor.slots()[0].models == ()
    executor[other].finish()
    assert isinstance(answered(executor)[-1], Rendered)
    executor.be(lost, SlotState.READY)
    assert executor.events.get_nowait() == Woken()
    executor.lose(lost, "killed by SIGKILL", charged=charged)
    assert executor.events.get_nowait() == Woken(), "nothing was in flight"
    executor.start(lost, [task_of("text2img")])
    executor[lost].finish()
    assert isinstance(answered(executor)[-1], Rendered)
    assert_nothing_more(executor)
