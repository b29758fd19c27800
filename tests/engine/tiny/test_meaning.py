"""The shipped weights draw what they are told, for every kind and several seeds.

Each kind is asked the same questions twice: as it should be, when nearly all answers must be right,
and with one thing sabotaged (mask inverted, outline blank, reference swapped, prompt zeroed), when
the very same check must fail. Colours contrast, so that a failure means disobedience, not a shade.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import realise
from runner.executor import Rendered
from runner.task import InputImage
from tests.engine.tiny.classifier import judge, read, silhouette
from tests.engine.tiny.edges import canny_of, drawn, outlines
from tests.engine.tiny.edits import Edit
from tests.engine.tiny.evaluate import STRENGTHS, Pipelines, apart, judge_edit
from tests.engine.tiny.evaluate_hints import edge_overlap, hole_of
from tests.engine.tiny.render import arrange, as_image, as_levels, masks_of, render
from tests.engine.tiny.world import Scene, Thing
from tests.fakes import life

Picture = Image.Image
ENOUGH = 0.75
"""The part of the answers that must be right; measured parts are above nine tenths."""


def thing(words: str) -> Thing:
    colour, shape, *size = words.split()
    return Thing(colour, shape, size[0] if size else "large")


def scene(background: str, layout: str, *things: str) -> Scene:
    assert layout in ("single", "row", "column")
    return Scene(background, tuple(thing(words) for words in things), layout)  # type: ignore[arg-type]


def true_picture(asked: Scene) -> torch.Tensor:
    return render(arrange([asked], [[(0.0, 0.0)] * len(asked.things)]))[0]


def share(answers: Iterator[bool]) -> float:
    found = list(answers)
    return sum(found) / len(found)


ASKED = {
    "a red circle on a blue background": scene("blue", "single", "red circle"),
    "a small white star on a black background": scene("black", "single", "white star small"),
    "a yellow square left of a green circle on white": scene(
        "white", "row", "yellow square", "green circle"
    ),
    "a blue triangle above a red square on a yellow background": scene(
        "yellow", "column", "blue triangle", "red square"
    ),
}
SEEDS = (1, 2, 3)


def test_text2img_draws_what_the_prompt_says(pipelines: Pipelines) -> None:
    def obeys(prompt: str, seed: int) -> bool:
        made = as_levels(pipelines.text2img(prompt, seed))
        return judge(read(made), ASKED[prompt]).all

    assert share(obeys(*each) for each in product(ASKED, SEEDS)) >= ENOUGH


def test_text2img_with_a_zeroed_prompt_is_caught(pipelines: Pipelines) -> None:
    nothing = {
        "prompt_embeds": torch.zeros(1, 64, 128),
        "pooled_prompt_embeds": torch.zeros(1, 128),
    }

    def obeys(prompt: str, seed: int) -> bool:
        made = as_levels(pipelines.call("text2img", seed, **nothing))
        return judge(read(made), ASKED[prompt]).all

    assert share(obeys(*each) for each in product(ASKED, SEEDS)) < ENOUGH / 2


def test_a_negative_prompt_is_avoided_and_the_prompt_is_still_obeyed(pipelines: Pipelines) -> None:
    prompt, asked = "a purple circle on white", scene("white", "single", "purple circle")
    unwanted = as_levels(as_image(true_picture(scene("white", "single", "red circle"))))

    def obeys(seed: int) -> bool:
        plain = as_levels(pipelines.text2img(prompt, seed))
        made = as_levels(pipelines.text2img(prompt, seed, "a red circle on white"))
        farther = apart(made, unwanted) > apart(plain, unwanted)
        return farther and judge(read(made), asked).all

    assert share(obeys(seed) for seed in SEEDS) >= ENOUGH


def test_as_the_strength_rises_a_picture_goes_from_where_it_started_to_its_prompt(
    pipelines: Pipelines,
) -> None:
    prompt, asked = next(iter(ASKED.items()))
    source = as_image(true_picture(scene("yellow", "single", "black square")))
    for seed in SEEDS:
        made = [
            as_levels(pipelines.img2img(prompt, seed, source, strength)) for strength in STRENGTHS
        ]
        moved = [apart(each, as_levels(source)) for each in made]
        assert moved == sorted(moved), moved
        left = [apart(each, as_levels(as_image(true_picture(asked)))) for each in made]
        assert left[0] == max(left) > 5 * left[-1], left
        assert judge(read(made[-1]), asked).all


def test_seeds_differ_and_the_same_seed_repeats(pipelines: Pipelines) -> None:
    prompt = next(iter(ASKED))
    first, again, other = (pipelines.text2img(prompt, seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()


_RED_ON_WHITE = scene("white", "single", "red circle")
_PAIR = scene("white", "row", "red circle", "blue square")
EDITS = {
    "make it blue": Edit(_RED_ON_WHITE, scene("white", "single", "blue circle"), "colour", 0),
    "turn the circle into a square": Edit(
        _RED_ON_WHITE, scene("white", "single", "red square"), "shape", 0
    ),
    "make the background black": Edit(
        _PAIR, scene("black", "row", "red circle", "blue square"), "background", None
    ),
    "make the red circle green": Edit(
        _PAIR, scene("white", "row", "green circle", "blue square"), "colour", 0
    ),
}
SWAPPED = scene("yellow", "column", "purple star", "black triangle")


def _kontext_share(pipelines: Pipelines, reference: Callable[[Edit], Scene]) -> float:
    def obeys(prompt: str, seed: int) -> bool:
        image = as_image(true_picture(reference(EDITS[prompt])))
        made = as_levels(pipelines.kontext(prompt, seed, image))
        return judge_edit(made, EDITS[prompt]) == (True, True)

    return share(obeys(*each) for each in product(EDITS, SEEDS))


def test_kontext_makes_the_edit_and_keeps_the_rest(pipelines: Pipelines) -> None:
    assert _kontext_share(pipelines, lambda edit: edit.before) >= ENOUGH


def test_kontext_with_a_swapped_reference_is_caught(pipelines: Pipelines) -> None:
    assert _kontext_share(pipelines, lambda _: SWAPPED) < ENOUGH / 2


FILLED = {
    "a red star": scene("white", "row", "red star", "blue circle"),
    "a green circle": scene("yellow", "column", "green circle", "black square"),
    "a white square": scene("black", "single", "white square"),
    "a yellow triangle": scene("blue", "row", "yellow triangle", "white circle"),
}


def _fill_share(pipelines: Pipelines, change: Callable[[Picture], Picture]) -> float:
    def obeys(prompt: str, seed: int) -> bool:
        asked = FILLED[prompt]
        hole = hole_of(asked, 0)
        other = Scene(asked.background, (thing("purple circle"), *asked.things[1:]), asked.layout)
        shown = as_image(true_picture(other))
        mask = change(as_image(hole * 2 - 1))
        made = as_levels(pipelines.fill(prompt, seed, shown, mask))
        pasted = torch.where(as_levels(mask) > 127, made, as_levels(shown))
        return judge(read(pasted), asked).all

    return share(obeys(*each) for each in product(FILLED, SEEDS))


def test_fill_repaints_the_hole_as_told_and_leaves_the_rest(pipelines: Pipelines) -> None:
    assert _fill_share(pipelines, lambda mask: mask) >= ENOUGH


def test_as_the_strength_rises_a_repainted_part_goes_from_what_it_was_to_its_prompt(
    pipelines: Pipelines,
) -> None:
    prompt = next(iter(ASKED))
    before = as_image(true_picture(scene("blue", "single", "yellow square")))
    asked = as_levels(as_image(true_picture(ASKED[prompt])))
    whole = Image.new("L", before.size, 255)
    for seed in SEEDS:
        made = [
            as_levels(pipelines.fill(prompt, seed, before, whole, strength))
            for strength in STRENGTHS
        ]
        moved = [apart(each, as_levels(before)) for each in made]
        left = [apart(each, asked) for each in made]
        assert moved == sorted(moved), moved
        assert left[0] == max(left) > 2 * left[-1], left


def test_fill_with_an_inverted_mask_is_caught(pipelines: Pipelines) -> None:
    assert _fill_share(pipelines, ImageOps.invert) < ENOUGH / 2


OUTLINED = {
    "a red shape on a white background": scene("white", "single", "red star"),
    "a yellow shape on a blue background": scene("blue", "single", "yellow circle small"),
    "a green shape left of a black shape on white": scene(
        "white", "row", "green square", "black triangle"
    ),
    "a white shape above a red shape on black": scene(
        "black", "column", "white triangle", "red circle"
    ),
}


def _control_share(pipelines: Pipelines, change: Callable[[Picture], Picture]) -> float:
    def obeys(prompt: str, seed: int) -> bool:
        asked = OUTLINED[prompt]
        true = true_picture(asked)
        masks = masks_of(arrange([asked], [[(0.0, 0.0)] * len(asked.things)]))
        edges = canny_of(true) if seed % 2 else drawn(outlines(masks))[0]
        made = as_levels(pipelines.control(prompt, seed, change(as_image(edges))))
        follows = edge_overlap(outlines(silhouette(made)), outlines(masks)) > 0.6
        verdict = judge(read(made), asked)
        return follows and verdict.colour and verdict.background

    return share(obeys(*each) for each in product(OUTLINED, SEEDS))


def test_control_follows_the_outline_and_takes_colours_from_the_prompt(
    pipelines: Pipelines,
) -> None:
    assert _control_share(pipelines, lambda edges: edges) >= ENOUGH


def test_control_with_a_blank_outline_is_caught(pipelines: Pipelines) -> None:
    blank = Image.new("RGB", (64, 64))
    assert _control_share(pipelines, lambda _: blank) < ENOUGH / 2


LOOKS = (
    scene("blue", "single", "red circle"),
    scene("white", "row", "yellow star", "black square"),
    scene("black", "column", "green triangle", "white circle"),
    scene("yellow", "single", "purple square small"),
)


def _redux_share(pipelines: Pipelines, shown: Callable[[Scene], Scene]) -> float:
    def obeys(look: Scene, seed: int) -> bool:
        image = as_image(true_picture(shown(look)))
        verdict = judge(read(as_levels(pipelines.redux([image], [1.0], seed))), look)
        return verdict.background and verdict.colour and verdict.shape

    return share(obeys(*each) for each in product(LOOKS, SEEDS[:2]))  # the slowest kind


def test_redux_keeps_colours_and_shapes_of_its_reference(pipelines: Pipelines) -> None:
    assert _redux_share(pipelines, lambda look: look) >= ENOUGH


def test_redux_with_a_swapped_reference_is_caught(pipelines: Pipelines) -> None:
    assert _redux_share(pipelines, lambda _: SWAPPED) < ENOUGH / 2


@pytest.mark.parametrize("heavier", [0, 1])
def test_redux_mixes_two_references_by_weight(pipelines: Pipelines, heavier: int) -> None:
    images = [as_image(true_picture(look)) for look in LOOKS[:2]]
    weights = [0.8, 0.2] if heavier == 0 else [0.2, 0.8]

    def follows(seed: int) -> bool:
        verdict = judge(read(as_levels(pipelines.redux(images, weights, seed))), LOOKS[heavier])
        return verdict.background and verdict.colour

    assert share(follows(seed) for seed in SEEDS) >= 2 / 3


@pytest.mark.parametrize("prompt", ["A Red Circle on a Blue Background.", "A RED CIRCLE ON BLUE"])
def test_capitals_change_nothing(pipelines: Pipelines, prompt: str) -> None:
    made = as_levels(pipelines.text2img(prompt, 1))
    assert judge(read(made), scene("blue", "single", "red circle")).all


def test_the_weight_of_a_picture_leads_redux_steadily_from_the_picture_to_the_words(
    tmp_path: Path,
) -> None:
    words, look = "a red circle on a blue background", scene("white", "single", "green star")
    as_image(true_picture(look)).save(tmp_path / "look.png")
    executor = GpuThread(tmp_path, device="cpu")

    def painted(weight: float) -> torch.Tensor:
        spec = {"kind": "redux", "model": "tiny", "prompt": words, "seed": 7}
        given = {"image": (InputImage(tmp_path / "look.png", weight),)}
        executor.start("gpu0", [realise(spec, job="job", index=1, inputs=given)])
        answer = life(executor)[-1]
        assert isinstance(answer, Rendered), answer
        return as_levels(answer.image).float()

    try:
        alone, *others = (painted(weight) for weight in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0))
    finally:
        executor.close()
    assert judge(read(alone), ASKED[words]).all
    verdict = judge(read(others[-1]), look)
    assert verdict.background and verdict.colour and verdict.shape
    away = [float((each - alone).abs().mean()) for each in others]
    assert away[0] < 3 and away == sorted(away) and away[-1] > 5 * away[2], away
