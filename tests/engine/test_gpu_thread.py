"""The executor answers every task exactly once, whatever happens in it."""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from runner.engine import gpu
from runner.engine.entries import MODEL_REGISTRY
from runner.engine.errors import DeviceLost
from runner.engine.gpu_thread import GpuThread, of_home
from runner.engine.hub import library as hub
from runner.engine.registry import KINDS
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import OutOfMemory
from runner.executor import Failed, Progressed, Rendered, StoppedEarly
from runner.job import Phase
from runner.settings import Home, Settings
from runner.task import ImageTask, InputImage
from tests.fakes import TwinLibrary, Watched, life
from tests.harness import eventually

ExecutorOf = Callable[..., GpuThread]
TaskOf = Callable[..., ImageTask]


class GatedPipelines(PipelineCache):
    """A shelf whose `clear` waits: it holds the executor's thread before its next task."""

    def __init__(self, data: Path) -> None:
        super().__init__(TwinLibrary(data), device="cpu")
        self.gate = threading.Event()

    def clear(self) -> None:
        self.gate.wait(20)
        super().clear()


def digest(answer: Any) -> str:
    assert isinstance(answer, Rendered), answer
    return hashlib.sha256(answer.image.tobytes()).hexdigest()


def outcome(executor: GpuThread, task: ImageTask) -> Any:
    executor.start("gpu0", [task])
    return life(executor)[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_renders_and_tells_its_phases(
    kind: str, executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    executor = executor_of()
    executor.start("gpu0", [task_of(kind)])
    *progress, answer = life(executor)
    assert isinstance(answer, Rendered) and answer.image.size == (64, 64)
    # What a load counts is for tests/engine/weights/test_loading.py.
    told = [
        (event.phase, event.step, event.steps)
        for event in progress
        if isinstance(event, Progressed) and not (event.phase is Phase.LOADING and event.steps)
    ]
    before = [(Phase.PREPROCESSING, 0, 0)] if KINDS[kind].reads else []
    assert told == [
        *before,
        (Phase.LOADING, 0, 0),
        (Phase.ENCODING, 0, 0),
        (Phase.LOADING, 0, 0),
        *([(Phase.LOADING, 0, 0)] if kind == "redux" else []),
        *((Phase.DENOISING, step, 3) for step in range(4)),
        (Phase.DECODING, 0, 0),
    ]


def test_facts_are_what_a_sidecar_needs(executor_of: ExecutorOf, task_of: TaskOf) -> None:
    facts = outcome(executor_of(), task_of("text2img")).facts
    assert set(facts["model"]) == {"name", "repo", "file", "revision", "hash", "guided_by"}
    assert facts["model"]["guided_by"] == "distilled"
    assert set(facts["versions"]) == {
        *("fluxdrop", "python", "torch", "diffusers", "transformers", "pillow")
    }
    assert (facts["dtype"], facts["precision"], facts["device"]) == ("float32", "fp32", "cpu")
    assert (facts["steps"], facts["guidance"]) == (3, 3.5)
    assert (facts["width"], facts["height"]) == (64, 64)
    assert facts["recipe"] == KINDS["text2img"].recipe


@pytest.mark.parametrize("kind", ["text2img", "fill"])
def test_a_picture_of_one_colour_is_kept_and_a_warning_also_where_it_is_pasted_into_another(
    executor_of: ExecutorOf, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    executor = executor_of()
    assert outcome(executor, task_of(kind)).warnings == ()

    def grey(*given: Any) -> Any:
        return [Image.new("RGB", (64, 64), (7, 8, 9))]

    monkeypatch.setattr(gpu, "run_batch", grey)
    answer = outcome(executor, task_of(kind))
    assert isinstance(answer, Rendered) and "of one colour" in answer.warnings[0]
    assert (answer.image.getcolors(1) is None) == (kind == "fill")


def test_warnings_about_an_input_picture_are_those_of_the_image(
    executor_of: ExecutorOf, task_of: TaskOf, pictures: Mapping[str, Any]
) -> None:
    task = task_of("fill", inputs={"mask": (pictures["image"],)})
    (warning,) = outcome(executor_of(), task).warnings
    assert "many shades between black and white" in warning


def test_tasks_and_answers_can_be_pickled(executor_of: ExecutorOf, task_of: TaskOf) -> None:
    task = task_of("fill")
    executor = executor_of()
    executor.start("gpu0", [task])
    assert [type(event) for event in pickle.loads(pickle.dumps(life(executor)))][-1] is Rendered


def test_an_unforeseen_error_is_internal_and_the_next_task_runs(
    executor_of: ExecutorOf,
    task_of: TaskOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*given: object, **named: object) -> None:
        raise ZeroDivisionError("a red circle in /home/ada/secret.png\nmore")

    executor = executor_of()
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "run_batch", broken)
        answer = outcome(executor, task_of("text2img"))
    assert isinstance(answer, Failed) and answer.reason == "Internal"
    assert answer.message == "ZeroDivisionError: … in …"
    assert "a red circle" not in caplog.text and "ZeroDivisionError" in caplog.text
    assert isinstance(outcome(executor, task_of("text2img")), Rendered)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_not_even_an_exit_leaves_a_task_without_an_answer(
    error: BaseException,
    executor_of: ExecutorOf,
    task_of: TaskOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leave(*given: object, **named: object) -> None:
        raise error

    executor = executor_of()
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "run_batch", leave)
        assert outcome(executor, task_of("text2img")).reason == "Internal"
    assert isinstance(outcome(executor, task_of("text2img")), Rendered)


def test_a_lost_device_fails_that_task_and_every_later_one(
    executor_of: ExecutorOf, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = executor_of()
    with monkeypatch.context() as patch:

        def lose(*given: object, **named: object) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        patch.setattr(gpu, "_call", lose)
        assert outcome(executor, task_of("text2img")).reason == "DeviceLost"
    assert executor.lost
    assert outcome(executor, task_of("text2img")).reason == "DeviceLost"


def test_absent_weights_and_bad_pictures_fail_with_their_own_reasons(
    executor_of: ExecutorOf, task_of: TaskOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    executor = executor_of(library=hub.Disk(tmp_path))
    answer = outcome(executor, task_of("text2img", model="schnell"))
    assert answer.reason == "ModelMissing"
    assert "fluxdrop models pull schnell" in answer.message
    (tmp_path / "bad.png").write_text("not a picture", encoding="utf-8")
    bad = {"image": (InputImage(tmp_path / "bad.png"),)}
    assert outcome(executor, task_of("kontext", inputs=bad)).reason == "InputBad"
    gone = {"image": (InputImage(tmp_path / "gone.png"),)}
    assert outcome(executor, task_of("redux", inputs=gone)).reason == "InputMissing"


def test_damaged_weights_are_missing_weights(
    tmp_path: Path, executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    library = TwinLibrary(tmp_path)
    folder = library.main(MODEL_REGISTRY["tiny"], "text2img")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 100)
    answer = outcome(executor_of(library=library), task_of("text2img"))
    assert answer.reason == "ModelMissing"


def test_a_task_of_an_unknown_model_or_kind_is_answered(
    executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    executor = executor_of()
    for change in ({"model": "gone"}, {"kind": "gone"}, {"model": "schnell", "kind": "fill"}):
        assert isinstance(outcome(executor, replace(task_of("fill"), **change)), Failed)


def test_the_time_limit_ends_a_task_as_timeout(executor_of: ExecutorOf, task_of: TaskOf) -> None:
    answer = outcome(executor_of(), replace(task_of("text2img"), timeout=1e-9))
    assert answer.reason == "Timeout"


def test_time_in_which_the_process_stood_still_counts_towards_no_time_limit(
    executor_of: ExecutorOf, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = executor_of()
    executor._threads.awake.tick()
    limit = 60.0
    executor.start("gpu0", [replace(task_of("text2img"), timeout=limit)])
    later = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + 2 * limit)
    monkeypatch.setattr("runner.clock.time", later)
    assert isinstance(life(executor)[-1], Rendered)


def test_the_gpu_thread_is_seen_to_move_with_each_of_its_events(
    executor_of: ExecutorOf, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, hour = executor_of(), 3600.0
    outcome(executor, task_of("text2img"))
    monkeypatch.setattr("runner.threads.monotonic", lambda: time.monotonic() + hour)
    assert executor._threads.still()["gpu0"] > hour / 2
    outcome(executor, task_of("text2img"))
    assert executor._threads.still()["gpu0"] < hour / 2


def test_several_tasks_are_answered_in_order_and_the_slot_is_busy_till_the_last(
    executor_of: ExecutorOf, task_of: TaskOf, data: Path
) -> None:
    executor = executor_of()
    tasks = [task_of("text2img", seed=seed) for seed in (1, 2, 3)]
    executor.start("gpu0", tasks)
    answered = [life(executor)[-1] for _ in tasks]
    assert [answer.task for answer in answered] == tasks
    (slot,) = executor.slots()
    assert (slot.busy, slot.models) == (False, ("tiny",))


def test_a_busy_foreign_or_closed_slot_takes_no_task(
    data: Path, executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    pipelines = GatedPipelines(data)
    executor = executor_of(pipelines=pipelines)
    executor.release()
    executor.start("gpu0", [task_of("text2img")])
    assert executor.slots()[0].busy
    with pytest.raises(ValueError, match="busy"):
        executor.start("gpu0", [task_of("text2img")])
    pipelines.gate.set()
    life(executor)
    for slot in ("cpu", "gpu1"):
        with pytest.raises(ValueError, match="not mine"):
            executor.start(slot, [task_of("text2img")])
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.start("gpu0", [task_of("text2img")])


def test_stopping_an_idle_slot_does_not_touch_the_next_task(
    executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    executor = executor_of()
    executor.stop("gpu0")
    assert isinstance(outcome(executor, task_of("text2img")), Rendered)


def test_release_takes_the_models_off_and_the_next_task_loads_again(
    executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    executor = executor_of()
    assert executor.slots()[0].has_nothing
    first = digest(outcome(executor, task_of("text2img")))
    assert not executor.slots()[0].has_nothing
    executor.release()
    eventually(lambda: executor.slots()[0].has_nothing, "an empty device")
    executor.start("gpu0", [task_of("text2img")])
    *progress, answer = life(executor)
    assert Progressed("gpu0", task_of("text2img"), Phase.LOADING) in progress
    assert digest(answer) == first


def test_close_stops_and_answers_what_is_in_hand(
    data: Path, executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    pipelines = GatedPipelines(data)
    executor = executor_of(pipelines=pipelines)
    stop = executor.stop

    def stop_and_go_on(slot: str) -> None:
        stop(slot)
        pipelines.gate.set()

    executor.stop = stop_and_go_on  # type: ignore[method-assign]
    executor.release()
    executor.start("gpu0", [task_of("text2img"), task_of("fill")])
    executor.close()
    assert [type(executor.events.get(timeout=5)) for _ in range(2)] == [StoppedEarly] * 2
    executor.close()


def test_housekeeping_that_fails_ends_nothing(
    data: Path, executor_of: ExecutorOf, task_of: TaskOf, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(PipelineCache):
        def clear(self) -> None:
            raise OSError("no")

    executor = executor_of(pipelines=Stubborn(TwinLibrary(data), device="cpu"))
    executor.release()
    assert isinstance(outcome(executor, task_of("text2img")), Rendered)
    assert "housekeeping" in caplog.text


def test_announced_work_makes_nothing_happen_but_readiness(
    executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    executor = executor_of()
    executor.prepare([])
    executor.prepare([task_of("text2img")])
    assert isinstance(outcome(executor, task_of("text2img")), Rendered)


def test_the_precision_of_the_spec_beats_the_settings(
    executor_of: ExecutorOf, task_of: TaskOf
) -> None:
    facts: Mapping[str, Any] = outcome(executor_of(), task_of("text2img", precision="bf16")).facts
    assert (facts["dtype"], facts["precision"]) == ("bfloat16", "bf16")


class Scripted:
    """A renderer without models: it does what a test says, once the gate is open."""

    def __init__(self) -> None:
        self.batching = SimpleNamespace(size=4)
        self.calls: list[list[ImageTask]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.progress = False
        self.one: Callable[[ImageTask], Rendered] = picture
        self.all: Callable[[list[ImageTask]], list[Rendered] | None] = lambda tasks: None

    def render(self, task: ImageTask, sign: gpu.StopSign, on_event: Any) -> Rendered:
        self.calls.append([task])
        if self.progress:
            on_event(Progressed("gpu0", task, Phase.LOADING))
        assert self.gate.wait(20)
        sign.check()
        return self.one(task)

    def render_batch(
        self, tasks: list[ImageTask], sign: gpu.StopSign, on_event: object
    ) -> list[Rendered] | None:
        self.calls.append(tasks)
        assert self.gate.wait(20)
        sign.check()
        return self.all(tasks)

    def forget(self) -> None:
        self.calls.append([])


def picture(task: ImageTask) -> Rendered:
    return Rendered("gpu0", task, Image.new("RGB", (1, 1)), 0.1, {})


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The renderer of every executor that is made from now on."""
    made = Scripted()
    monkeypatch.setattr("runner.engine.gpu_thread.Renderer", lambda *given: made)
    return made


@pytest.fixture
def tasks(task_of: TaskOf) -> list[ImageTask]:
    return [task_of("text2img", seed=seed) for seed in (1, 2, 3)]


def all_answers(executor: GpuThread, tasks: list[ImageTask]) -> list[Any]:
    executor.start("gpu0", tasks)
    return [executor.events.get(timeout=20) for _ in tasks]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_tasks_are_tried_in_one_call_and_else_made_one_by_one(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask], count: int
) -> None:
    executor, given = executor_of(), tasks[:count]
    alone = [[task] for task in given]
    assert all_answers(executor, given) == [picture(task) for task in given]
    assert renderer.calls == ([given] if count > 1 else []) + alone
    assert executor.slots()[0].batch_size == 4


def test_what_one_call_made_is_answered_in_order_and_not_made_again(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask]
) -> None:
    executor, busy = executor_of(), []
    executor.events = Watched(  # type: ignore[assignment]
        lambda event: busy.append(executor.slots()[0].busy)
    )
    renderer.all = lambda given: [picture(task) for task in given]
    assert all_answers(executor, tasks) == [picture(task) for task in tasks]
    assert renderer.calls == [tasks]
    assert busy == [False] * 3, "the slot is free before an answer can be read"


@pytest.mark.parametrize("error", [RuntimeError("too large"), OutOfMemory("no room")])
def test_after_a_fault_in_the_one_call_each_is_made_alone_and_the_log_says_why(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask],
    caplog: pytest.LogCaptureFixture, error: Exception,
) -> None:  # fmt: skip
    def fail(tasks: list[ImageTask]) -> None:
        raise error from ValueError(f"of {tasks[1].prompt}", tasks[2].prompt)

    tasks[1:] = [replace(tasks[1], prompt="a secret"), replace(tasks[2], prompt="one\nsecret")]
    caplog.set_level("INFO")
    renderer.all = fail
    assert all_answers(executor_of(), tasks) == [picture(task) for task in tasks]
    assert renderer.calls == [tasks, *([task] for task in tasks)]
    assert "3 images could not be made at once" in caplog.text and str(error) in caplog.text
    assert "of …" in caplog.text and "secret" not in caplog.text


def test_of_tasks_made_one_by_one_the_slot_is_free_before_the_last_answer_can_be_read(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask]
) -> None:
    executor, busy = executor_of(), []
    executor.events = Watched(  # type: ignore[assignment]
        lambda event: busy.append(executor.slots()[0].busy)
    )
    all_answers(executor, tasks)
    assert busy == [True, True, False]
    executor.start("gpu0", [])
    assert not executor.slots()[0].busy


def test_after_a_lost_device_nothing_is_tried_any_more(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask]
) -> None:
    def lose(task: ImageTask) -> Rendered:
        raise DeviceLost("the GPU is gone")

    executor = executor_of()
    renderer.one = lose
    assert executor.lost is None
    for given in (tasks[:1], tasks):
        answers = all_answers(executor, given)
        told = [(answer.reason, answer.message) for answer in answers]
        assert told == [("DeviceLost", "the GPU is gone")] * len(given)
    assert renderer.calls == [tasks[:1]] and executor.lost == "the GPU is gone"


def test_a_stop_is_for_one_slot_and_for_all_of_its_tasks(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask]
) -> None:
    executor = executor_of()
    for slot, answer in (("gpu1", Rendered), ("cpu", Rendered), ("gpu0", StoppedEarly)):
        renderer.gate.clear()
        executor.start("gpu0", tasks)
        executor.stop(slot)
        renderer.gate.set()
        assert [type(executor.events.get(timeout=20)) for _ in tasks] == [answer] * 3


def test_a_stop_between_two_tasks_is_for_those_that_are_left(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask]
) -> None:
    executor = executor_of()
    executor.events = Watched(lambda event: executor.stop("gpu0"))  # type: ignore[assignment]
    answers = all_answers(executor, tasks)
    assert [type(answer) for answer in answers] == [Rendered, StoppedEarly, StoppedEarly]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError(), "ZeroDivisionError"),
(ValueError(" \n"), "ValueError"),
        (ValueError("x" * 301), "ValueError: " + "x" * 300),
        (ValueError(r"no C:\\Users\\ada\\x.png, no /home/ada: gone" + "\nmore"),
         "ValueError: no …, no …: gone"),
    ],
)  # fmt: skip
def test_of_an_unforeseen_error_its_name_and_a_line_without_paths_is_told(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask],
    error: Exception, message: str,
) -> None:  # fmt: skip
    def fail(task: ImageTask) -> Rendered:
        raise error

    renderer.one = fail
    (answer,) = all_answers(executor_of(), tasks[:1])
    assert (answer.reason, answer.message) == ("Internal", message)


def test_a_release_waits_for_its_turn_and_a_close_releases_too_and_ends_the_thread(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask]
) -> None:
    executor = executor_of()
    threads = [thread for thread in threading.enumerate() if thread.name == "gpu0"]
    assert threads and all(thread.daemon for thread in threads), "none keeps a process from ending"
    renderer.gate.clear()
    executor.start("gpu0", tasks[:1])
    executor.release()
    renderer.gate.set()
    executor.close()
    executor.events.get(timeout=20)
    assert renderer.calls == [tasks[:1], [], []]
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_encoded_prompts_are_kept_on_disk_where_there_may_be_some(
    size: int, data: Path, tmp_path: Path, task_of: TaskOf
) -> None:
    pipelines = PipelineCache(TwinLibrary(data), device="cpu")
    settings = {"prompt_cache": size} if size else {}
    executor = GpuThread(tmp_path, pipelines=pipelines, **settings)
    assert isinstance(outcome(executor, task_of("text2img")), Rendered)
    executor.close()
    assert any(tmp_path.rglob("cache/embeddings/*")) == bool(size)


def test_announced_prompts_are_remembered_and_the_libraries_imported_meanwhile(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    imported, expected, executor = threading.Event(), [], executor_of()
    monkeypatch.setattr("runner.engine.gpu_thread.devices.frameworks", imported.set)
    monkeypatch.setattr(executor._prompts, "expect", expected.append)
    executor.prepare([])
    executor.prepare(tasks)
    assert imported.wait(20) and expected == [tasks]


@pytest.mark.parametrize("suspect", [True, False])
def test_what_may_end_the_process_is_waited_for_until_its_progress_is_recorded(
    renderer: Scripted, executor_of: ExecutorOf, tasks: list[ImageTask],
    monkeypatch: pytest.MonkeyPatch, suspect: bool,
) -> None:  # fmt: skip
    waited: list[float] = []
    monkeypatch.setattr("runner.engine.gpu_thread.time.sleep", waited.append)
    renderer.progress = True
    executor = executor_of()
    executor.start("gpu0", [replace(tasks[0], suspect=suspect)])
    assert [type(event) for event in life(executor)] == [Progressed, Rendered]
    assert waited == [0.02] * suspect


def test_a_thread_works_as_its_homes_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "runner.engine.gpu_thread.GpuThread", lambda data, **named: given.update(named, data=data)
    )
    settings = Settings(device="cpu", prompt_cache_gb=1.5, gpu_memory_gb=7.0, attention="auto")
    home = Home(tmp_path, settings)
    of_home(home)
    pipelines = given.pop("pipelines")
    wanted = {"data": home.data, "prompt_cache": 1_500_000_000, "threads": home.threads}
    slot = {"slot": "gpu0", "device": "cpu", "shown": ""}
    assert given == wanted | slot
    assert (pipelines._wanted_device, pipelines._gpu_memory_gb) == ("cpu", 7.0)
    assert pipelines._speed.attention == "auto"
