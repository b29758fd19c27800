"""`upscale` as a stage of an image: every kind, stopped between tiles, refused before any load."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from runner.engine.entries import MODEL_REGISTRY, TINY_UPSCALER, UPSCALERS
from runner.engine.gpu_thread import GpuThread
from runner.engine.hub import library as hub
from runner.engine.pictures import upscaling
from runner.engine.registry import KINDS
from runner.executor import Failed, Progressed, Rendered, StoppedEarly
from runner.job import Phase
from runner.task import ImageTask, InputImage
from tests.engine.test_batching import answers
from tests.fakes import Watched, life

TaskOf = Callable[..., ImageTask]
FILE = Path(TINY_UPSCALER.repo) / TINY_UPSCALER.file
HASH = hashlib.sha256(FILE.read_bytes()).hexdigest()


@pytest.fixture
def executor(data: Path) -> Iterator[GpuThread]:
    """An executor with the built-in model itself."""
    made = GpuThread(data, device="cpu")
    yield made
    made.close()


def outcome(executor: GpuThread, task: ImageTask) -> Any:
    executor.start("gpu0", [task])
    return life(executor)[-1]


def made(executor: GpuThread, task: ImageTask) -> Rendered:
    answer = outcome(executor, task)
    assert isinstance(answer, Rendered), answer
    return answer


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_enlarged_and_the_small_picture_is_what_it_was(
    kind: str, times: int, executor: GpuThread, task_of: TaskOf
) -> None:
    plain = made(executor, task_of(kind))
    assert "upscaler" not in plain.facts and plain.original is None
    executor.start("gpu0", [task_of(kind, upscale=times, keep_original=True)])
    *progress, answer = life(executor)
    assert isinstance(answer, Rendered), answer
    assert answer.image.size == (64 * times, 64 * times)
    assert answer.original is not None
    assert answer.original.tobytes() == plain.image.tobytes()
    net = upscaling.of(TINY_UPSCALER, FILE)
    wanted = upscaling.upscaled(plain.image, net, times, "cpu", lambda *_: None)
    assert answer.image.tobytes() == wanted.tobytes()
    assert answer.facts["upscaler"] == {
        "name": "tiny-upscaler", "file": TINY_UPSCALER.file, "sha256": HASH
    }  # fmt: skip
    tiles = [
        (event.step, event.steps)
        for event in progress
        if isinstance(event, Progressed) and event.phase is Phase.UPSCALING
    ]
    assert tiles == ([(0, 1)] if times == 2 else [(0, 2), (1, 2)])
    same = {name: part for name, part in answer.facts.items() if name != "upscaler"}
    assert same == plain.facts


def test_a_picture_is_pasted_into_its_photo_before_it_is_enlarged(
    executor: GpuThread, task_of: TaskOf, tmp_path: Path
) -> None:
    Image.linear_gradient("L").resize((133, 90)).convert("RGB").save(tmp_path / "photo.png")
    mask = Image.new("L", (133, 90))
    mask.paste(255, (50, 30, 80, 60))
    mask.save(tmp_path / "mask.png")
    inputs = {name: [InputImage(tmp_path / f"{name}.png")] for name in ("photo", "mask")}
    inputs["image"] = inputs.pop("photo")
    answer = made(executor, task_of("fill", inputs=inputs, upscale=2, keep_original=True))
    assert answer.original is not None
    assert (answer.original.size, answer.image.size) == ((133, 90), (266, 180))
    assert answer.original.getpixel((2, 2)) == Image.open(tmp_path / "photo.png").getpixel((2, 2))


def test_a_photo_that_would_be_too_large_is_refused_before_anything_is_loaded(
    executor: GpuThread, task_of: TaskOf, tmp_path: Path
) -> None:
    """Seen red: without the look at the finished size. Of one that fits the other value is told."""
    Image.new("RGB", (2000, 90), "red").save(tmp_path / "image.png")
    Image.new("L", (2000, 90), 255).save(tmp_path / "mask.png")
    inputs = {name: [InputImage(tmp_path / f"{name}.png")] for name in ("image", "mask")}
    executor.start("gpu0", [task_of("fill", inputs=inputs, upscale=4)])
    *progress, answer = life(executor)
    assert isinstance(answer, Failed) and answer.reason == "InputBad"
    assert answer.message.endswith("a side has at most 4096 pixels: `upscale: 2` fits")
    phases = {event.phase for event in progress if isinstance(event, Progressed)}
    assert phases == {Phase.PREPROCESSING}


def test_a_photo_of_more_than_4096_pixels_is_filled_where_nothing_enlarges_it(
    executor: GpuThread, task_of: TaskOf, tmp_path: Path
) -> None:
    """Seen red: the bound of enlarged pictures was that of all."""
    Image.new("RGB", (5000, 90), "red").save(tmp_path / "image.png")
    Image.new("L", (5000, 90), 255).save(tmp_path / "mask.png")
    inputs = {name: [InputImage(tmp_path / f"{name}.png")] for name in ("image", "mask")}
    assert made(executor, task_of("fill", inputs=inputs)).image.size == (5000, 90)


def stopping(executor: GpuThread, at: int) -> None:
    """Have the executor stopped when it reports this tile."""

    def see(event: Any) -> None:
        if isinstance(event, Progressed) and (event.phase, event.step) == (Phase.UPSCALING, at):
            executor.stop("gpu0")

    executor.events = Watched(see)  # type: ignore[assignment]


def test_a_stop_between_tiles_leaves_no_picture_and_the_next_is_as_without_it(
    executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: without the look at the stop sign before a tile, the picture came."""
    task = task_of("text2img", upscale=4)
    before = made(executor, task)
    assert before.original is None, "it was not asked for"
    monkeypatch.setattr(upscaling, "TILE", 32)
    monkeypatch.setattr(upscaling.tiled, "__defaults__", (32,))
    tiled_alike = made(executor, task)
    assert tiled_alike.image.tobytes() == before.image.tobytes()
    stopping(executor, 5)
    executor.start("gpu0", [task])
    *progress, answer = life(executor)
    assert isinstance(answer, StoppedEarly)
    last = progress[-1]
    assert isinstance(last, Progressed)
    assert (last.phase, last.step, last.steps) == (Phase.UPSCALING, 5, 4 + 16)
    executor.events = Watched(lambda event: None)  # type: ignore[assignment]
    assert made(executor, task).image.tobytes() == before.image.tobytes()


