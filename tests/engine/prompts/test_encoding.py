"""Prompts that wait are encoded together while the encoders are there, and never twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.engine.gpu import StopSign
from runner.engine.gpu_thread import GpuThread
from runner.engine.memory.plans import MemoryPlan
from runner.engine.prompts.embeddings import PromptCache
from runner.engine.prompts.encoding import Prompts
from runner.engine.weights import assembly
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import Stopped
from runner.executor import Progressed, Rendered
from runner.job import Phase
from runner.task import ImageTask
from tests.fakes import FakeClock, PlannedCache, TwinLibrary, life

TaskOf = Callable[..., ImageTask]
IN_TURN = MemoryPlan("fp32", "fp32", "in turn", "resident", tiling=False, bytes=0)


def quiet(phase: Phase, step: int, steps: int) -> None:
    pass


def narrow(data: Path) -> PipelineCache:
    """A shelf with room for one stage: encoders and transformer come in turn."""
    return PlannedCache(TwinLibrary(data), IN_TURN, room=1)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is loaded from disk, in order: `text`, or the class of the pipeline that paints."""
    seen: list[str] = []
    text, paint = assembly.text_stage, assembly.paint_stage

    def text_stage(*given: Any) -> Any:
        seen.append("text")
        return text(*given)

    def paint_stage(resolved: Any, *given: Any) -> Any:
        seen.append(resolved.serving.pipeline)
        return paint(resolved, *given)

    monkeypatch.setattr(assembly, "text_stage", text_stage)
    monkeypatch.setattr(assembly, "paint_stage", paint_stage)
    yield seen


def drawn(executor: GpuThread, task: ImageTask) -> bytes:
    executor.start("gpu0", [task])
    answer = life(executor)[-1]
    assert isinstance(answer, Rendered), answer
    return answer.image.tobytes()


def test_prompts_that_wait_are_encoded_while_the_encoders_are_there(
    data: Path, tmp_path: Path, task_of: TaskOf, loads: list[str]
) -> None:
    tasks = [
        task_of(kind, prompt=f"{colour} {kind}")
        for kind in ("text2img", "fill", "control")
        for colour in ("red", "blue", "green")
    ]
    executor = GpuThread(tmp_path, pipelines=narrow(data), prompt_cache=2**30)
    executor.prepare(tasks)
    for task in tasks:
        drawn(executor, task)
    executor.close()
    assert loads == ["text", "FluxPipeline", "FluxFillPipeline", "FluxControlPipeline"]


def test_a_second_night_loads_no_text_encoder_and_makes_the_same_pixels(
    data: Path, tmp_path: Path, task_of: TaskOf, loads: list[str]
) -> None:
    kinds = ("text2img", "kontext", "fill", "control", "redux")
    nights = []
    for _ in range(2):
        executor = GpuThread(tmp_path, pipelines=narrow(data), prompt_cache=2**30)
        nights.append([drawn(executor, task_of(kind, prompt="a cat")) for kind in kinds])
        executor.close()
    assert nights[0] == nights[1]
    assert loads.count("text") == 2  # redux reads more tokens, so it is encoded apart
    assert loads.index("text", loads.index("text") + 1) < 7


def test_encoders_that_stay_encode_each_prompt_when_it_comes(
    data: Path, tmp_path: Path, task_of: TaskOf
) -> None:
    executor = GpuThread(tmp_path, library=TwinLibrary(data), device="cpu")
    executor.prepare([task_of("text2img", prompt="another")])
    executor.start("gpu0", [task_of("text2img")])
    told = [(e.phase, e.step) for e in life(executor) if isinstance(e, Progressed)]
    executor.close()
    assert [each for each in told if each[0] == Phase.ENCODING] == [(Phase.ENCODING, 0)]


def test_a_stop_while_others_are_encoded_is_seen_and_the_rest_still_waits(
    data: Path, task_of: TaskOf
) -> None:
    pipelines, cache = narrow(data), PromptCache(size=99)
    prompts = Prompts(pipelines, cache, {})
    waiting = [task_of("text2img", prompt=f"number {number}") for number in range(5)]
    prompts.expect(waiting)
    stop = StopSign()

    def stop_at_the_second(phase: Phase, step: int, steps: int) -> None:
        if step == 2:
            stop.set()

    task = task_of("text2img", prompt="mine")
    resolved = pipelines.resolve(task)
    with pytest.raises(Stopped):
        prompts.encoded(resolved, task, stop, stop_at_the_second)
    assert len(cache._kept) == 3
    pipelines.clear()
    prompts.encoded(resolved, task_of("text2img", prompt="next"), StopSign(), quiet)
    assert len(cache._kept) == 7


def test_encoding_others_does_not_count_against_the_time_limit(data: Path, task_of: TaskOf) -> None:
    pipelines = narrow(data)
    prompts = Prompts(pipelines, PromptCache(size=9), {})
    prompts.expect([task_of("text2img", prompt="other")])
    clock = FakeClock()
    stop = StopSign(100.0, clock)

    def slow(phase: Phase, step: int, steps: int) -> None:
        is_load = phase == Phase.LOADING and not steps
        clock.now += 1000.0 if is_load or (phase == Phase.ENCODING and step) else 0.0

    task = task_of("text2img")
    prompts.encoded(pipelines.resolve(task), task, stop, slow)
    stop.check()
    assert clock.now == 3000.0
    assert stop.given_back == 2000.0


def test_no_more_is_encoded_ahead_than_can_be_kept(
    data: Path, tmp_path: Path, task_of: TaskOf
) -> None:
    pipelines = narrow(data)
    cache = PromptCache(tmp_path, 4 * 10_000, size=1)
    prompts = Prompts(pipelines, cache, {})
    prompts.expect([task_of("text2img", prompt=f"number {number}") for number in range(30)])
    task = task_of("text2img")
    prompts.encoded(pipelines.resolve(task), task, StopSign(), quiet)
    first = cache.get(prompts._key(pipelines.resolve(task), task), "cpu")
    assert first is not None, "what is needed now was lost to what is needed later"
    assert 1 < len(list(tmp_path.iterdir())) <= 4


def test_two_slots_share_the_prompts_that_both_are_told_of(
    data: Path, tmp_path: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in an order of its own, and none that the other has encoded meanwhile."""
    waiting = [task_of("text2img", prompt=f"number {number}") for number in range(12)]
    encoded: dict[str, list[str]] = {"one": [], "two": []}
    slots = {}
    for name in encoded:
        prompts = Prompts(narrow(data), PromptCache(tmp_path, 2**30, size=1), {}, name)
        prompts.expect(waiting)
        encode = prompts._encode

        def noted(*given: Any, name: str = name, encode: Any = encode) -> Any:
            encoded[name].append(given[-1].prompt)
            return encode(*given)

        monkeypatch.setattr(prompts, "_encode", noted)
        slots[name] = prompts

    def run(name: str, on_progress: Any) -> None:
        task = task_of("text2img", prompt=f"of {name}")
        resolved = slots[name]._pipelines.resolve(task)
        slots[name].encoded(resolved, task, StopSign(), on_progress)

    def at_the_fourth(phase: Phase, step: int, steps: int) -> None:
        if (phase, step) == (Phase.ENCODING, 4):
            run("two", quiet)

    run("one", at_the_fourth)
    assert sorted([*encoded["one"], *encoded["two"]]) == sorted(
        [*(task.prompt for task in waiting), "of one", "of two"]
    )
    assert len(encoded["one"]) == 4
    one, two = ([p for p in each if "number" in p] for each in encoded.values())
    assert one != [task.prompt for task in waiting[:3]] and two[:3] != one
