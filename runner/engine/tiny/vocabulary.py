"""The words the built-in model was trained on.

The command line asks here whether a prompt leaves that vocabulary, so this file must never import
torch, numpy or diffusers. Changing a tuple means training again: the token numbers are positions.
"""

import re

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
ANY_SHAPE = "shape"  # a prompt for an outline may leave the shape to the outline

_GRAMMAR = (
    *("a", "an", "the", "of", "on", "to", "in", "at", "is", "there", "with", "and", "it", "its"),
    *("left", "right", "above", "below", "over", "under", "top", "bottom", "background"),
    *("picture", "image", "drawing", "painting", "simple", "nice", "flat", "clean"),
    *("make", "turn", "change", "paint", "into", "colour", "color", "please", "now"),
)

WORDS: tuple[str, ...] = (
    *COLOURS,
    *SHAPES,
    *(word for size in SIZES for word in SIZE_WORDS[size]),
    ANY_SHAPE,
    *_GRAMMAR,
)
"""Every word the model knows, in the order of the token numbers."""

_KNOWN = frozenset(WORDS)
_WORD = re.compile(r"[^\W_]+")


def unknown_words(prompt: str) -> tuple[str, ...]:
    """The words of a prompt that the model has never seen, each once, in order."""
    found = dict.fromkeys(_WORD.findall(prompt.lower()))
    return tuple(word for word in found if word not in _KNOWN)
