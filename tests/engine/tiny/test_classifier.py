"""The judge of the built-in model: it must pass what is right and nothing else."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.engine.tiny.classifier import judge, read, silhouette
from tests.engine.tiny.edits import draw_edit
from tests.engine.tiny.evaluate import judge_edit
from tests.engine.tiny.render import arrange, as_image, as_levels, masks_of, offsets, render
from tests.engine.tiny.world import Scene, Thing, draw_scene

ROW = Scene("white", (Thing("red", "circle", "large"), Thing("blue", "star", "small")), "row")


def levels_of(scene: Scene, seed: int = 0) -> Tensor:
    """A true picture as the judge reads it."""
    picture = render(arrange([scene], offsets(random.Random(seed), [scene])))[0]
    return as_levels(as_image(picture))


def test_every_true_picture_is_read_right() -> None:
    rng = random.Random(0)
    for number in range(150):
        scene = draw_scene(rng)
        assert judge(read(levels_of(scene, number)), scene).all, scene


@pytest.mark.parametrize(
    ("attribute", "other"),
    [
        ("background", replace(ROW, background="black")),
        ("colour", replace(ROW, things=(Thing("green", "circle", "large"), ROW.things[1]))),
        ("shape", replace(ROW, things=(Thing("red", "square", "large"), ROW.things[1]))),
        ("size", replace(ROW, things=(Thing("red", "circle", "small"), ROW.things[1]))),
        ("place", replace(ROW, layout="column")),
    ],
)
def test_one_wrong_attribute_is_found_and_no_other_is_blamed(attribute: str, other: Scene) -> None:
    verdict = judge(read(levels_of(other)), ROW)
    wrong = [
        name
        for name in ("background", "colour", "shape", "size", "place")
        if not getattr(verdict, name)
    ]
    assert wrong == [attribute] and not verdict.all


def test_swapped_things_are_wrong() -> None:
    swapped = replace(ROW, things=ROW.things[::-1])
    verdict = judge(read(levels_of(swapped)), ROW)
    assert not verdict.colour and not verdict.shape


def test_a_thing_too_few_or_too_many_spoils_all_things() -> None:
    single = Scene("white", ROW.things[:1], "single")
    for shown, asked in ((single, ROW), (ROW, single)):
        verdict = judge(read(levels_of(shown)), asked)
        assert verdict.background and not (verdict.colour or verdict.shape or verdict.place)


def test_a_blob_is_no_shape() -> None:
    picture = torch.full((3, 64, 64), 250.0)
    picture[:, 20:44, 20:44] = torch.tensor([218.0, 40.0, 40.0])[:, None, None]
    picture[:, 20:36, 28:36] = 250.0
    (thing,) = read(picture).things
    assert thing.colour == "red" and thing.shape == ""


def test_noise_is_nothing_of_the_world() -> None:
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    assert not judge(read(noise), ROW).all


def test_the_silhouette_covers_the_things_to_the_pixel() -> None:
    drawing = arrange([ROW], offsets(random.Random(1), [ROW]))
    true = masks_of(drawing).amax(1, keepdim=True) > 0.5
    found = silhouette(as_levels(as_image(render(drawing)[0])))
    assert (found ^ true).sum() <= 4


def test_a_true_edit_is_edited_and_kept_and_an_untouched_picture_is_not_edited() -> None:
    rng = random.Random(3)
    for number in range(40):
        edit = draw_edit(rng)
        assert judge_edit(levels_of(edit.after, number), edit) == (True, True)
        assert judge_edit(levels_of(edit.before, number), edit) == (False, True)


def test_an_edit_that_spoils_the_rest_is_edited_but_not_kept() -> None:
    rng = random.Random(4)
    for number in range(40):
        edit = draw_edit(rng, unseen=True, kind="colour")
        assert edit.which is not None
        things = list(edit.after.things)
        bystander = things[1 - edit.which]
        things[1 - edit.which] = replace(
            bystander, shape="square" if bystander.shape != "square" else "circle"
        )
        spoilt = replace(edit.after, things=tuple(things))
        assert judge_edit(levels_of(spoilt, number), edit) == (True, False)
