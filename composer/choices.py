r"""Expands `{a|b}` and `__name__` in a text: one choice by a key, or all of them.

The syntax is that of the dynamicprompts package: `{a|b}`, weights `{2::a|b}`, several of them
`{2$$a|b|c}`, `{1-2$$ and $$a|b}`, braces in braces, and `__name__` for a line of a wildcard file.
`\{`, `\|`, `\}` and `\_` are the plain characters. Choices are hashes, so that they are the same on
every machine and in every version of Python.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, permutations, product
from math import factorial, prod
from operator import sub

MOST_NESTED = 10
"""The most braces inside one another, and wildcards that lead to one another."""
MANY = 1_000_000
"""Products are counted up to this."""

# Whatever a file may be called: of what looks like a wildcard and is none, none is passed over.
_NAME = r"__((?:(?!__)(?:[^{}|\\]|\\(?![{}|_])))+)__"
_TOKEN = re.compile(
    r"\\([{}|_])|(\$\{|%\{|\{\s*[~!@]|__[~!@](?=(?:(?!__)[^{}|])+__)|[0-9]{1,4}#(?=__)"
    r"|__(?:(?!__)[^{}|\\()])+\((?=[^{}|()]*\)__))|" + _NAME + r"|([|}])|"
    r"\{(?:\s*([0-9]{1,4})?(-)?([0-9]{1,4})?\$\$(?:([^${}]*)\$\$)?)?"
)
_WEIGHT = re.compile(r"\s*(?:([0-9]{1,6}(?:\.[0-9]{0,6})?|\.[0-9]{1,6})::\s*)?")
_UNEXPANDED = re.compile(r"\{[^{}|]*\|[^{}]*\}|(?=__\S)" + _NAME)


class ChoiceProblem(Exception):
    """A text is not well-formed at the offset `at`."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


@dataclass(frozen=True)
class Options:
    """Texts that one is chosen from, and the sums of their weights, in millionths, up to each."""

    texts: "tuple[Text, ...]" = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, weights: "Mapping[Text, int]") -> "Options":
        """The options with these weights."""
        return cls(tuple(weights), tuple(accumulate(weights.values())))


@dataclass(frozen=True)
class Pick:
    """`low` to `high` of several options, or of the lines of the wildcard that is named `wild`."""

    at: int
    options: Options
    wild: str = ""
    low: int = 1
    high: int = 1
    join: str = ""


Text = tuple[str | Pick, ...]
"""A parsed text: its plain parts and its choices, in order."""


def parse(text: str) -> Text:
    """The parts of a text. Raises ChoiceProblem for what cannot be read."""
    return _parse(text, 0, 0)[0]


def _parse(text: str, at: int, depth: int) -> tuple[Text, int, str]:
    """The parts from an offset up to the mark that ends them, the offset behind it, the mark."""
    parts: list[str | Pick] = []
    while token := _TOKEN.search(text, at):
        parts.append(text[at : token.start()])
        start, at = token.span()
        escaped, other, wild, mark = token.group(1, 2, 3, 4)
        if other:
            known = "variables, wraps, samplers, `2#` and parameters are not understood"
            raise ChoiceProblem(start, f"{other!r}: {known} (`\\{{` is a plain brace)")
        if mark and depth:
            return tuple(filter(None, parts)), at, mark
        if mark == "}":
            raise ChoiceProblem(start, "'}' closes no '{' (`\\}` is a plain brace)")
        if escaped or mark:
            parts.append(escaped or mark)
        elif wild:
            parts.append(Pick(start, Options(), wild))
        else:
            pick, at = _parse_options(text, token, depth + 1)
            parts.append(pick)
    return tuple(filter(None, (*parts, text[at:]))), len(text), ""


def _parse_options(text: str, brace: re.Match[str], depth: int) -> tuple[Pick, int]:
    start, at = brace.span()
    if depth > MOST_NESTED:
        raise ChoiceProblem(start, f"more than {MOST_NESTED} braces are inside one another")
    weights: dict[Text, int] = {}
    mark = "|"
    while mark == "|":
        weight, at = weight_at(text, at)
        option, at, mark = _parse(text, at, depth)
        if weight:  # an option of weight 0 is switched off
            weights[option] = weights.get(option, 0) + weight
    if not mark:
        raise ChoiceProblem(start, "'{' is not closed (`\\{` is a plain brace)")
    low, to, high, join = brace.group(5, 6, 7, 8)
    bounds = sorted((int(low or (1 if to else high or 1)), int(high or (9999 if to else low or 1))))
    only = [part for part in next(iter(weights), ()) if part != " "] if len(weights) == 1 else []
    wild = only[0].wild if len(only) == 1 and isinstance(only[0], Pick) else ""
    join = "," if join is None else join
    return Pick(start, Options.of(weights), wild, bounds[0], bounds[1], join), at