def test_a_timeout_counts_tiles_too(
    executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of("text2img", upscale=2, timeout=1000.0)
    began: list[float] = []

    def late(*given: Any) -> Any:
        began.append(0)
        raise AssertionError("no tile may be made")

    monkeypatch.setattr(upscaling.Net, "__call__", late)
    told: list[Phase] = []

    def see(event: Any) -> None:
        if isinstance(event, Progressed) and event.phase is Phase.DECODING:
            told.append(event.phase)
            sign = executor._in_flight[0][1]
            sign._until = -1.0

    executor.events = Watched(see)  # type: ignore[assignment]
    answer = outcome(executor, task)
    assert isinstance(answer, Failed) and answer.reason == "Timeout" and told and not began


def test_images_that_are_made_at_once_are_enlarged_as_if_alone(
    executor: GpuThread, task_of: TaskOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.engine import batching

    monkeypatch.setattr(batching, "_TRIAL_STEP_SECONDS", 1000.0)
    monkeypatch.setattr(batching, "_passes", lambda *given: True)
    tasks = [task_of("text2img", seed=seed, upscale=2, keep_original=True) for seed in range(7)]
    for task in tasks[4:]:
        made(executor, task)
    together = answers(executor, tasks[:4])
    net = upscaling.of(TINY_UPSCALER, FILE)
    for answer in together:
        wanted = upscaling.upscaled(answer.original, net, 2, "cpu", lambda *_: None)
        assert answer.image.tobytes() == wanted.tobytes()
    assert len({answer.image.tobytes() for answer in together}) == 4


def test_an_upscaler_that_is_not_here_fails_with_the_command_before_anything_is_loaded(
    executor_of: Callable[..., GpuThread], task_of: TaskOf, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    executor = executor_of()
    disk = hub.Disk(tmp_path)
    monkeypatch.setattr(executor._pipelines.library, "upscaler", disk.upscaler)
    executor.start("gpu0", [task_of("text2img", model="klein", upscale=2)])
    *progress, answer = life(executor)
    assert isinstance(answer, Failed) and answer.reason == "ModelMissing"
    assert "run `fluxdrop models pull realesr-general`" in answer.message
    assert "run `fluxdrop models pull klein`" in answer.message, "both are told at once"
    assert progress == []


def placed(tmp_path: Path, upscaler: Any, net: Any) -> Path:
    """The hub's cache with a file of an upscaler."""
    base = hub.repo_folder(upscaler.repo, tmp_path)
    (base / "refs").mkdir(parents=True)
    (base / "refs/main").write_text("c0ffee", encoding="utf-8")
    (base / "snapshots/c0ffee").mkdir(parents=True)
    file = base / "snapshots/c0ffee" / upscaler.file
    torch.save({f"body.{key}": part for key, part in net.body.state_dict().items()}, file)
    return file


@pytest.mark.parametrize("published", [True, False])
def test_a_pulled_file_must_be_the_published_one_where_its_hash_is_known(
    published: bool,
    executor_of: Callable[..., GpuThread],
    task_of: TaskOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    general = UPSCALERS["realesr-general"]
    file = placed(tmp_path, general, upscaling.build(8, 3, 4))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if published:
        general = replace(general, sha256=digest)
    executor = executor_of()
    disk = hub.Disk(tmp_path, MODEL_REGISTRY, general)
    monkeypatch.setattr(executor._pipelines.library, "upscaler", disk.upscaler)
    answer = outcome(executor, task_of("text2img", model="klein", upscale=2))
    if published:
        assert isinstance(answer, Rendered) and answer.image.size == (128, 128)
        assert answer.facts["upscaler"] == {
            "name": general.name, "repo": general.repo, "file": general.file, "sha256": digest
        }  # fmt: skip
    else:
        assert (
            isinstance(answer, Failed)
            and "another realesr-general-x4v3.pth than its makers published" in answer.message
        )
