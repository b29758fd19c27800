"""While weights load, it is told how much of them is read: by each way in which they are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.engine.gpu_thread import GpuThread
from runner.engine.memory import devices
from runner.engine.weights import checkpoints, loading
from runner.engine.weights.fingerprint import Hashes
from runner.executor import Progressed
from runner.job import Phase
from runner.task import ImageTask
from tests.fakes import TwinLibrary, life

Told = list[tuple[int, int]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(loading, "_APART_SECONDS", 0.0)
    return []


def _is_whole(told: Told) -> bool:
    """Whether it counts from none to all."""
    total = told[-1][1]
    return told == [(number, total) for number in range(total + 1)] and total > 1


def test_a_first_picture_tells_tensors_and_files_as_they_are_read(
    told: Told, data: Path, executor_of: Callable[..., GpuThread], task_of: Callable[..., ImageTask]
) -> None:
    executor = executor_of(library=TwinLibrary(data))
    executor.start("gpu0", [task_of("text2img", "klein")])
    for event in life(executor):
        if isinstance(event, Progressed) and event.phase is Phase.LOADING:
            told.append((event.step, event.steps))
    assert told[0][0] == 0, "at once, before anything is read"
    assert all(step <= steps for step, steps in told)
    assert any(step == steps > 10 for step, steps in told), "transformers' tensors"


def test_shards_tensors_of_one_file_and_files_to_hash_are_each_counted_to_the_last(
    told: Told, data: Path, tmp_path: Path
) -> None:
    import torch

    def tell(step: int, steps: int) -> None:
        told.append((step, steps))

    library = TwinLibrary(data)
    source = library.main(library.models["klein"], "text2img") / "transformer"
    cls = devices.frameworks().Flux2Transformer2DModel
    model = checkpoints.from_folder(cls, source, dtype=torch.float32)
    model.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    with loading.telling(tell):
        checkpoints.from_folder(cls, tmp_path / "shards", dtype=torch.float32)
    assert _is_whole(told), told
    told.clear()
    with loading.telling(tell):
        single = next(source.glob("*.safetensors"))
        checkpoints.from_single(cls, source, single, torch.float32)
    assert _is_whole(told), told
    told.clear()
    large = tmp_path / "large"
    shutil.copytree(source.parent, large)
    for number in range(3):
        (large / "transformer" / f"more-{number}.safetensors").write_bytes(bytes(2**20))
    with loading.telling(tell):
        Hashes(tmp_path / "hashes.json")._hashes(
            sorted((large / "transformer").glob("more-*.safetensors"))
        )
    assert _is_whole(told), told


def test_nobody_is_told_of_what_is_read_for_no_one_and_seldom_of_what_is_read_fast() -> None:
    told: Told = []
    assert list(loading.counted("abc", 3)) == ["a", "b", "c"]
    with loading.telling(lambda step, steps: told.append((step, steps))):
        assert list(loading.counted("abc", 3)) == ["a", "b", "c"]
    assert told == [(0, 3)]


def test_a_bar_without_items_is_made_as_it_is() -> None:
    """diffusers' own, where HF_ENABLE_PARALLEL_LOADING is set. Seen red: IndexError."""
    named = {"total": 3, "desc": "Loading checkpoint shards"}
    made = loading.bar(lambda *given, **each: (given, each), (), named)
    assert made == ((), named)
