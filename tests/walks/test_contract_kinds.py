"""Cancelling works at every joint for every model and kind, through the one call site.

Hollow-proof: with `CALLBACK: on_step_end` deleted from `runner/engine/gpu.py`, every case that
stops within the steps below goes red; with the check after the call deleted, the cases that stop
after the last step do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.engine import gpu
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.families import FLUX1
from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import KINDS, realise
from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.executor import Event, Failed, Progressed, Rendered, StoppedEarly
from runner.job import Phase
from runner.task import ImageTask, InputImage
from tests.fakes import FakePipe, TwinLibrary, Watched, life

STEPS = 3
SERVED = [
    pytest.param(model.name, kind, id=f"{model.name}-{kind}")
    for model in MODEL_REGISTRY.values()
    for kind in model.serves
]
MOMENTS: dict[str, tuple[Phase, int]] = {
    "before encoding": (Phase.ENCODING, 0),
    "before the first step": (Phase.DENOISING, 0),
    "at step 0": (Phase.DENOISING, 1),
    "mid": (Phase.DENOISING, 2),
    "at the last step": (Phase.DENOISING, STEPS),
}


class KeptPipelines(PipelineCache):
    """A shelf that outlives its executors."""

    def clear(self) -> None:
        pass


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> TwinLibrary:
    return TwinLibrary(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pipelines(library: TwinLibrary) -> PipelineCache:
    """One shelf for all: what one case leaves behind on a pipeline, the next would show."""
    return KeptPipelines(library, device="cpu")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[InputImage, ...]]:
    from PIL import Image, ImageDraw

    folder = tmp_path_factory.mktemp("pictures")
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).ellipse((10, 10, 40, 50), fill="red")
    picture.save(folder / "image.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (8, 8, 40, 40))
    mask.save(folder / "mask.png")
    return {name: (InputImage(folder / f"{name}.png"),) for name in ("image", "mask")}


@pytest.fixture
def executor(library: TwinLibrary, pipelines: PipelineCache) -> Any:
    made = GpuThread(library.data, pipelines=pipelines)
    yield made
    made.close()


def task_of(model: str, kind: str, inputs: dict[str, tuple[InputImage, ...]]) -> ImageTask:
    spec: dict[str, Any] = {"kind": kind, "model": model, "prompt": "a", "seed": 5, "steps": STEPS}
    if not KINDS[kind].reads:
        spec |= {"width": 64, "height": 64}
    if model == "depth":
        spec |= {"control": "depth", "preprocessed": True}
    given = {name: inputs[name] for name in KINDS[kind].reads}
    return realise(spec, job="job", index=1, inputs=given)


def stop_at(executor: GpuThread, moment: Callable[[Event], bool]) -> None:
    """Sets the stop sign in the instant in which the event appears."""

    def see(event: Event) -> None:
        if moment(event):
            executor.stop("gpu0")

    executor.events = Watched(see)  # type: ignore[assignment]


def lives(executor: GpuThread, task: ImageTask) -> list[Event]:
    executor.start("gpu0", [task])
    return life(executor)


def reached(events: list[Event]) -> list[tuple[Phase, int]]:
    return [(each.phase, each.step) for each in events if isinstance(each, Progressed)]


def leaves_nothing_when_stopped(executor: GpuThread, task: ImageTask, plain: Rendered) -> None:
    """A stop at each moment gives no picture, and the next picture is the one of before."""
    for name, (phase, step) in MOMENTS.items():
        executor._prompts.clear()
        stop_at(
            executor,
            lambda event, at=(phase, step): (  # type: ignore[misc]
                isinstance(event, Progressed) and (event.phase, event.step) == at
            ),
        )
        events = lives(executor, task)
        assert isinstance(events[-1], StoppedEarly), name
        last = reached(events)[-1]
        assert last == ((phase, 1) if (phase, step) == (Phase.DENOISING, 0) else (phase, step)), (
            name
        )
        assert sum(isinstance(event, Rendered) for event in events) == 0
    executor.events = Watched(lambda event: None)  # type: ignore[assignment]
    again = lives(executor, task)[-1]
    assert isinstance(again, Rendered) and again.image.tobytes() == plain.image.tobytes()


@pytest.mark.parametrize(("model", "kind"), SERVED)
def test_a_stop_at_any_step_leaves_no_picture_and_a_clean_pipeline(
    model: str,
    kind: str,
    executor: GpuThread,
    pipelines: PipelineCache,
    inputs: dict[str, tuple[InputImage, ...]],
) -> None:
    task = task_of(model, kind, inputs)
    plain = lives(executor, task)[-1]
    assert isinstance(plain, Rendered)
    leaves_nothing_when_stopped(executor, task, plain)


@pytest.mark.parametrize(("model", "kind"), SERVED)
def test_a_stop_after_each_call_of_a_pipeline_is_seen_before_decoding(
    model: str,
    kind: str,
    executor: GpuThread,
    inputs: dict[str, tuple[InputImage, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For redux the first call is the prior: its stop is seen before the main stage begins."""
    task = task_of(model, kind, inputs)
    calls = 2 if MODEL_REGISTRY[model].serves[kind].prior else 1
    call = gpu._call
    for stop_after in range(1, calls + 1):
        begun: list[object] = []

        def watched(*given: Any, begun: list[object] = begun, at: int = stop_after) -> Any:
            begun.append(given)
            result = call(*given)
            if len(begun) == at:
                executor.stop("gpu0")
            return result

        monkeypatch.setattr(gpu, "_call", watched)
        events = lives(executor, task)
        assert isinstance(events[-1], StoppedEarly)
        assert len(begun) == stop_after
        assert Phase.DECODING not in [phase for phase, _ in reached(events)]


