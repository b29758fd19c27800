"""Kinds answer with keyword arguments: plain values, checked without any pipeline."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
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
from runner.engine.pictures import images
from runner.engine.registry import KINDS, problems, realise
from runner.engine.weights.assembly import class_of
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
    entry = MODEL_REGISTRY[model]
    serving = entry.serves[kind]
    task = task_of(kind, model=model, guidance=4.5)
    ready = prepared(task)
    if ready.depth_of is not None:
        ready = ready.with_depth(ready.depth_of)
    arguments = KINDS[kind].build(entry.family, serving)(task, ready)
    assert (arguments["width"], arguments["height"]) == (64, 64)
    guidance = None if serving.caches else 4.5
    assert (arguments["num_inference_steps"], arguments.get("guidance_scale")) == (3, guidance)
    taken = inspect.signature(class_of("diffusers", serving.pipeline).__call__).parameters
    assert set(arguments) <= set(taken)


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
        return model, spec, ready, kind.build(model.family, model.serves[kind.name])(task, ready)

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_refused_is_prepared_and_called_for(
    kind: str, accepted: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    """A combination that breaks here needs a rule between fields, or is what a model cannot do."""
    assert accepted(kind)
    for model, spec, _, arguments in accepted(kind):
        serving = model.serves[kind].starting_from(spec)
        pipeline = class_of("diffusers", serving.pipeline)
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


@pytest.mark.parametrize(
    ("size", "asked", "made", "seen"),
    [
        ((64, 64), {}, (64, 64), (64, 64)),
        ((512, 512), {}, (512, 512), (512, 512)),
        ((1024, 1024), {"width": 512, "height": 512}, (512, 512), (512, 512)),
        ((1920, 1080), {}, (1360, 768), (1360, 768)),
        ((1000, 750), {"width": 512}, (512, 384), (512, 384)),
        ((300, 200), {}, (288, 192), (288, 192)),
        # Another shape is seen whole, and neither cut nor squashed, in pixels of the same size.
        ((1600, 800), {"width": 1024, "height": 1024}, (1024, 1024), (1440, 720)),
    ],
)
def test_kontext_sees_its_reference_on_the_grid_of_what_it_makes(
    size: tuple[int, int],
    asked: dict[str, int],
    made: tuple[int, int],
    seen: tuple[int, int],
    task_of: TaskOf,
    tmp_path: Path,
) -> None:
    model = "tiny" if size == (64, 64) else "kontext-dev"
    given = pictures_of(tmp_path, size)
    task = task_of("kontext", model=model, inputs={"image": given}, **asked)
    arguments = KINDS["kontext"].arguments["flux1"](task, prepared(task))
    assert (arguments["width"], arguments["height"]) == made
    assert arguments["max_area"] == made[0] * made[1]
    assert arguments["image"].size == seen
    assert arguments["_auto_resize"] is False


def test_kontext_dev_sees_several_references_side_by_side_in_their_order(
    task_of: TaskOf, tmp_path: Path
) -> None:
    colours = {"red": (800, 600), "lime": (300, 900), "blue": (2000, 1000)}
    for name, size in colours.items():
        Image.new("RGB", size, name).save(tmp_path / f"{name}.png")
    given = tuple(InputImage(tmp_path / f"{name}.png") for name in colours)
    spec = {"kind": "kontext", "model": "kontext-dev", "prompt": "a", "image": ["a.png"] * 4}
    assert problems(spec) == []
    assert "reads at most 4 pictures" in problems({**spec, "image": ["a.png"] * 5})[0][1]
    task = task_of("kontext", model="kontext-dev", inputs={"image": given})
    ready = prepared(task)
    assert (ready.width, ready.height) == (800, 592)
    row = KINDS["kontext"].arguments["flux1"](task, ready)["image"]
    assert row.width % 16 == row.height % 16 == 0
    assert row.width * row.height == pytest.approx(800 * 592, rel=0.05)
    line = np.asarray(row)[row.height // 2]
    starts = [int(np.argmax((line == Image.new("RGB", (1, 1), name).getpixel((0, 0))).all(axis=1)))
              for name in colours]  # fmt: skip
    ends = [*starts[1:], row.width]
    for begin, end, (wide, high) in zip(starts, ends, colours.values(), strict=True):
        assert (end - begin) / row.height == pytest.approx(wide / high, abs=0.05)


def test_a_picture_that_is_much_longer_than_any_that_kontext_learned_is_refused(
    task_of: TaskOf, tmp_path: Path
) -> None:
    given = pictures_of(tmp_path, (3000, 600))
    task = task_of("kontext", model="kontext-dev", inputs={"image": given})
    with pytest.raises(InputBad, match="more than 4 times as long as wide, and 0.png is 3000×600"):
        prepared(task)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_another_recipe_than_when_loras_and_8_bits_were_scaled_otherwise(
    kind: str,
) -> None:
    assert KINDS[kind].recipe > 1


def test_fill_hands_over_picture_and_mask_and_keeps_the_original(task_of: TaskOf) -> None:
    task = task_of("fill")
    ready = prepared(task)
    arguments = KINDS["fill"].arguments["flux1"](task, ready)
    assert arguments["mask_image"].getbbox() == (16, 16, 48, 48)
    assert ready.paste is not None
    assert ready.paste.original.tobytes() == arguments["image"].tobytes()
    assert prepared(task_of("fill", composite=False)).paste is None


def fill_of(folder: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> dict[str, Any]:
    """The inputs of a fill: noise of this size, and the box of it to be painted."""
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.bmp")  # quicker than a PNG
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    mask.save(folder / "mask.bmp")
    return {name: (InputImage(folder / f"{file}.bmp"),)
            for name, file in (("image", "photo"), ("mask", "mask"))}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "size"),
    [("fill-dev", (4032, 3024)), ("fill-dev", (1000, 1000)), ("klein", (1333, 777)),
     ("tiny", (333, 777))],
)  # fmt: skip
def test_fill_gives_the_photo_back_in_its_own_size_with_every_pixel_outside_the_mask(
    size: tuple[int, int], model: str, task_of: TaskOf, tmp_path: Path
) -> None:
    box = (size[0] // 2, size[1] // 3, size[0] // 2 + 90, size[1] // 3 + 120)
    inputs = fill_of(tmp_path, size, box)
    ready = prepared(task_of("fill", model=model, inputs=inputs))
    assert MODEL_REGISTRY[model].sizes_for("fill").problem(ready.width, ready.height) is None
    assert ready.width * ready.height <= 1_048_576
    assert {each[0].size for each in ready.images.values()} == {(ready.width, ready.height)}
    assert ready.paste is not None
    with Image.open(inputs["image"][0].path) as opened:
        original = np.asarray(opened)
    result = ready.paste.onto(Image.new("RGB", (ready.width, ready.height), (1, 2, 3)))
    assert result.size == size
    left, top, right, bottom = box
    changed = (np.asarray(result) != original).any(axis=2)
    assert changed[top + 20 : bottom - 20, left + 20 : right - 20].mean() > 0.99
    changed[top:bottom, left:right] = False
    assert not changed.any()


def test_fill_shows_the_model_the_pixels_of_a_photo_as_they_are(
    task_of: TaskOf, tmp_path: Path
) -> None:
    inputs = fill_of(tmp_path, (1600, 1200), (1500, 100, 1600, 200))
    shown = prepared(task_of("fill", model="fill-dev", inputs=inputs)).images["image"][0]
    with Image.open(inputs["image"][0].path) as opened:
        assert shown.tobytes() == opened.crop((576, 0, 1600, 1024)).tobytes()


@pytest.mark.parametrize("options", [{"whole": True}, {"composite": False}])
def test_fill_of_the_whole_picture_is_of_a_size_that_the_model_makes(
    options: dict[str, Any], task_of: TaskOf, tmp_path: Path
) -> None:
    inputs = fill_of(tmp_path, (2688, 2016), (100, 100, 2000, 2000))
    ready = prepared(task_of("fill", model="fill-dev", inputs=inputs, **options))
    assert (ready.width, ready.height) == (1664, 1248)
    assert bool(ready.paste) == ("whole" in options)
    if ready.paste:
        assert ready.paste.original.size == ready.paste.share.size == (1664, 1248)


def test_fill_in_a_size_that_is_asked_for_is_of_that_size(task_of: TaskOf, tmp_path: Path) -> None:
    inputs = fill_of(tmp_path, (1000, 800), (100, 100, 300, 300))
    ready = prepared(task_of("fill", model="fill-dev", inputs=inputs, width=2048, height=1600))
    assert ready.paste is not None and ready.paste.original.size == (2048, 1600)
    assert (ready.width, ready.height) == (1024, 1024)


def test_an_inverted_mask_and_warnings_about_it_reach_the_picture(
    task_of: TaskOf, tmp_path: Path
) -> None:
    inputs = fill_of(tmp_path, (64, 64), (16, 16, 48, 48))
    ready = prepared(task_of("fill", inputs=inputs, invert_mask=True))
    mask = np.asarray(ready.images["mask"][0])
    assert mask[0, 0] == 255 and mask[32, 32] == 0 and ready.warnings == ()
    inputs["mask"] = inputs["image"]
    assert "many shades" in prepared(task_of("fill", inputs=inputs)).warnings[0]


@pytest.mark.parametrize(
    ("box", "options", "share"),
    [
        ((0, 0, 100, 600), {"width": 512, "height": 512}, "100%"),
        ((0, 0, 400, 600), {"width": 512, "height": 512}, "76%"),
        ((0, 0, 4, 600), {"whole": True}, "100%"),
        ((600, 0, 900, 600), {"width": 512, "height": 512}, ""),
        ((100, 100, 200, 200), {"whole": True}, ""),
        ((0, 0, 100, 600), {}, ""),
    ],
)
def test_fill_says_how_much_of_what_it_was_to_paint_is_cut_away(
    task_of: TaskOf, tmp_path: Path, box: Any, options: Mapping[str, Any], share: str
) -> None:
    task = task_of("fill", model="fill-dev", **options)
    task = replace(task, inputs=fill_of(tmp_path, (1208, 600), box))
    told = f"{share} of what is to be painted lies in the part that is cut away"
    if share == "100%":
        with pytest.raises(InputBad, match=told):
            prepared(task)
    else:
        assert any(told in each for each in prepared(task).warnings) == bool(share)


def erased(folder: Path, hidden: Image.Image | str) -> dict[str, Any]:
    """The inputs of a fill: a photo with a hole of soft edges, which is its own mask."""
    photo = Image.fromarray(
        np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ).convert("RGBA")
    hole = Image.new("L", (64, 64), 255)
    hole.paste(200, (15, 15, 49, 49))
    hole.paste(0, (16, 16, 48, 48))
    if isinstance(hidden, str):
        photo.paste(hidden, (16, 16, 48, 48))
    photo.putalpha(hole)
    photo.save(folder / "hole.png")
    return dict.fromkeys(("image", "mask"), (InputImage(folder / "hole.png"),))


def test_a_photo_that_is_its_own_mask_is_filled_from_the_colours_below_its_hole(
    task_of: TaskOf, tmp_path: Path
) -> None:
    """Seen red: white around the hole, and white to start from with a `strength`."""
    task = task_of("fill", inputs=erased(tmp_path, Image.new("RGB", (1, 1))))
    with Image.open(tmp_path / "hole.png") as opened:
        colours = opened.convert("RGB").tobytes()
    ready = prepared(task)
    assert ready.images["mask"][0].getbbox() == (16, 16, 48, 48)
    assert ready.paste is not None and ready.paste.original.tobytes() == colours
    assert ready.images["image"][0].tobytes() == colours


def test_one_colour_below_a_hole_is_no_colour_of_the_photo_and_is_white(
    task_of: TaskOf, tmp_path: Path
) -> None:
    ready = prepared(task_of("fill", inputs=erased(tmp_path, "black")))
    assert ready.images["image"][0].getpixel((32, 32)) == (255, 255, 255)


def test_a_photo_whose_hole_is_kept_shows_it_in_white(task_of: TaskOf, tmp_path: Path) -> None:
    inputs = erased(tmp_path, Image.new("RGB", (1, 1)))
    ready = prepared(task_of("fill", inputs=inputs, invert_mask=True))
    assert ready.images["image"][0].getpixel((32, 32)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("size", "told"),
    [((200, 100), "50% of its width"), ((100, 300), "67% of its height"), ((65, 64), None),
     ((70, 70), "9% of its width"), ((128, 128), None)],
)  # fmt: skip
def test_how_much_of_a_picture_is_cut_off_for_the_size_is_told(
    size: tuple[int, int], told: str | None, task_of: TaskOf, tmp_path: Path
) -> None:
    x, y = (side // 2 for side in size)
    inputs = fill_of(tmp_path, size, (x, y, x + 9, y + 9))
    whole = task_of("fill", inputs=inputs, whole=True)
    sized = {"inputs": {"image": inputs["image"]}, "width": 64, "height": 64}
    for task in (whole, task_of("text2img", **sized), task_of("control", **sized)):
        expected = told and (f"photo.bmp is {size[0]}×{size[1]}: {told} was cut off for 64×64",)
        assert prepared(task).warnings == (expected or ())
    assert prepared(task_of("fill", inputs=inputs)).warnings == ()


def test_something_of_every_picture_is_left() -> None:
    """Seen red: "100% of its height was cut off"."""
    (told,) = images.cut_warning("a.png", Image.new("RGB", (1, 300)), 64, 64)
    assert told == "a.png is 1×300: 99% of its height was cut off for 64×64"


def test_fill_outpaints_on_a_larger_canvas(task_of: TaskOf) -> None:
    task = task_of("fill", model="fill-dev", outpaint={"left": 32, "top": 16})
    ready = prepared(task)
    assert (ready.width, ready.height) == (96, 80)
    assert np.asarray(ready.images["mask"][0])[40, 8] == 255


def test_outpainting_a_photo_keeps_it_and_paints_only_its_new_border_and_the_soft_edge(
    task_of: TaskOf, tmp_path: Path
) -> None:
    (picture,) = fill_of(tmp_path, (1200, 900), (0, 0, 1, 1))["image"]
    task = task_of("fill", model="klein", inputs={"image": (picture,)}, outpaint={"right": 400})
    ready = prepared(task)
    assert ready.paste is not None
    result = ready.paste.onto(Image.new("RGB", (ready.width, ready.height), (1, 2, 3)))
    assert result.size == (1600, 900)
    with Image.open(picture.path) as opened:
        same = (np.asarray(result)[:, :1200] == np.asarray(opened)).all(axis=2)
    assert same[:, :1190].all() and not same[:, -1].all()
    assert set(np.unique(np.asarray(result)[:, 1200:])) == {1, 2, 3}


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


def test_a_ready_depth_map_of_any_range_is_spread_over_the_range_and_says_so(
    task_of: TaskOf, tmp_path: Path
) -> None:
    ramp = np.linspace(0, 1, 64 * 64).reshape(64, 64)
    shades = np.rint(ramp * 255).astype(np.uint8)
    maps = {
        "32 bits.tiff": (ramp * 255).astype(np.int32),
        "float metres.tiff": (0.4 + ramp * 79.6).astype(np.float32),
        "12 bits in 16.png": (ramp * 4095).astype(np.uint16),
        "16 bits.png": (ramp * 65535).astype(np.uint16),
        "float.tiff": ramp.astype(np.float32),
        "8 bits.png": shades,
    }
    said = {}
    for name, values in maps.items():
        Image.fromarray(values).save(tmp_path / name)
        given = {"image": (InputImage(tmp_path / name),)}
        ready = prepared(task_of("control", model="depth", inputs=given))
        seen = np.asarray(ready.images["image"][0]).astype(int)
        assert np.abs(seen - shades[..., None]).max() <= 1, name
        said[name] = ready.warnings
    assert "float metres.tiff has depths from 0.4 to 80, which were" in said["float metres.tiff"][0]
    assert "from 0 to 4095" in said["12 bits in 16.png"][0]
    assert [name for name, warnings in said.items() if warnings] == [
        "float metres.tiff", "12 bits in 16.png"
    ]  # fmt: skip


def test_infinity_is_the_farthest_of_a_depth_map_and_bytes_in_either_order_are_read(
    task_of: TaskOf, tmp_path: Path
) -> None:
    """Seen red: infinity refused the map, and 16 bits of TIFF with the high byte first crashed."""
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64)
    sky = ramp.astype(np.float32)
    sky[0, :8] = np.inf
    Image.fromarray(sky).save(tmp_path / "sky.tiff")
    big = Image.frombytes("I;16B", (64, 64), ramp.astype(">u2").tobytes())
    big.save(tmp_path / "big.tiff")
    for name in ("sky.tiff", "big.tiff"):
        given = {"image": (InputImage(tmp_path / name),)}
        ready = prepared(task_of("control", model="depth", inputs=given))
        seen = np.asarray(ready.images["image"][0])[..., 0].astype(int)
        assert np.abs(seen - ramp / 4095 * 255).max() <= 2
        assert "to 4095, which were spread" in ready.warnings[0]
    sky[0, 0] = np.nan
    Image.fromarray(sky).save(tmp_path / "sky.tiff")
    given = {"image": (InputImage(tmp_path / "sky.tiff"),)}
    with pytest.raises(InputBad, match="sky.tiff has values that are no numbers"):
        prepared(task_of("control", model="depth", inputs=given))


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


def test_redux_leaves_the_words_as_they_are_and_weighs_several_pictures_by_share(
    task_of: TaskOf, pictures: dict[str, InputImage]
) -> None:
    path = pictures["image"].path
    prior = KINDS["redux"].prior["flux1"]
    one = task_of("redux", inputs={"image": (InputImage(path, 0.7),)})
    assert prior(one, prepared(one))["prompt_embeds_scale"] == [1.0]
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
