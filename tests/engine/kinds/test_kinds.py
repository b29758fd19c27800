"""Kinds answer with keyword arguments: plain values, checked without any pipeline."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.kinds.base import Prepared
from runner.engine.models import Model, Sizes
from runner.engine.registry import KINDS, problems, realise
from runner.errors import InputBad
from runner.task import ImageTask, InputImage
from specs import schemas
from specs.document import Document
from specs.errors import SpecInvalid
from specs.validate import validate

TaskOf = Callable[..., ImageTask]


def prepared(task: ImageTask, sizes: Sizes | None = None) -> Prepared:
    return KINDS[task.kind].prepare(task, sizes or MODEL_REGISTRY[task.model].sizes_for(task.kind))


SERVED = [
    pytest.param(model.name, kind, id=f"{model.name}-{kind}")
    for model in MODEL_REGISTRY.values()
    for kind in model.serves
]


@pytest.mark.parametrize(("model", "kind"), SERVED)
def test_every_entry_gives_size_steps_and_guidance_and_nothing_its_pipeline_does_not_take(
    model: str, kind: str, task_of: TaskOf
) -> None:
    import diffusers

    entry = MODEL_REGISTRY[model]
    serving = entry.serves[kind]
    task = task_of(kind, model=model, guidance=4.5)
    ready = prepared(task)
    if ready.depth_of is not None:
        ready = ready.with_depth(ready.depth_of)
    arguments = KINDS[kind].arguments[entry.family](task, ready)
    assert (arguments["width"], arguments["height"]) == (64, 64)
    assert (arguments["num_inference_steps"], arguments["guidance_scale"]) == (3, 4.5)
    taken = inspect.signature(getattr(diffusers, serving.pipeline).__call__).parameters
    assert {*arguments, *serving.fixed} <= set(taken)
    assert not set(arguments) & set(serving.fixed)


def _pictured(kind: str) -> tuple[str, ...]:
    return (*KINDS[kind].reads, *KINDS[kind].may_read)


@cache
def own_fields(kind: str) -> dict[str, tuple[Any, ...]]:
    """The fields of a kind that not every kind has, each with values that its schema shows."""
    shared = set.intersection(*(set(schemas.load(name)["properties"]) for name in KINDS))
    fields: dict[str, tuple[Any, ...]] = {}
    for name, part in schemas.bundle(kind)["properties"].items():
        if name in _pictured(kind):
            fields[name] = (f"{name}.png",)
        elif name not in shared:
            shown = (True, False) if part.get("type") == "boolean" else part.get("enum")
            fields[name] = tuple(shown or part["examples"])
    return fields


@pytest.fixture(scope="module")
def accepted(pictures: dict[str, InputImage]) -> Callable[[str], list[tuple[Any, ...]]]:
    """Every combination of a kind's fields that is accepted: model, spec, prepared, arguments."""

    @cache
    def of(kind: str) -> list[tuple[Any, ...]]:
        found = []
        fields = own_fields(kind)
        for values in product(*((None, *values) for values in fields.values())):
            spec = {"kind": kind, "prompt": "a red circle", "seed": 7}
            given = zip(fields, values, strict=True)
            spec |= {name: value for name, value in given if value is not None}
            with suppress(SpecInvalid):
                validate(Document(spec))
                found += [
                    made(model, spec) for model in MODEL_REGISTRY.values() if can(model, spec)
                ]
        return found

    def can(model: Model, spec: dict[str, Any]) -> bool:
        return not problems({**spec, "model": model.name})

    def made(model: Model, spec: dict[str, Any]) -> tuple[Any, ...]:
        kind = KINDS[spec["kind"]]
        inputs = {name: (pictures[name],) for name in _pictured(kind.name) if name in spec}
        task = realise({**spec, "model": model.name}, job="job", index=1, inputs=inputs)
        ready = prepared(task)
        if ready.depth_of is not None:
            ready = ready.with_depth(ready.depth_of)
        return model, spec, ready, kind.arguments[model.family](task, ready)

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_refused_is_prepared_and_called_for(
    kind: str, accepted: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    """A combination that breaks here needs a rule between fields, or is what a model cannot do."""
    import diffusers

    assert accepted(kind)
    for model, spec, _, arguments in accepted(kind):
        serving = model.serves[kind].starting_from(spec)
        pipeline = getattr(diffusers, serving.pipeline)
        assert set(arguments) <= set(inspect.signature(pipeline.__call__).parameters), spec


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_of_a_kind_is_ignored(
    kind: str, accepted: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    """Where all values of a field make the same calls of the same pictures, nothing reads it."""
    for field in own_fields(kind).keys() - {*_pictured(kind)}:
        calls: dict[str, set[bytes]] = {}
        for model, spec, ready, arguments in accepted(kind):
            call = pickle.dumps((model.name, ready, dict(arguments)))
            calls.setdefault(repr(spec.get(field)), set()).add(call)
        assert len({frozenset(each) for each in calls.values()}) > 1, field


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


def test_control_leaves_a_depth_map_to_the_engine_and_takes_it_as_the_control_image(
    task_of: TaskOf,
) -> None:
    task = task_of("control", model="depth", preprocessed=False)
    ready = prepared(task)
    assert ready.depth_of is not None and ready.depth_of.size == (64, 64)
    assert ready.images == {}
    depth_map = Image.new("RGB", (64, 64), "grey")
    whole = ready.with_depth(depth_map)
    assert whole.depth_of is None
    assert KINDS["control"].arguments["flux1"](task, whole)["control_image"] is depth_map
    assert prepared(task_of("control", model="depth")).depth_of is None


def pictures_of(folder: Path, *sizes: tuple[int, int]) -> tuple[InputImage, ...]:
    """Pictures of these sizes, each one with another noise."""
    made = []
    for number, (wide, high) in enumerate(sizes):
        noise = np.random.default_rng(number).integers(0, 256, (high, wide, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        made.append(InputImage(folder / f"{number}.png"))
    return tuple(made)


def test_klein_sees_the_picture_to_the_pixel_as_large_as_its_edit(
    task_of: TaskOf, tmp_path: Path
) -> None:
    given = pictures_of(tmp_path, (300, 200), (80, 90))
    task = task_of("kontext", model="klein", inputs={"image": given})
    arguments = KINDS["kontext"].arguments["flux2"](task, prepared(task))
    assert (arguments["width"], arguments["height"]) == (288, 192)
    first, second = arguments["image"]
    assert (first.size, second.size) == ((288, 192), (80, 90))
    original = np.asarray(Image.open(given[0].path))
    assert np.array_equal(np.asarray(first), original[4:196, 6:294])


def test_klein_sees_the_whole_picture_where_a_size_of_its_own_is_asked_for(
    task_of: TaskOf, tmp_path: Path
) -> None:
    given = pictures_of(tmp_path, (300, 200))
    task = task_of("kontext", model="klein", inputs={"image": given}, width=128, height=256)
    arguments = KINDS["kontext"].arguments["flux2"](task, prepared(task))
    assert (arguments["width"], arguments["height"]) == (128, 256)
    assert [each.size for each in arguments["image"]] == [(300, 200)]


@pytest.mark.parametrize("kind", ["kontext", "redux"])
@pytest.mark.parametrize(
    ("size", "reason"),
    [((400, 48), "no picture with a side below 64"), ((600, 64), "more than 8 times as long")],
)
def test_pictures_that_kleins_pipeline_would_refuse_are_refused_before_it_is_loaded(
    kind: str, size: tuple[int, int], reason: str, task_of: TaskOf, tmp_path: Path
) -> None:
    given = pictures_of(tmp_path, (64, 64), size)
    task = task_of(kind, model="klein", inputs={"image": given})
    with pytest.raises(InputBad, match=f"{reason}.*1.png is {size[0]}×{size[1]}"):
        prepared(task)


@pytest.mark.parametrize(("model", "cell"), [("klein", 16), ("z-image-turbo", 8)])
def test_a_line_thinner_than_a_cell_of_the_latents_is_painted_and_the_rest_comes_back(
    model: str, cell: int, task_of: TaskOf, tmp_path: Path
) -> None:
    (picture,) = pictures_of(tmp_path, (96, 64))
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (33, 2, 34, 40))
    mask.save(tmp_path / "mask.png")
    inputs = {"image": (picture,), "mask": (InputImage(tmp_path / "mask.png"),)}
    task = task_of("fill", model=model, inputs=inputs)
    ready = prepared(task)
    arguments = KINDS["fill"].arguments[MODEL_REGISTRY[model].family](task, ready)
    cells = np.asarray(arguments["mask_image"])[cell // 2 :: cell, cell // 2 :: cell]
    assert np.argwhere(cells).tolist() == [[y, 32 // cell] for y in range(-(-40 // cell))]
    assert ready.paste is not None
    shown = np.asarray(ready.paste.share)
    assert shown[:, :33].max() == shown[:, 34:].max() == 0 < shown[:, 33].max()


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
