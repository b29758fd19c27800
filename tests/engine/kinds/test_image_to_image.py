"""text2img from a picture: the pixels of diffusers' own pipelines, the steps told, the size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.gpu_thread import GpuThread
from runner.engine.memory import devices
from runner.engine.registry import KINDS
from runner.executor import Progressed, Rendered, StoppedEarly
from runner.job import Phase
from runner.task import ImageTask, InputImage
from tests.fakes import TwinLibrary, Watched, life

TaskOf = Callable[..., ImageTask]
ABLE = [
    name
    for name, model in MODEL_REGISTRY.items()
    if "text2img" in model.serves and model.serves["text2img"].img2img
]


@pytest.fixture(scope="module")
def executor(data: Path) -> Any:
    made = GpuThread(data, library=TwinLibrary(data), device="cpu")
    yield made
    made.close()


@pytest.fixture
def from_picture(task_of: TaskOf, pictures: Mapping[str, InputImage]) -> TaskOf:
    def make(model: str = "tiny", **fields: Any) -> ImageTask:
        inputs = {"image": (pictures["image"],)}
        return task_of("text2img", model=model, **{"inputs": inputs, "steps": 5, **fields})

    return make


def lives(executor: GpuThread, task: ImageTask) -> tuple[list[Progressed], Any]:
    executor.start("gpu0", [task])
    *events, answer = life(executor)
    return [event for event in events if isinstance(event, Progressed)], answer


@pytest.mark.parametrize("model", ABLE)
def test_the_picture_is_the_one_that_diffusers_makes_from_the_same_picture(
    model: str, executor: GpuThread, from_picture: TaskOf, data: Path
) -> None:
    import diffusers
    import torch

    library = TwinLibrary(data)
    entry = library.models[model]
    serving = entry.serves["text2img"]
    task = from_picture(model, strength=0.7)
    answer = lives(executor, task)[1]
    assert isinstance(answer, Rendered), answer
    pipe = getattr(diffusers, serving.img2img).from_pretrained(
        library.main(entry, "text2img"), dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    devices.use_threads(torch.device("cpu"), entry.bytes)
    theirs = pipe(
        prompt=task.prompt,
        image=Image.open(task.inputs["image"][0].path).convert("RGB"),
        strength=0.7,
        num_inference_steps=task.steps,
        guidance_scale=task.guidance,
        width=64,
        height=64,
        max_sequence_length=64,
        generator=torch.Generator("cpu").manual_seed(task.seed),
    ).images[0]
    assert answer.image.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("model", ["tiny", "z-image-turbo"])
@pytest.mark.parametrize(
    ("steps", "strength", "made"),
    [(5, 0.7, 4), (10, 0.3, 3), (28, 0.6, 17), (3, 0.01, 1), (4, 1, 4)],
)
def test_the_steps_that_are_told_are_those_that_are_made(
    steps: int, strength: float, made: int, model: str, executor: GpuThread, from_picture: TaskOf
) -> None:
    events, answer = lives(executor, from_picture(model, steps=steps, strength=strength))
    assert isinstance(answer, Rendered), answer
    told = [(each.step, each.steps) for each in events if each.phase is Phase.DENOISING]
    assert told == [(step, made) for step in range(made + 1)]


def test_a_stop_between_its_steps_leaves_no_picture_and_the_next_one_is_whole(
    executor: GpuThread, from_picture: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = from_picture()
    whole = lives(executor, task)[1].image.tobytes()

    def see(event: Any) -> None:
        if isinstance(event, Progressed) and event.step == 2:
            executor.stop("gpu0")

    with monkeypatch.context() as patch:
        patch.setattr(executor, "events", Watched(see))
        assert isinstance(lives(executor, task)[1], StoppedEarly)
    assert lives(executor, task)[1].image.tobytes() == whole


def test_a_picture_with_and_one_without_a_start_follow_each_other_and_do_not_mix(
    executor: GpuThread, from_picture: TaskOf, task_of: TaskOf
) -> None:
    plain, started = task_of("text2img", steps=5), from_picture()
    first = [lives(executor, task)[1].image.tobytes() for task in (plain, started)]
    again = [lives(executor, task)[1].image.tobytes() for task in (plain, started)]
    assert first == again
    assert first[0] != first[1]


def test_a_negative_prompt_acts_from_a_picture_too(
    executor: GpuThread, from_picture: TaskOf
) -> None:
    plain, negative = (
        lives(executor, task)[1].image.tobytes()
        for task in (from_picture(), from_picture(negative_prompt="a star"))
    )
    assert plain != negative


def test_the_strength_is_0_6_where_none_is_given_and_is_none_without_a_picture(
    from_picture: TaskOf, task_of: TaskOf
) -> None:
    task = from_picture()
    prepared = KINDS["text2img"].prepare(task, MODEL_REGISTRY["tiny"].sizes)
    assert KINDS["text2img"].arguments["flux1"](task, prepared)["strength"] == 0.6
    plain = task_of("text2img", steps=5)
    prepared = KINDS["text2img"].prepare(plain, MODEL_REGISTRY["tiny"].sizes)
    assert "strength" not in KINDS["text2img"].arguments["flux1"](plain, prepared)
    assert plain.steps_made == 5


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"width": None, "height": None}, (304, 192)),
        ({"width": 160, "height": None}, (160, 96)),
        ({"width": 128, "height": 256}, (128, 256)),
    ],
)
def test_the_size_follows_the_picture_unless_one_is_given(
    asked: dict[str, int | None], size: tuple[int, int], task_of: TaskOf, tmp_path: Path
) -> None:
    Image.new("RGB", (310, 200), "red").save(tmp_path / "photo.png")
    inputs = {"image": (InputImage(tmp_path / "photo.png"),)}
    task = task_of("text2img", model="dev", inputs=inputs, image="photo.png", **asked)
    prepared = KINDS["text2img"].prepare(task, MODEL_REGISTRY["dev"].sizes)
    assert (prepared.width, prepared.height) == prepared.images["image"][0].size == size


def test_a_picture_of_many_pixels_is_made_smaller_as_far_as_the_model_goes(
    task_of: TaskOf, tmp_path: Path
) -> None:
    Image.new("RGB", (4000, 3000)).save(tmp_path / "photo.png")
    inputs = {"image": (InputImage(tmp_path / "photo.png"),)}
    task = task_of("text2img", model="dev", inputs=inputs, width=None, height=None)
    prepared = KINDS["text2img"].prepare(task, MODEL_REGISTRY["dev"].sizes)
    assert (prepared.width, prepared.height) == (1664, 1248)


@pytest.mark.parametrize("model", ["tiny", "fill-dev", "klein", "z-image-turbo"])
def test_a_strength_of_fill_makes_the_last_steps_alone_and_1_is_what_none_is(
    model: str, executor: GpuThread, task_of: TaskOf
) -> None:
    made = {}
    for strength, steps in ((0.2, 1), (0.6, 3), (1.0, 5)):
        events, answer = lives(executor, task_of("fill", model=model, steps=5, strength=strength))
        assert isinstance(answer, Rendered), answer
        assert max(each.steps for each in events if each.phase is Phase.DENOISING) == steps
        made[strength] = answer.image.tobytes()
    plain = lives(executor, task_of("fill", model=model, steps=5))[1]
    assert plain.image.tobytes() == made[1.0] and len(set(made.values())) == 3
