"""Previews: what they look like half-way, how seldom they come, and what they never do."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from runner.engine import gpu
from runner.engine.families.base import decode_grid
from runner.engine.gpu_thread import GpuThread
from runner.engine.pictures import previews
from runner.executor import Progressed, Rendered
from runner.job import Phase
from runner.task import ImageTask
from tests.engine.painting import SERVED
from tests.fakes import TwinLibrary, life

TaskOf = Callable[..., ImageTask]
TRAINED = {"steps": 12, "prompt": "a red circle on a blue background"}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview is due after every step."""
    monkeypatch.setattr(previews, "_SECONDS", 0.0)


@pytest.fixture
def trained(data: Path) -> Iterator[GpuThread]:
    """An executor with the built-in model itself."""
    made = GpuThread(data, device="cpu")
    yield made
    made.close()


def made(executor: GpuThread, task: ImageTask) -> tuple[list[tuple[int, bytes]], Rendered]:
    """The previews of a picture by the steps after which they came, and the picture."""
    executor.start("gpu0", [task])
    *progress, answer = life(executor)
    assert isinstance(answer, Rendered), answer
    events = [event for event in progress if isinstance(event, Progressed) and event.preview]
    assert {event.phase for event in events} <= {Phase.DENOISING}
    return [(event.step, event.preview) for event in events], answer


def served(name: str, task_of: TaskOf, pictures: Any, **fields: Any) -> ImageTask:
    """A task of this pipeline class."""
    model, kind = SERVED[name]
    fields |= {"model": model.name, "steps": 4}
    if name == model.serves[kind].img2img:
        fields |= {"inputs": {"image": (pictures["image"],)}, "strength": 1.0}
    elif kind == "text2img":
        fields["width"] = 96
    if kind == "control":
        fields |= {"control": model.serves[kind].controls[0], "preprocessed": True}
    return task_of(kind, **fields)


def pixels(picture: Image.Image, size: tuple[int, int]) -> Any:
    small = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).float()


def likeness(preview: bytes, picture: Image.Image) -> float:
    """R²: which part of what varies in the picture the preview has."""
    shown = Image.open(io.BytesIO(preview))
    wanted = pixels(picture, shown.size)
    error = (pixels(shown, shown.size) - wanted).square().mean()
    return 1 - float(error / (wanted - wanted.mean()).square().mean())


