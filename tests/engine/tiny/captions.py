"""Draws captions of scenes: many English sentences for each scene, with the meaning of each word.

The text encoders are trained to predict the meanings; the transformers are trained with the words
alone. Must not import torch.
"""

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.engine.tiny.vocabulary import ANY_SHAPE, SIZE_WORDS
from tests.engine.tiny.world import SLOTS, Scene, Thing, default_background


class Meaning(NamedTuple):
    """The meaning of a word: its kind and the thing it describes; "" where it says nothing."""

    kind: str = ""
    slot: str = ""
    colour: str = ""
    shape: str = ""
    size: str = ""


NOTHING = Meaning()


@dataclass
class Sentence:
    """Words with their meanings; `end` is the meaning of the end mark."""

    words: list[str] = field(default_factory=list)
    meanings: list[Meaning] = field(default_factory=list)
    end: Meaning = NOTHING

    def say(self, text: str, meaning: Meaning = NOTHING) -> None:
        """Append words that all have one meaning."""
        for word in text.split():
            self.words.append(word)
            self.meanings.append(meaning)

    def join(self, other: "Sentence") -> None:
        """Append another sentence."""
        self.words += other.words
        self.meanings += other.meanings

    def text(self) -> str:
        """The sentence as a user types it."""
        return " ".join(self.words).replace(" ,", ",").replace(" .", ".")


_OPENINGS = ("a picture of", "an image of", "a drawing of", "a painting of", "there is")
_DECORATION = ("simple", "nice", "flat", "clean")
UNKNOWN_WORDS = (
    *("cat", "dog", "tree", "house", "shiny", "tiny", "beautiful", "holding", "sign", "mountain"),
    *("photo", "sunset", "very", "bright", "dark", "hexagon", "pink", "grey", "robot", "city"),
)
"""Words outside the vocabulary. A few captions have one: the encoders learn to ignore them."""


def article(word: str) -> str:
    """The indefinite article for a word."""
    return "an" if word[0] in "aeiou" else "a"


def describe_thing(
    rng: random.Random, thing: Thing, slot: str, *, size: bool = True, shape: bool = True
) -> Sentence:
    """ "a small red circle"; the size large, which is the default, is often left out."""
    words: list[tuple[str, str]] = []
    if size and (thing.size != "large" or rng.random() < 0.4):
        words.append(("size", rng.choice(SIZE_WORDS[thing.size])))
    words.append(("colour", thing.colour))
    words.append(("shape", thing.shape if shape else ANY_SHAPE))
    if rng.random() < 0.03:
        words.insert(0, ("", rng.choice(UNKNOWN_WORDS if rng.random() < 0.6 else _DECORATION)))
    meaning = Meaning(
        "", slot, thing.colour, thing.shape if shape else "", thing.size if size else ""
    )
    sentence = Sentence()
    sentence.say(article(words[0][1]), meaning)
    for kind, word in words:
        sentence.say(word, meaning._replace(kind=kind))
    return sentence


def _describe_background(rng: random.Random, colour: str) -> Sentence:
    meaning = Meaning("background", "background", colour)
    form = rng.choice(
        ("on {c}", "on {a} {c} background", "on {a} {c} background", "on the {c} background")
        + (", {c} background", "with {a} {c} background")
    )
    sentence = Sentence()
    sentence.say(form.format(a=article(colour), c=colour), meaning)
    return sentence


def _relate(rng: random.Random, scene: Scene, things: list[Sentence]) -> Sentence:
    """Two things with their places, as "X left of Y" or "X on the left and Y on the right"."""
    first, second = things
    forward, backward, ends = {
        "row": (("left of", "to the left of"), ("right of", "to the right of"), ("left", "right")),
        "column": (("above", "over"), ("below", "under"), ("top", "bottom")),
    }[scene.layout]
    place = Meaning("place")
    sentence = Sentence()
    if rng.random() < 0.15:
        preposition = "on the" if scene.layout == "row" else "at the"
        slots = SLOTS[scene.layout]
        sentence.join(first)
        sentence.say(f"{preposition} {ends[0]}", place._replace(slot=slots[0]))
        sentence.say("and")
        sentence.join(second)
        sentence.say(f"{preposition} {ends[1]}", place._replace(slot=slots[1]))
        return sentence
    if rng.random() < 0.5:
        first, second, words = second, first, rng.choice(backward)
    else:
        words = rng.choice(forward)
    sentence.join(first)
    sentence.say(words, place)
    sentence.join(second)
    return sentence


def describe(
    rng: random.Random, scene: Scene, *, size: bool = True, shape: bool = True
) -> Sentence:
    """One of many captions of a scene; without `size` or `shape` it leaves those out."""
    things = [
        describe_thing(rng, thing, slot, size=size, shape=shape)
        for thing, slot in zip(scene.things, SLOTS[scene.layout], strict=True)
    ]
    middle = things[0] if len(things) == 1 else _relate(rng, scene, things)
    sentence = Sentence()
    left_out = scene.background == default_background(scene.things) and rng.random() < 0.5
    background = Sentence() if left_out else _describe_background(rng, scene.background)
    if background.words[:1] == ["on"] and rng.random() < 0.06:
        sentence.join(background)
        sentence.say(",")
        sentence.join(middle)
    else:
        if rng.random() < 0.2:
            sentence.say(rng.choice(_OPENINGS))
        sentence.join(middle)
        sentence.join(background)
    if rng.random() < 0.08:
        sentence.say(".")
    sentence.end = Meaning("", "background", scene.background)
    return sentence


def describe_plainly(scene: Scene) -> Sentence:
    """The one complete caption of a scene, with the same words in the same order each time."""
    sentence = Sentence()
    for number, (thing, slot) in enumerate(zip(scene.things, SLOTS[scene.layout], strict=True)):
        meaning = Meaning("", slot, thing.colour, thing.shape, thing.size)
        if number:
            sentence.say("left of" if scene.layout == "row" else "above", Meaning("place"))
        sentence.say("a", meaning)
        for kind, word in (("size", thing.size), ("colour", thing.colour), ("shape", thing.shape)):
            sentence.say(word, meaning._replace(kind=kind))
    meaning = Meaning("background", "background", scene.background)
    sentence.say(f"on a {scene.background} background", meaning)
    sentence.end = Meaning("", "background", scene.background)
    return sentence