def weight_at(text: str, at: int) -> tuple[int, int]:
    """The weight in millionths of the option at an offset, and the offset of its text."""
    found = _WEIGHT.match(text, at)
    assert found
    return (1_000_000 if found[1] is None else round(float(found[1]) * 1_000_000)), found.end()


def wilds(text: Text) -> Iterator[tuple[str, int]]:
    """The names and offsets of all wildcards of a text."""
    for part in text:
        if isinstance(part, Pick) and part.wild:
            yield part.wild, part.at
        elif isinstance(part, Pick):
            for each in part.options.texts:
                yield from wilds(each)


def unexpanded(text: str) -> str:
    """The first choice in a text, shortened; empty where there is none."""
    found = _UNEXPANDED.search(text)
    return "" if found is None else found[0] if len(found[0]) <= 40 else f"{found[0][:39]}…"


def number(key: str) -> int:
    """A number from 0 to 2**64 - 1 that depends on the key alone."""
    return int.from_bytes(sha256(key.encode(errors="surrogatepass")).digest()[:8], "big")


@dataclass(frozen=True)
class Expander:
    """Expands parsed texts; `wildcard` gives the options of a wildcard by its name."""

    wildcard: Callable[[str], Options]

    def draw(self, text: Text, key: str) -> str:
        """The text with one choice at each place, by the key and the place."""
        picks = (part for part in text if isinstance(part, Pick))
        drawn = [self._draw(pick, f"{key}.{nth}") for nth, pick in enumerate(picks)]
        return "".join(part if isinstance(part, str) else drawn.pop(0) for part in text)

    def every(self, text: Text) -> list[str]:
        """The text with every choice at every place; the last place varies fastest."""
        parts = ([part] if isinstance(part, str) else self._every(part) for part in text)
        return ["".join(each) for each in product(*parts)]

    def count(self, text: Text) -> int:
        """The length of `every`, or `MANY` where that is less."""
        return min(MANY, prod(self._count(part) for part in text if isinstance(part, Pick)))

    def _resolve(self, pick: Pick) -> tuple[Options, int, int]:
        """The options, and how many of them at least and at most."""
        options = self.wildcard(pick.wild) if pick.wild else pick.options
        most = len(options.texts)
        return options, min(pick.low, most), min(pick.high, most)

    def _draw(self, pick: Pick, key: str) -> str:
        options, low, high = self._resolve(pick)
        size = low if low == high else low + number(f"{key}#") % (high - low + 1)
        drawn = []
        for place in (f"{key}/{nth}" for nth in range(size)):
            text = options.texts[bisect_right(options.ends, number(place) % options.ends[-1])]
            drawn.append(self.draw(text, place))
            if len(drawn) < size:
                left = dict(
                    zip(options.texts, map(sub, options.ends, (0, *options.ends)), strict=True)
                )
                del left[text]
                options = Options.of(left)
        return pick.join.join(drawn)

    def _every(self, pick: Pick) -> list[str]:
        options, low, high = self._resolve(pick)
        texts = [self.every(text) for text in options.texts]
        orders = (order for size in range(low, high + 1) for order in permutations(texts, size))
        return [pick.join.join(each) for order in orders for each in product(*order)]

    def _count(self, pick: Pick) -> int:
        options, low, high = self._resolve(pick)
        if high > 1 and len(options.texts) > 1000:  # a thousand times a thousand at least
            return MANY
        # products[n]: the sum of the products of all ways to take n options, their order aside.
        products = [1] + [0] * min(high, 20)
        for text in options.texts:
            count = self.count(text)
            for size in range(len(products) - 1, 0, -1):
                products[size] += count * products[size - 1]
        found = sum(factorial(n) * each for n, each in enumerate(products) if n >= low)
        return MANY if high > 20 else min(MANY, found)