@pytest.mark.usefixtures("often")
def test_half_way_it_is_like_the_picture_where_the_raw_latents_are_not(
    trained: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R² is 0.97 from the second of 12 steps on; the latents as they are have 0.38 half-way."""
    task = task_of("text2img", preview=True, **TRAINED)
    shown, answer = made(trained, task)
    assert [step for step, _ in shown] == [*range(2, 13)]
    alike = [likeness(preview, answer.image) for _, preview in shown]
    assert min(alike) > 0.95
    raw: list[bytes] = []
    colours = trained._renderer._previews._colours

    def as_they_are(stages: gpu.Stages, resolved: Any, task: ImageTask, prepared: Any) -> Any:
        def after_step(scheduler: Any, latents: Any) -> tuple[bytes, ...]:
            grid = stages.family.grid(stages.main, latents, prepared.width, prepared.height)
            raw.append(previews._picture(grid.float(), colours[resolved.marks["vae"]]))
            return ()

        return replace(stages, preview=after_step)

    monkeypatch.setattr(trained._renderer._previews, "of", as_they_are)
    made(trained, task)
    assert likeness(raw[5], answer.image) < 0.6


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("name", SERVED)
def test_every_pipeline_shows_them_and_its_pictures_stay_the_same(
    name: str, executor_of: Callable[..., GpuThread], task_of: TaskOf, pictures: Any
) -> None:
    executor = executor_of()
    none, plain = made(executor, served(name, task_of, pictures))
    shown, answer = made(executor, served(name, task_of, pictures, preview=True))
    assert none == []
    assert [step for step, _ in shown] == [2, 3, 4]
    size = answer.facts["width"] // 4, answer.facts["height"] // 4
    assert {Image.open(io.BytesIO(each)).size for _, each in shown} == {size}
    assert answer.image.tobytes() == plain.image.tobytes()
    assert answer.facts == plain.facts


@pytest.mark.parametrize("name", SERVED)
def test_the_grid_of_the_last_step_is_what_is_decoded(
    name: str,
    executor_of: Callable[..., GpuThread],
    task_of: TaskOf,
    pictures: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grids, decoded = [], []

    def of(stages: gpu.Stages, resolved: Any, task: ImageTask, prepared: Any) -> gpu.Stages:
        def decode(pipe: Any, latents: Any, *size: int) -> Image.Image:
            decoded.append(stages.family.decode(pipe, latents, *size))
            return decoded[-1]

        def after_step(scheduler: Any, latents: Any) -> tuple[bytes, ...]:
            size = prepared.width, prepared.height
            grids[:] = [(stages.main, stages.family.grid(stages.main, latents, *size))]
            return ()

        family = replace(stages.family, decode=decode)
        return replace(stages, family=family, preview=after_step)

    executor = executor_of()
    monkeypatch.setattr(executor._renderer._previews, "of", of)
    made(executor, served(name, task_of, pictures))
    ((pipe, grid),) = grids
    assert decode_grid(pipe, grid.to(pipe.vae.dtype)).tobytes() == decoded[0].tobytes()


def test_where_none_is_asked_for_no_latents_are(
    trained: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    call = gpu._call

    def watched(pipe: Any, arguments: Any, watch: Any) -> Any:
        asked.append(watch.get("callback_on_step_end_tensor_inputs"))
        return call(pipe, arguments, watch)

    monkeypatch.setattr(gpu, "_call", watched)
    made(trained, task_of("text2img"))
    made(trained, task_of("text2img", preview=True))
    assert asked == [[], ["latents"]]
    assert trained._renderer._previews._colours


def test_one_a_second_is_made_of_all_pictures_together(
    trained: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [100.0]
    monkeypatch.setattr(previews, "time", type("Clock", (), {"monotonic": lambda: moment[0]}))
    task = task_of("text2img", preview=True, steps=6)
    assert [step for step, _ in made(trained, task)[0]] == [2]
    assert made(trained, task)[0] == []
    moment[0] += previews._SECONDS
    assert [step for step, _ in made(trained, task)[0]] == [2]


@pytest.mark.usefixtures("often")
def test_an_error_of_a_preview_costs_no_picture_and_is_logged_once(
    trained: GpuThread,
    task_of: TaskOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = task_of("text2img", preview=True)
    for name in ("_picture", "_colours"):
        with monkeypatch.context() as broken:
            broken.setattr(previews, name, lambda *_: 1 / 0)
            trained._renderer._previews = previews.Previews(trained._pipelines.store)
            caplog.clear()
            with caplog.at_level(logging.ERROR):
                assert made(trained, task)[0] == made(trained, task)[0] == []
        assert len(caplog.records) == 1


def test_colours_are_fitted_once_kept_and_fitted_again_where_they_are_damaged(
    data: Path, tmp_path: Path, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []
    colours = previews._colours

    def counted(pipe: Any, kept: Any) -> Any:
        encode = pipe.vae.encode
        pipe.vae.encode = lambda *given: (fits.append(1), encode(*given))[1]
        try:
            return colours(pipe, kept)
        finally:
            del pipe.vae.encode

    monkeypatch.setattr(previews, "_colours", counted)
    task = task_of("text2img", preview=True)

    def in_a_process_of_its_own() -> int:
        fits.clear()
        executor = GpuThread(tmp_path, library=TwinLibrary(data), device="cpu")
        executor._pipelines.store = tmp_path / "quantised"
        executor._renderer._previews = previews.Previews(executor._pipelines.store)
        for _ in range(2):
            assert made(executor, task)[1]
        executor.close()
        return len(fits)

    assert in_a_process_of_its_own() == 2 * len(previews._FIELDS)
    assert in_a_process_of_its_own() == 0
    (file,) = tmp_path.glob(f"quantised/*-colours/{previews._FILE}")
    file.write_bytes(b"other")
    assert in_a_process_of_its_own() == 2 * len(previews._FIELDS)
    assert in_a_process_of_its_own() == 0
