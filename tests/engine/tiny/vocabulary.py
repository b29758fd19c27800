"""The words the built-in model was trained on.

After a change of a tuple the model must be trained again: the token numbers are positions.
"""

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
ANY_SHAPE = "shape"  # a prompt for an edge map may leave the shape to the map

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
