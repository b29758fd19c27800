"""What the engine's tests share: one data folder with the twin, pictures, and an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import KINDS, realise
from runner.job import ImageTask, InputImage
from tests.fakes import TwinLibrary


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, InputImage]:
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    coarse = np.random.default_rng(7).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.NEAREST).save(folder / "image.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    mask.save(folder / "mask.png")
    return {name: InputImage(folder / f"{name}.png") for name in ("image", "mask")}


@pytest.fixture(scope="session")
def task_of(pictures: Mapping[str, InputImage]) -> Callable[..., ImageTask]:
    """A small task of a kind, with pictures for the fields that the kind reads."""

    def make(kind: str, model: str = "tiny", **fields: Any) -> ImageTask:
        inputs: dict[str, Sequence[InputImage]] = {
            name: (pictures[name],) for name in KINDS[kind].reads
        }
        inputs.update(fields.pop("inputs", {}))
        fields = {"prompt": "a red circle", "seed": 7, "steps": 3, **fields}
        if model == "depth":
            fields = {"control": "depth", "preprocessed": True, **fields}
        if kind == "text2img":
            fields = {"width": 64, "height": 64, **fields}
        spec = {"kind": kind, "model": model, **fields}
        return realise(spec, job="job", index=1, inputs=inputs)

    return make


@pytest.fixture
def executor_of(data: Path) -> Iterator[Callable[..., GpuThread]]:
    """Makes executors over the random twin and closes them."""
    made: list[GpuThread] = []

    def make(**settings: Any) -> GpuThread:
        settings.setdefault("library", TwinLibrary(data))
        made.append(GpuThread(data, device="cpu", **settings))
        return made[-1]

    yield make
    for executor in made:
        executor.close()
