"""The world of the built-in model: its scenes, its English and what training must never see."""

import random
import subprocess
import sys

import pytest

from runner.engine.tiny.vocabulary import unknown_words
from tests.engine.tiny.captions import describe, describe_plainly, describe_thing
from tests.engine.tiny.edits import draw_edit, instruct
from tests.engine.tiny.examples import draw_fill, half
from tests.engine.tiny.vocabulary import COLOURS, SHAPES, WORDS
from tests.engine.tiny.world import (
    Scene,
    Thing,
    default_background,
    draw_seen_scene,
    draw_unseen_scene,
    is_held_out,
)


def test_training_scenes_are_never_held_out_and_unseen_ones_always_are() -> None:
    rng = random.Random(1)
    assert not any(is_held_out(draw_seen_scene(rng)) for _ in range(500))
    assert all(is_held_out(draw_unseen_scene(rng)) for _ in range(100))


def test_about_a_tenth_of_the_two_thing_scenes_is_held_out_whatever_their_sizes() -> None:
    held = {True: 0, False: 0}
    for background in COLOURS:
        for first in SHAPES:
            for second in SHAPES:
                for colour in COLOURS:
                    scenes = [
                        Scene(
                            background,
                            (Thing(colour, first, size), Thing("red", second, size)),
                            "row",
                        )
                        for size in ("small", "large")
                    ]
                    assert is_held_out(scenes[0]) == is_held_out(scenes[1])
                    held[is_held_out(scenes[0])] += 1
    assert 0.07 < held[True] / (held[True] + held[False]) < 0.13


def test_edits_for_training_touch_no_held_out_scene_and_unseen_ones_lead_from_one() -> None:
    rng = random.Random(2)
    for _ in range(300):
        edit = draw_edit(rng)
        assert not is_held_out(edit.before) and not is_held_out(edit.after)
        assert is_held_out(draw_edit(rng, unseen=True).before)


def test_an_edit_changes_exactly_what_its_instruction_says() -> None:
    rng = random.Random(3)
    for _ in range(300):
        edit = draw_edit(rng)
        words = instruct(rng, edit).words
        if edit.which is None:
            assert edit.before.things == edit.after.things
            assert edit.after.background != edit.before.background
            assert edit.after.background in words and "background" in words
            continue
        assert edit.before.background == edit.after.background
        old, new = edit.before.things[edit.which], edit.after.things[edit.which]
        assert getattr(new, edit.kind) != getattr(old, edit.kind)
        assert words[-1] == getattr(new, edit.kind)
        assert (old.size, old.colour if edit.kind == "shape" else old.shape) == (
            new.size,
            new.colour if edit.kind == "shape" else new.shape,
        )


def test_an_instruction_points_at_one_thing_only() -> None:
    rng = random.Random(4)
    for _ in range(300):
        edit = draw_edit(rng)
        if edit.which is None or len(edit.before.things) == 1:
            continue
        words = instruct(rng, edit).words[:-1]
        fitting = [
            thing
            for thing in edit.before.things
            if thing.shape in words and (thing.colour in words or not set(words) & set(COLOURS))
        ]
        assert fitting == [edit.before.things[edit.which]]


def test_a_caption_names_every_thing_and_what_it_leaves_out_has_one_answer() -> None:
    rng = random.Random(5)
    for _ in range(500):
        scene = draw_seen_scene(rng)
        text = describe(rng, scene).text()
        for thing in scene.things:
            assert thing.colour in text and thing.shape in text
        if "background" not in text and f"on {scene.background}" not in text:
            assert scene.background == default_background(scene.things)


def test_a_row_reads_the_same_from_left_and_from_right() -> None:
    scene = Scene("white", (Thing("red", "circle", "large"), Thing("blue", "star", "large")), "row")
    rng = random.Random(6)
    for _ in range(200):
        words = describe(rng, scene).words
        first = "red" if words.index("red") < words.index("blue") else "blue"
        sides = [word for word in words if word in ("left", "right")]
        assert sides[0] == ("left" if first == "red" else "right")


def test_every_word_of_a_sentence_has_a_meaning_and_strangers_are_rare() -> None:
    rng = random.Random(7)
    strange = 0
    for _ in range(400):
        scene = draw_seen_scene(rng)
        thing = describe_thing(rng, scene.things[0], "centre")
        for sentence in (describe(rng, scene), describe_plainly(scene), thing):
            assert len(sentence.words) == len(sentence.meanings)
            strange += bool(unknown_words(sentence.text()))
    assert 0 < strange < 100


def test_unknown_words_are_named_once_in_order_and_case_does_not_matter() -> None:
    assert unknown_words("A Red circle, on the BLUE background.") == ()
    assert unknown_words("a cat and a red dog; the cat_2") == ("cat", "dog", "2")
    assert unknown_words("") == unknown_words(" ".join(WORDS)) == ()
    assert len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize("module", ["vocabulary", "folders"])
def test_what_the_command_line_asks_imports_no_heavy_library(module: str) -> None:
    code = (
        f"import sys, runner.engine.tiny.{module}\n"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_hole_hides_its_thing_and_the_rest_of_the_hint_is_the_picture() -> None:
    examples = draw_fill(random.Random(8), 32)
    assert examples.hints is not None and examples.masks is not None
    hole = examples.masks.expand_as(examples.hints) > 0
    assert (examples.hints[hole] == 0).all()
    assert (examples.hints[~hole] == examples.targets[~hole]).all()
    assert 0.05 < float(examples.masks.mean()) < 0.6


def test_half_a_picture_is_the_half_of_the_thing_asked_for() -> None:
    pair = (Thing("red", "circle", "large"), Thing("blue", "star", "large"))
    left = half(Scene("white", pair, "row"), 0)[0]
    assert left[:, :32].all() and not left[:, 32:].any()
    bottom = half(Scene("white", pair, "column"), 1)[0]
    assert bottom[32:].all() and not bottom[:32].any()