@pytest.mark.parametrize(("model", "kind"), SERVED)
def test_a_stop_before_the_task_is_looked_at_does_nothing_at_all(
    model: str,
    kind: str,
    library: TwinLibrary,
    inputs: dict[str, tuple[InputImage, ...]],
) -> None:
    class Untouched(PipelineCache):
        def resolve(self, *given: Any) -> Any:
            raise AssertionError("nothing may be loaded for a stopped task")

    executor = GpuThread(library.data, pipelines=Untouched(library))
    try:
        first = task_of("tiny", "text2img", inputs)
        stop_at(executor, lambda event: isinstance(event, Failed))
        # The first task fails in the shelf; its answer stops the second, which is in hand too.
        executor.start("gpu0", [first, task_of(model, kind, inputs)])
        assert isinstance(life(executor)[-1], Failed)
        assert [type(event) for event in life(executor)] == [StoppedEarly]
    finally:
        executor.close()


def test_a_stop_once_decoding_has_begun_keeps_the_picture(
    executor: GpuThread, inputs: dict[str, tuple[InputImage, ...]]
) -> None:
    stop_at(executor, lambda event: isinstance(event, Progressed) and event.phase == Phase.DECODING)
    assert isinstance(lives(executor, task_of("tiny", "text2img", inputs))[-1], Rendered)


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_image_after_a_stop_or_an_error_is_that_of_a_fresh_pipeline(
    kind: str,
    library: TwinLibrary,
    inputs: dict[str, tuple[InputImage, ...]],
) -> None:
    task = task_of("tiny", kind, inputs)

    def fresh() -> GpuThread:
        return GpuThread(library.data, library=library, device="cpu")

    first, executor = fresh(), fresh()
    expected = lives(first, task)[-1]
    first.close()
    assert isinstance(expected, Rendered)

    def stopping(event: Event) -> None:
        if isinstance(event, Progressed) and event.step == 2:
            executor.stop("gpu0")

    def failing(event: Event) -> None:
        if isinstance(event, Progressed) and event.step == 2:
            raise ArithmeticError("in the middle of a step")

    for see, end in ((stopping, StoppedEarly), (failing, Failed)):
        executor.events = Watched(see)  # type: ignore[assignment]
        assert isinstance(lives(executor, task)[-1], end)
        executor.events = Watched(lambda event: None)  # type: ignore[assignment]
        again = lives(executor, task)[-1]
        assert isinstance(again, Rendered)
        assert again.image.tobytes() == expected.image.tobytes()
    executor.close()


class FakePipelines(PipelineCache):
    """Hands out a fake pipeline in place of a loaded one."""

    def __init__(self, library: TwinLibrary, pipe: FakePipe) -> None:
        super().__init__(library, device="cpu")
        self.pipe = pipe

    def text(self, resolved: ResolvedTask, on_loading: Callable[[], None]) -> FakePipe:
        return self.pipe

    def paint(self, resolved: ResolvedTask, on_loading: Callable[[], None]) -> gpu.Stages:
        arguments = resolved.kind.arguments["flux1"]
        return gpu.Stages(family=FLUX1, main=self.pipe, arguments=arguments)


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if not kind.prior])
@pytest.mark.parametrize("moment", [None, *MOMENTS])
def test_the_fake_pipeline_and_the_real_one_live_the_same_lives(
    kind: str,
    moment: str | None,
    library: TwinLibrary,
    pipelines: PipelineCache,
    inputs: dict[str, tuple[InputImage, ...]],
) -> None:
    task = task_of("tiny", kind, inputs)
    resolved = pipelines.resolve(task)
    pipelines.text(resolved, lambda *_: None)
    pipelines.paint(resolved, lambda *_: None)
    seen = []
    for each in (pipelines, FakePipelines(library, FakePipe())):
        executor = GpuThread(library.data, pipelines=each)
        if moment:
            stop_at(
                executor,
                lambda event: (
                    isinstance(event, Progressed) and (event.phase, event.step) == MOMENTS[moment]
                ),
            )
        events = lives(executor, task)
        seen.append((reached(events), type(events[-1])))
        executor.close()
    assert seen[0] == seen[1]


def test_the_fake_pipeline_takes_no_keyword_that_the_real_ones_do_not() -> None:
    import inspect

    import diffusers

    own = set(inspect.signature(FakePipe.__call__).parameters) - {"self", "inputs"}
    flux1 = [model for model in MODEL_REGISTRY.values() if model.family == FLUX1.name]
    for model in flux1:
        for serving in model.serves.values():
            real = inspect.signature(getattr(diffusers, serving.pipeline).__call__).parameters
            assert own <= set(real)
