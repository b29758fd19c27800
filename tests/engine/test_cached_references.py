"""The pipeline that computes its references once, and keeps them from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import KINDS, problems
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.executor import Rendered
from runner.task import ImageTask, InputImage
from tests.engine.painting import painted, pipe_of
from tests.fakes import TwinLibrary, life

TaskOf = Callable[..., ImageTask]
NAME = "klein-9b-kv"


def read(model: str) -> list[int]:
    """How many tokens of pictures the transformer is given in each of four steps of an edit."""
    serving = (MODEL_REGISTRY[model], "kontext")
    pipe = pipe_of(serving[0].serves["kontext"].pipeline)
    seen: list[int] = []

    def note(module: Any, given: Any, named: dict[str, Any]) -> None:
        seen.append(named["hidden_states"].shape[1])

    pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    painted(pipe, steps=4, serving=serving)
    return seen


def test_only_the_first_step_reads_the_references() -> None:
    assert read("klein") == [32, 32, 32, 32], "16 tokens each of picture and reference"
    assert read(NAME) == [32, 16, 16, 16]


def test_it_has_no_guidance_to_be_set_and_none_is_given_to_it(task_of: TaskOf) -> None:
    task = task_of("kontext", NAME)
    assert task.guidance == 0
    serving = MODEL_REGISTRY[NAME].serves["kontext"]
    prepared = KINDS["kontext"].prepare(task, MODEL_REGISTRY[NAME].sizes_for("kontext"))
    assert "guidance_scale" not in KINDS["kontext"].build("flux2", serving)(task, prepared)
    ((path, told),) = problems(
        {"kind": "kontext", "model": NAME, "prompt": "a", "image": "a.png", "guidance": 2}
    )
    assert path == "guidance" and "has no guidance" in told


@pytest.mark.parametrize("first", ["klein", NAME])
def test_its_transformer_is_changed_and_belongs_to_no_other_pipeline(
    first: str, data: Path, task_of: TaskOf
) -> None:
    """Here both have equal files. Seen red: klein's lost the attention kernel of the settings."""
    pipelines = PipelineCache(TwinLibrary(data), device="cpu")
    made = {}
    for name in (first, *{"klein", NAME} - {first}):
        resolved = pipelines.resolve(task_of("kontext", name))
        made[name] = pipelines.paint(resolved, lambda *_: None).main
    assert made["klein"].vae is made[NAME].vae
    assert made["klein"].transformer is not made[NAME].transformer
    block = made["klein"].transformer.transformer_blocks[0]
    assert type(block.attn.processor).__name__ == "Flux2AttnProcessor"


def test_an_edit_of_several_pictures_is_made_with_them_all(
    data: Path, task_of: TaskOf, pictures: Mapping[str, InputImage], tmp_path: Path
) -> None:
    from PIL import Image

    others = []
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
        others.append(InputImage(tmp_path / f"{colour}.png"))
    executor = GpuThread(data, library=TwinLibrary(data), device="cpu")

    def made(*images: InputImage) -> bytes:
        task = replace(task_of("kontext", NAME), inputs={"image": images})
        executor.start("gpu0", [task])
        answer: Any = life(executor)[-1]
        assert isinstance(answer, Rendered), answer
        return answer.image.tobytes()

    try:
        source = pictures["image"]
        assert len({made(source), made(source, others[0]), made(source, others[1])}) == 3
        assert made(source, *others) == made(source, *others)
    finally:
        executor.close()
