"""Negative prompts: the pixels that diffusers' own pipelines make of them, kept like any prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.gpu_thread import GpuThread
from runner.engine.memory import devices
from runner.engine.registry import realise
from runner.engine.tiny.folders import folder
from runner.executor import Progressed, Rendered
from runner.job import Phase
from runner.task import ImageTask, InputImage
from tests.fakes import TwinLibrary, life

TaskOf = Callable[..., ImageTask]
TINY = {"text2img": "FluxPipeline", "kontext": "FluxKontextPipeline"}


@pytest.fixture(scope="module")
def executor(data: Path) -> Any:
    """An executor with the built-in model itself."""
    made = GpuThread(data, device="cpu")
    yield made
    made.close()


def made_by(executor: GpuThread, task: ImageTask) -> tuple[list[Phase], Rendered]:
    executor.start("gpu0", [task])
    *events, answer = life(executor)
    assert isinstance(answer, Rendered), answer
    return [event.phase for event in events if isinstance(event, Progressed)], answer


def generator(task: ImageTask) -> Any:
    import torch

    return torch.Generator("cpu").manual_seed(task.seed)


@pytest.mark.parametrize("kind", TINY)
def test_the_picture_is_the_one_that_diffusers_makes_with_the_same_negative_prompt(
    kind: str, executor: GpuThread, task_of: TaskOf, pictures: Mapping[str, InputImage], data: Path
) -> None:
    import diffusers
    import torch
    from PIL import Image

    asked = {"negative_prompt": "a green square", "true_cfg": 3.0}
    plain = made_by(executor, task_of(kind))[1].image
    task = task_of(kind, **asked)
    ours = made_by(executor, task)[1].image
    assert ours.tobytes() != plain.tobytes()
    pipe = getattr(diffusers, TINY[kind]).from_pretrained(folder(kind, data), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    own = {}
    if kind == "kontext":
        picture = Image.open(pictures["image"].path).convert("RGB")
        own = {"image": picture, "max_area": 64 * 64, "_auto_resize": False}
    devices.use_threads(torch.device("cpu"), 1)
    theirs = pipe(
        prompt=task.prompt,
        negative_prompt="a green square",
        true_cfg_scale=3.0,
        num_inference_steps=task.steps,
        guidance_scale=task.guidance,
        width=64,
        height=64,
        max_sequence_length=64,
        generator=generator(task),
        **own,
    ).images[0]
    assert ours.tobytes() == theirs.tobytes()


def test_true_cfg_alone_leads_away_from_the_empty_prompt_and_the_default_is_the_models(
    executor: GpuThread, task_of: TaskOf
) -> None:
    alone = task_of("text2img", true_cfg=4)
    assert alone.options["negative_prompt"] == ""
    given = task_of("text2img", negative_prompt="a green square")
    assert given.options["true_cfg"] == MODEL_REGISTRY["tiny"].serves["text2img"].true_cfg == 2.0
    assert "negative_prompt" not in task_of("text2img").options
    made = {made_by(executor, task)[1].image.tobytes() for task in (alone, given)}
    assert len(made) == 2


UNDISTILLED = {
    "klein": ("Flux2KleinPipeline", {"is_distilled": False}),
    "z-image-turbo": ("ZImagePipeline", {}),
}


class Undistilled(TwinLibrary):
    """The twins of models whose guidance is a true one, as an entry of the settings says."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.models = {
            name: replace(
                model,
                serves={
                    kind: replace(serving, guided=True, guidance=4.0, negative="guidance")
                    for kind, serving in model.serves.items()
                },
            )
            for name, model in self.models.items()
            if name in UNDISTILLED
        }


@pytest.mark.parametrize("negative", [None, "a green square"])
@pytest.mark.parametrize("model", UNDISTILLED)
def test_where_guidance_is_a_true_one_it_weighs_the_negative_prompt_or_the_empty_one(
    model: str, negative: str | None, data: Path
) -> None:
    import diffusers
    import torch

    library = Undistilled(data)
    name, said = UNDISTILLED[model]
    asked = {} if negative is None else {"negative_prompt": negative}
    spec = {"kind": "text2img", "model": model, "prompt": "a red circle", "seed": 7, "steps": 2}
    spec |= {"width": 64, "height": 64, **asked}
    task = realise(spec, job="job", index=1, inputs={}, models=library.models)
    executor = GpuThread(data, library=library, device="cpu")
    try:
        ours = made_by(executor, task)[1].image
    finally:
        executor.close()
    pipe = getattr(diffusers, name).from_pretrained(
        library.main(library.models[model], "text2img"), dtype=torch.float32, **said
    )
    pipe.set_progress_bar_config(disable=True)
    # Flux2KleinPipeline takes a negative prompt only as embeddings.
    if model == "klein":
        embeds = pipe.encode_prompt(prompt=negative or "", max_sequence_length=64)[0]
        asked = {"negative_prompt_embeds": embeds}
    theirs = pipe(
        prompt=task.prompt, num_inference_steps=2, guidance_scale=4.0, width=64, height=64,
        max_sequence_length=64, generator=generator(task), **asked,
    ).images[0]  # fmt: skip
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("kind", ["kontext", "redux", "fill"])
def test_a_true_guidance_works_in_the_kinds_that_take_no_negative_prompt(
    kind: str, data: Path, pictures: Mapping[str, InputImage]
) -> None:
    """Red without the embeddings of an empty one: FLUX.2's pipeline asks the encoder it lacks."""
    library = Undistilled(data)
    spec = {"kind": kind, "model": "klein", "prompt": "a red circle", "seed": 7, "steps": 2}
    inputs = {name: (pictures[name],) for name in ("image", "mask")[: 1 + (kind == "fill")]}
    executor = GpuThread(data, library=library, device="cpu")
    try:
        made = [
            made_by(executor, realise({**spec, "guidance": guidance}, job="job", index=1,
                                      inputs=inputs, models=library.models))[1].image.tobytes()
            for guidance in (1.0, 4.0)
        ]  # fmt: skip
    finally:
        executor.close()
    assert made[0] != made[1]


def test_a_negative_prompt_is_encoded_once_and_kept(executor: GpuThread, task_of: TaskOf) -> None:
    first = task_of("text2img", negative_prompt="a purple star")
    assert Phase.ENCODING in made_by(executor, first)[0]
    again = task_of("text2img", prompt="a purple star", negative_prompt="a red circle", seed=8)
    assert Phase.ENCODING not in made_by(executor, again)[0], "both texts were encoded before"


def test_a_negative_prompt_that_is_too_long_is_named_as_such(
    executor: GpuThread, task_of: TaskOf
) -> None:
    task = task_of("text2img", negative_prompt="a red circle " * 30)
    (warning,) = made_by(executor, task)[1].warnings
    assert warning.startswith("the negative prompt has 91 tokens and the model reads 64")


def test_images_with_a_negative_prompt_are_made_at_once_only_with_their_like(
    task_of: TaskOf,
) -> None:
    one, other = (task_of("text2img", negative_prompt="a star", seed=seed) for seed in (1, 2))
    assert one.is_like(other)
    assert not one.is_like(task_of("text2img", seed=1))
    assert not one.is_like(task_of("text2img", negative_prompt="a star", true_cfg=3, seed=1))
