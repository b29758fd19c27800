"""Draws edits of scenes and their instructions: change a colour, a shape or the background.

An instruction always refers to exactly one thing; a scene with two things of the same colour and
shape is not edited so. Must not import torch.
"""

import random
from dataclasses import replace
from typing import Literal, NamedTuple

from tests.engine.tiny.captions import Meaning, Sentence, article
from tests.engine.tiny.vocabulary import COLOURS, SHAPES
from tests.engine.tiny.world import Scene, Thing, draw_scene, draw_thing, is_held_out

EditKind = Literal["colour", "shape", "background"]
EDIT_KINDS: tuple[EditKind, ...] = ("colour", "shape", "background")
_WEIGHTS = (42, 42, 16)  # backgrounds are learnt quickly, which thing to change slowly
_TWO_THINGS = 0.85


class Edit(NamedTuple):
    """A scene before and after; `which` is the index of the changed thing, None the background."""

    before: Scene
    after: Scene
    kind: EditKind
    which: int | None


def _with_thing(scene: Scene, which: int, thing: Thing) -> Scene:
    things = tuple(thing if n == which else other for n, other in enumerate(scene.things))
    return replace(scene, things=things)


def draw_edit(rng: random.Random, *, unseen: bool = False, kind: EditKind | None = None) -> Edit:
    """A random edit, from a held-out scene if `unseen`; otherwise neither scene is held out."""
    while True:
        chosen: EditKind = rng.choices(EDIT_KINDS, _WEIGHTS)[0] if kind is None else kind
        edit = _draw(rng, chosen, two=1.0 if unseen else _TWO_THINGS)
        if unseen and is_held_out(edit.before):
            return edit
        if not unseen and not is_held_out(edit.before) and not is_held_out(edit.after):
            return edit


def _draw(rng: random.Random, kind: EditKind, two: float) -> Edit:
    scene = draw_scene(rng, two=two)
    if kind == "background":
        taken = {scene.background, *(thing.colour for thing in scene.things)}
        colour = rng.choice([colour for colour in COLOURS if colour not in taken])
        return Edit(scene, replace(scene, background=colour), kind, None)
    while len({(thing.colour, thing.shape) for thing in scene.things}) < len(scene.things):
        scene = replace(scene, things=(draw_thing(rng, scene.background), scene.things[1]))
    which = rng.randrange(len(scene.things))
    old = scene.things[which]
    if kind == "colour":
        new = rng.choice([c for c in COLOURS if c not in (old.colour, scene.background)])
        return Edit(scene, _with_thing(scene, which, replace(old, colour=new)), kind, which)
    new = rng.choice([shape for shape in SHAPES if shape != old.shape])
    return Edit(scene, _with_thing(scene, which, replace(old, shape=new)), kind, which)


def _refer_to(rng: random.Random, scene: Scene, which: int) -> str:
    """A phrase that refers to exactly one thing of a scene."""
    thing = scene.things[which]
    if len(scene.things) == 1 and rng.random() < 0.4:
        return "it"
    others = [other for number, other in enumerate(scene.things) if number != which]
    if all(other.shape != thing.shape for other in others) and rng.random() < 0.5:
        return f"the {thing.shape}"
    return f"the {thing.colour} {thing.shape}"


def instruct(rng: random.Random, edit: Edit) -> Sentence:
    """One of many instructions for an edit."""
    sentence = Sentence()
    if rng.random() < 0.06:
        sentence.say(rng.choice(("please", "now")))
    if edit.which is None:
        _ask_for_background(rng, sentence, edit.after.background)
        return sentence
    new = edit.after.things[edit.which]
    phrase = _refer_to(rng, edit.before, edit.which).split()
    old = Meaning("", "edited", *(_first(phrase, COLOURS), _first(phrase, SHAPES)), "")
    if edit.kind == "colour":
        meaning = Meaning("new colour", "edited", new.colour)
        verb, link = rng.choice((("make", ""), ("make", ""), ("paint", ""), ("change", "to")))
        tail = f"{link} {new.colour}"
        sentence.end = Meaning("new colour", "edited", new.colour)
    else:
        meaning = Meaning("new shape", "edited", "", new.shape)
        verb, link = rng.choice(
            (("turn", "into"), ("turn", "into"), ("change", "to"), ("make", ""))
        )
        tail = f"{link} {article(new.shape)} {new.shape}"
        sentence.end = Meaning("new shape", "edited", "", new.shape)
    sentence.say(verb, meaning)
    for word in phrase:
        kind = "colour" if word in COLOURS else "shape" if word in SHAPES else ""
        sentence.say(word, old._replace(kind=kind))
    sentence.say(tail, meaning)
    return sentence


def _first(words: list[str], known: tuple[str, ...]) -> str:
    return next((word for word in words if word in known), "")


def _ask_for_background(rng: random.Random, sentence: Sentence, colour: str) -> None:
    meaning = Meaning("new background", "background", colour)
    form = rng.choice(
        ("make the background {c}", "make the background {c}", "paint the background {c}")
        + ("change the background to {c}", "turn the background {c}")
    )
    sentence.say(form.format(c=colour), meaning)
    sentence.end = meaning
