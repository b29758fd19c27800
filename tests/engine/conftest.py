"""What the engine's tests share: a folder with the twin, pictures, an executor, a transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import KINDS, realise
from runner.task import ImageTask, InputImage
from tests.fakes import TwinLibrary
from tests.twins.pieces import seeded


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
        if not KINDS[kind].reads:
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


@pytest.fixture
def cpu() -> Any:
    import torch

    return torch.device("cpu")


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers refuses bitsandbytes where no GPU is, although it computes on a CPU as well."""
    from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer

    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *a, **k: None)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX.1 transformer as it is published: in bf16, with sides that bitsandbytes can pack."""
    import torch
    from diffusers import FluxTransformer2DModel

    def make() -> Any:
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=128,
            pooled_projection_dim=128,
            axes_dims_rope=(8, 12, 12),
            guidance_embeds=True,
        ).to(torch.bfloat16)

    folder = tmp_path_factory.mktemp("published") / "transformer"
    seeded("quantised", make).save_pretrained(folder)
    return folder
