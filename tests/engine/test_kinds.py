"""Kinds answer with keyword arguments: plain values, checked without any pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runner.engine.kinds.base import Prepared
from runner.engine.models import MODEL_REGISTRY, Sizes
from runner.engine.registry import KINDS
from runner.errors import InputBad
from runner.job import ImageTask, InputImage

TaskOf = Callable[..., ImageTask]


def prepared(task: ImageTask, sizes: Sizes | None = None) -> Prepared:
    return KINDS[task.kind].prepare(task, sizes or MODEL_REGISTRY[task.model].sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_size_steps_and_guidance(kind: str, task_of: TaskOf) -> None:
    task = task_of(kind, guidance=4.5)
    arguments = KINDS[kind].arguments["flux1"](task, prepared(task))
    assert (arguments["width"], arguments["height"]) == (64, 64)
    assert (arguments["num_inference_steps"], arguments["guidance_scale"]) == (3, 4.5)


def test_text2img_reads_no_picture(task_of: TaskOf) -> None:
    assert prepared(task_of("text2img")).images == {}


def test_kontext_asks_for_exactly_its_area(task_of: TaskOf) -> None:
    task = task_of("kontext")
    arguments = KINDS["kontext"].arguments["flux1"](task, prepared(task))
    assert arguments["max_area"] == 64 * 64
    assert arguments["image"].size == (64, 64)


def test_fill_hands_over_picture_and_mask_and_keeps_the_original(task_of: TaskOf) -> None:
    task = task_of("fill")
    ready = prepared(task)
    arguments = KINDS["fill"].arguments["flux1"](task, ready)
    assert arguments["mask_image"].getbbox() == (16, 16, 48, 48)
    assert ready.paste is not None
    assert ready.paste.original is arguments["image"]
    assert prepared(task_of("fill", composite=False)).paste is None


def test_fill_outpaints_on_a_larger_canvas(task_of: TaskOf) -> None:
    task = task_of("fill", model="fill-dev", outpaint={"left": 32, "top": 16})
    ready = prepared(task)
    assert (ready.width, ready.height) == (96, 80)
    assert np.asarray(ready.images["mask"][0])[40, 8] == 255


def test_fill_on_a_model_of_one_size_sees_canvas_and_mask_together(task_of: TaskOf) -> None:
    margins = dict.fromkeys(("left", "right", "top", "bottom"), 16)
    ready = prepared(task_of("fill", outpaint=margins))
    assert (ready.width, ready.height) == (64, 64)
    assert np.asarray(ready.images["mask"][0])[32, 32] == 0
    assert np.asarray(ready.images["mask"][0])[2, 2] == 255


def test_control_draws_the_edges_unless_the_map_is_ready(task_of: TaskOf) -> None:
    made = prepared(task_of("control")).images["image"][0]
    assert set(np.unique(np.asarray(made))) == {0, 255}
    given = prepared(task_of("control", preprocessed=True)).images["image"][0]
    assert len(np.unique(np.asarray(given))) > 2


def test_control_cannot_make_depth_yet_and_says_so(task_of: TaskOf) -> None:
    task = replace(task_of("control"), options={"control": "depth"})
    with pytest.raises(InputBad, match="preprocessed: true"):
        prepared(task)


def test_redux_weighs_one_picture_as_given_and_several_by_share(
    task_of: TaskOf, pictures: dict[str, InputImage]
) -> None:
    path = pictures["image"].path
    prior = KINDS["redux"].prior["flux1"]
    one = task_of("redux", inputs={"image": (InputImage(path, 0.7),)})
    assert prior(one, prepared(one))["prompt_embeds_scale"] == [0.7]
    two = task_of("redux", inputs={"image": (InputImage(path, 3.0), InputImage(path, 1.0))})
    arguments = prior(two, prepared(two))
    assert arguments["prompt_embeds_scale"] == [0.75, 0.25]
    assert len(arguments["image"]) == 2


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.reads])
@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16", "CMYK", "LA"])
def test_every_mode_of_picture_reaches_the_pipeline_as_rgb(
    kind: str, mode: str, task_of: TaskOf, tmp_path: Path
) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((80, 90), 40_000, dtype=np.uint16))
    else:
        picture = Image.new("RGB", (90, 80), (200, 100, 50)).convert(mode)
    name = "p.tiff" if mode == "CMYK" else "p.png"
    picture.save(tmp_path / name)
    mask = Image.new("L", (90, 80), 255)
    mask.save(tmp_path / "m.png")
    inputs = {"image": (InputImage(tmp_path / name),)}
    if kind == "fill":
        inputs["mask"] = (InputImage(tmp_path / "m.png"),)
    ready = prepared(task_of(kind, inputs=inputs))
    assert ready.images["image"][0].mode == "RGB"
    assert (ready.width, ready.height) == (64, 64)
