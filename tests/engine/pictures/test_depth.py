"""Depth maps are made on this machine, near is bright, and the size is the picture's."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from runner.engine.entries import DEPTH_ANYTHING
from runner.engine.gpu_thread import GpuThread
from runner.engine.hub import library as hub
from runner.engine.hub.sources import loaded
from runner.engine.pictures import depth
from runner.engine.pictures.depth import depth_map
from runner.engine.weights import fingerprint
from runner.errors import ModelMissing, OutOfMemory
from runner.executor import Rendered
from runner.task import ImageTask, InputImage
from tests.fakes import TwinLibrary, life
from tests.twins import depth as twin

CPU = "cpu"


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twin.folder(tmp_path_factory.mktemp("estimator"))


def picture(width: int = 80, height: int = 48) -> Any:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def test_a_map_has_the_pictures_size_and_uses_the_whole_range(estimator: Path) -> None:
    for size in ((80, 48), (64, 64), (32, 90)):
        made = depth.of(picture(*size), estimator, CPU)
        assert (made.size, made.mode) == (size, "RGB")
        red, green, blue = made.split()
        assert red.getextrema() == (0, 255)
        assert red.tobytes() == green.tobytes() == blue.tobytes()


def test_the_same_picture_gives_the_same_map_after_a_release_too(estimator: Path) -> None:
    first = depth.of(picture(), estimator, CPU).tobytes()
    assert depth.of(picture(), estimator, CPU).tobytes() == first
    assert depth.of(picture().rotate(180), estimator, CPU).tobytes() != first
    depth.release()
    assert depth._estimator.cache_info().currsize == 0
    assert depth.of(picture(), estimator, CPU).tobytes() == first


def test_any_picture_is_read_as_colours(estimator: Path) -> None:
    grey = picture().convert("L")
    see_through = picture().convert("RGBA")
    usual = depth.of(picture(), estimator, CPU).tobytes()
    assert depth.of(grey, estimator, CPU).tobytes() == usual
    assert depth.of(see_through, estimator, CPU).tobytes() == usual


class Fixed:
    """An estimator that answers with these numbers, and remembers where it was."""

    def __init__(self, rows: list[list[float]]) -> None:
        self.rows = rows
        self.places: list[str] = []

    def to(self, place: str) -> Fixed:
        self.places.append(place)
        return self

    def __call__(self, pixels: Any) -> SimpleNamespace:
        import torch

        return SimpleNamespace(predicted_depth=torch.tensor([self.rows]))


def prepared(images: Any, return_tensors: str) -> dict[str, Any]:
    import torch

    return {"pixel_values": torch.zeros(1, 3, 4, 4)}


def test_near_is_bright(estimator: Path) -> None:
    """Estimators answer with inverse depth: what is near has the larger number."""
    left_is_near = Fixed([[9.0, 5.0, 1.0]] * 3)
    made = depth_map(picture(3, 3), prepared, left_is_near, CPU)
    assert [made.getpixel((x, 1))[0] for x in range(3)] == [255, 128, 0]


def test_a_flat_wall_is_black_and_not_nothing() -> None:
    made = depth_map(picture(3, 3), prepared, Fixed([[2.0] * 3] * 3), CPU)
    assert made.getextrema() == ((0, 0),) * 3


def test_the_estimator_is_on_the_device_for_its_pass_only() -> None:
    fixed = Fixed([[1.0, 2.0]])
    depth_map(picture(2, 1), prepared, fixed, CPU)
    assert fixed.places == [CPU, "cpu"]

    class Full(Fixed):
        def __call__(self, pixels: Any) -> SimpleNamespace:
            raise RuntimeError("CUDA out of memory")

    full = Full([])
    with pytest.raises(RuntimeError):
        depth_map(picture(2, 1), prepared, full, "meta")
    assert full.places == ["meta", "cpu"]


def test_a_full_device_is_said(estimator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(depth, "depth_map", full)
    with pytest.raises(OutOfMemory):
        depth.of(picture(), estimator, CPU)


def test_an_estimator_is_found_where_it_was_pulled_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    library = hub.Disk(tmp_path)
    with pytest.raises(ModelMissing, match="run `fluxdrop models pull depth-anything`"):
        library.estimator(DEPTH_ANYTHING)
    base = hub.repo_folder(DEPTH_ANYTHING.repo, tmp_path)
    (base / "refs").mkdir(parents=True)
    (base / "refs/main").write_text("c0ffee", encoding="utf-8")
    whole = twin.folder(base / "snapshots/c0ffee")
    assert library.estimator(DEPTH_ANYTHING) == whole
    assert depth.of(picture(), whole, CPU).size == (80, 48)


def test_a_job_follows_the_depth_of_a_picture_as_it_follows_a_ready_map(
    data: Path,
    estimator: Path,
    task_of: Callable[..., ImageTask],
    executor_of: Callable[..., GpuThread],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fingerprint, "_REMEMBERED_FROM", 1)
    executor = executor_of()
    facts: list[Any] = []

    def painted(task: ImageTask) -> bytes:
        executor.start("gpu0", [task])
        answer = life(executor)[-1]
        assert isinstance(answer, Rendered), answer
        facts.append(answer.facts.get("estimator"))
        return answer.image.tobytes()

    ready = task_of("control", model="depth")
    source = replace(ready, options={"control": "depth"})
    from_picture = painted(source)
    with Image.open(source.inputs["image"][0].path) as opened:
        depth.of(opened, estimator, CPU).save(tmp_path / "map.png")
    made = {"image": (InputImage(tmp_path / "map.png"),)}
    assert painted(replace(ready, inputs=made)) == from_picture
    assert painted(ready) != from_picture
    assert facts[1:] == [None, None], "none was used"
    assert (facts[0]["name"], facts[0]["repo"]) == ("depth-anything", DEPTH_ANYTHING.repo)
    known = fingerprint.Hashes(data / "cache" / "hashes.json", reads=False)
    used = TwinLibrary(data).estimator(DEPTH_ANYTHING)
    assert known.of(loaded(used)) == facts[0]["hash"], "who looks for its pictures reads nothing"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_damaged_estimator_says_how_to_mend_it(name: str, tmp_path: Path) -> None:
    folder = twin.folder(tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(ModelMissing, match="fluxdrop models pull depth-anything"):
        depth.of(picture(), folder, CPU)


def test_the_network_is_never_asked(estimator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **settings: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    depth.of(picture(), estimator, CPU)
