"""Executors of every kind keep the promises of the seam: each task is answered exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from runner import exit_codes
from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import realise
from runner.executor import Event, Executor, Failed, Rendered, SlotLost, StoppedEarly
from runner.settings import Home, Settings
from runner.slots.local import LocalSlots, Place, thread_of
from runner.slots.process import ProcessExecutor
from runner.slots.several import Several
from runner.task import ImageTask
from runner.threads import Threads
from tests.harness import eventually
from tests.slots.conftest import Told, ready
from tests.slots.inner import Inner, task

ChildOf = Callable[..., ProcessExecutor]


def drawing(**fields: Any) -> ImageTask:
    spec = {"kind": "text2img", "model": "tiny", "prompt": "a red circle", "seed": 7, "steps": 3,
            "width": 64, "height": 64, **fields}  # fmt: skip
    return realise(spec, job="job", index=1, inputs={})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "hf"))
        made = Home(folder, Settings(devices=("cpu", "cpu")))
        made.prepare()
        yield made


@pytest.fixture(scope="module")
def pair(home: Home) -> Iterator[Executor]:
    """Two processes for the CPU: what they import costs seconds."""
    slots = LocalSlots(home)
    slots.acquire()
    executor = slots.executor(home)
    yield executor
    executor.close()
    slots.release()


@pytest.fixture(scope="module")
def thread(home: Home) -> Iterator[GpuThread]:
    """A thread of this process."""
    executor = thread_of(home, Place("gpu0", "cpu", "cpu"))
    yield executor
    executor.close()


@pytest.fixture(params=["the GPU thread", "a process", "several"])
def executor(request: pytest.FixtureRequest, pair: Several, thread: GpuThread) -> Executor:
    made: dict[str, Executor] = {
        "the GPU thread": thread,
        "a process": pair._executors[0],
        "several": pair,
    }
    return made[request.param]


def test_each_task_is_answered_exactly_once_whatever_its_answer(
    executor: Executor, tmp_path: Path
) -> None:
    told = Told(executor)
    missing = drawing(kind="kontext", inputs={})
    for name in ready(executor, len(executor.slots())):
        executor.start(name, [drawing(), drawing(seed=8)])
        assert [type(told.next()) for _ in range(2)] == [Rendered, Rendered]
        executor.start(name, [missing])
        assert isinstance(told.next(), Failed)
        executor.start(name, [drawing(steps=100)])
        executor.stop(name)
        assert told.next() == StoppedEarly(name, drawing(steps=100))
        executor.stop(name)
        assert told.rest() == [] and not any(slot.busy for slot in executor.slots())


def test_a_task_is_stopped_within_a_step(executor: Executor) -> None:
    (name, *_) = ready(executor)
    told, task = Told(executor), drawing(steps=100)
    executor.start(name, [task])
    seen = told.reaches().step
    executor.stop(name)
    later = told.all_to_the_answer()
    assert later[-1] == StoppedEarly(name, task)
    assert len(later) <= 3 and seen < 90, "the step in hand, and one that was on its way"


def test_the_pixels_are_the_same_whichever_slot_makes_them(
    pair: Executor, thread: GpuThread
) -> None:
    pixels = []
    for executor in (thread, pair):
        for name in ready(executor, len(executor.slots())):
            executor.start(name, [drawing(prompt="a lighthouse", steps=4)])
            answer = Told(executor).next()
            assert isinstance(answer, Rendered) and answer.slot == name
            pixels.append(answer.image.tobytes())
    assert len(pixels) == 3 and len(set(pixels)) == 1


def test_a_process_that_is_killed_in_the_middle_of_an_image_costs_its_slot_alone(
    pair: Several,
) -> None:
    first, second = ready(pair, 2)
    told = Told(pair)
    pair.start(second, [drawing(steps=100)])
    pair.start(first, [drawing(steps=100)])
    while told.reaches().slot != first:
        pass
    child: Any = pair._executors[0]
    child._process.kill()
    assert told.next() == SlotLost(first, "killed by SIGKILL", charged=True)
    assert isinstance(told.next(), Rendered), "the other one went on"
    ready(pair, 2)
    pair.start(first, [drawing()])
    assert isinstance(told.next(), Rendered) and told.rest() == []


def test_a_thread_that_ends_by_a_mistake_ends_its_process(home: Home, child_of: ChildOf) -> None:
    from tests.slots.inner import breaking

    place = Place("cpu", "cpu", "cpu")
    child = child_of(breaking, home, place)
    ready(child)
    before = child._process
    child.release()
    eventually(lambda: child._process is not before and ready(child), "another process")
    assert before is not None and before.exitcode == exit_codes.BROKEN


def test_several_are_one(child_of: ChildOf) -> None:
    events: SimpleQueue[Event] = SimpleQueue()
    inners = [Inner(), Inner(can_abandon=True)]
    inners[0]._hand = {"zero": []}
    inners[0]._models = {"zero": ()}
    several = Several(inners, events)
    assert [slot.name for slot in several.slots()] == ["zero", "one", "two"]
    several.start("two", [task("hold")])
    several.start("zero", [task("hold")])
    assert [slot.busy for slot in several.slots()] == [True, False, True]
    several.stop("two")
    several.stop("three")
    told = Told(several)
    assert told.next() == StoppedEarly("two", task("hold")) and told.rest() == []
    assert several.abandon("three", "it hung"), "one that is gone is told by an event"
    assert not several.abandon("zero", "it hung")
    assert several.abandon("one", "it hung")
    assert told.next() == SlotLost("one", "it hung", charged=False)
    with pytest.raises(ValueError, match="not there"):
        several.start("three", [task()])
    several.prepare([task("a")])
    assert [slot.models for slot in several.slots()] == [(), ("a",), ()]
    several.release()
    assert not any(slot.models for slot in several.slots())
    several.close()
    assert told.next() == StoppedEarly("zero", task("hold"))


def test_several_are_closed_at_once(child_of: ChildOf) -> None:
    both = threading.Barrier(2, timeout=20)

    class Slow(Inner):
        def close(self) -> None:
            both.wait()

    Several([Slow(), Slow()], SimpleQueue()).close()
    assert not both.broken and Threads().broken is None
