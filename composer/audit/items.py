"""Cuts a prompt at commas and conjunctions and says what kind of phrase each piece is.

Whether "no A, B" reaches B depends on it: a bare noun goes on with the list, an article, an
adjective or a verb begins something new. One pass forward and one back, both linear.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from composer.audit import words as w
from composer.audit.cues import Cue, Effect
from composer.audit.tokens import Kind, Token

BORDERS = frozenset({Kind.END, Kind.LINE, Kind.COLON, Kind.FLAG})
_JOINS = {"and": "and", "or": "or", "nor": "or", "plus": "and"}
_MARKS = {Kind.COMMA: "comma", Kind.SLASH: "or", Kind.AND: "and"}
_STRENGTH = {"comma": 0, "and": 1, "or": 2}


@dataclass(frozen=True)
class Shape:
    """What the words of a phrase are, as far as lists of words can tell."""

    determined: bool = False
    described: bool = False
    acts: bool = False
    command: bool = False
    placed: bool = False
    nouns: int = 0
    compact: bool = False
    clausal: bool = False
    plural: bool = False

    @property
    def bare(self) -> bool:
        """Nothing but a noun, as in an ongoing list."""
        busy = self.determined or self.described or self.acts or self.command or self.placed
        return self.compact and not busy


@dataclass
class Item:
    """One piece between separators: its tokens, how it is joined, and how its list closes."""

    start: int
    end: int
    joined: str  # border, open, close, comma, and, or
    shape: Shape = field(default_factory=Shape)
    closed: str = ""  # "and" or "or" when a later item closes the list that this one is in
    opener: Effect | None = None  # the cue that the item begins with


def is_join(tokens: Sequence[Token], index: int) -> str:
    """How a token joins two items: comma, and, or; empty when it does not."""
    token = tokens[index]
    if token.kind is Kind.WORD:
        return _JOINS.get(token.text, "")
    return _MARKS.get(token.kind, "")


def cut_items(
    tokens: Sequence[Token], mentioned: Collection[int], cues: Mapping[int, tuple[Cue, int]]
) -> list[Item]:
    """The items of a prompt, in order, each with its shape and the way its list closes."""
    items: list[Item] = []
    start, joined = 0, "border"
    for index in range(len(tokens) + 1):
        turn = "border" if index == len(tokens) else _turn(tokens, index)
        if not turn:
            continue
        if index > start:
            items.append(Item(start, index, joined))
        elif turn in _STRENGTH and joined in _STRENGTH:
            turn = max(turn, joined, key=_STRENGTH.__getitem__)  # "a, and b" is joined by "and"
        elif turn in _STRENGTH and joined in ("close", "open"):
            pass
        elif joined == "border" and turn in _STRENGTH:
            turn = "border"
        start, joined = index + 1, turn
    for item in items:
        first = cues.get(item.start)
        item.opener = first[0].effect if first else None
        item.shape = shape_of(tokens, item.start, item.end, mentioned)
    _close_lists(items)
    return items


def _turn(tokens: Sequence[Token], index: int) -> str:
    kind = tokens[index].kind
    if kind in BORDERS:
        return "border"
    if kind is Kind.OPEN:
        return "open"
    if kind is Kind.CLOSE:
        return "close"
    return is_join(tokens, index)


_RESTARTS = frozenset(Effect) - {Effect.INVERT, Effect.HANDLE, Effect.LIST, Effect.INCLUDE}


def _close_lists(items: Sequence[Item]) -> None:
    """From the back: an item's list is closed when the chain after it ends in and/or."""
    for item, after in zip(reversed(items[:-1]), reversed(items[1:]), strict=True):
        shape = after.shape
        if after.joined in ("border", "open", "close") or after.opener in _RESTARTS:
            continue
        if after.joined == "or":
            item.closed = "or"
        elif after.joined == "and":
            busy = shape.determined or shape.described or shape.acts or shape.command
            busy = busy or shape.clausal
            item.closed = "" if busy else "and"
        elif not (shape.acts or shape.command):
            quiet = not (shape.described or shape.determined)
            item.closed = after.closed if quiet or after.closed == "or" else ""


def shape_of(tokens: Sequence[Token], start: int, end: int, mentioned: Collection[int]) -> Shape:
    """Describe the words [start, end); words of a mention always count as nouns."""
    determined = described = acts = command = placed = False
    nouns: list[int] = []
    index = start
    while index < end:
        token, text = tokens[index], tokens[index].text
        index += 1
        if token.kind is not Kind.WORD:
            continue
        if index < end and tokens[index].kind is Kind.HYPHEN and index - 1 not in mentioned:
            continue  # the last part of a compound decides
        if index - 1 in mentioned:
            nouns.append(index - 1)
        elif text in ("any", "no") or text in w.FILLERS:
            continue
        elif text in w.DETERMINERS or text.isdigit():
            determined = determined or not nouns
        elif text in w.PREPOSITIONS or text in ("with", "featuring", "to"):
            after = _scenery(tokens, index, end)
            if not after:
                placed = True
                break
            index = after
        elif text in w.LIST_ADJECTIVES and not nouns and index < end:
            continue
        elif text in w.IMPERATIVES and not nouns and index < end and not described:
            command = True
        elif text in w.FINITE:
            acts = acts or bool(nouns)
        elif text in w.MATERIALS and not nouns and _word_at(tokens, index, end):
            described = True
        elif w.is_adjective(text) or (not text.isalpha() and any(c.isdigit() for c in text)):
            described = True
        elif w.is_ing(text) or w.is_ed(text):
            acts, described = acts or bool(nouns), described or not nouns
        else:
            nouns.append(index - 1)
    compact = len(nouns) == 1 or (bool(nouns) and all(place in mentioned for place in nouns))
    # A mention with another noun behind it may as well be a subject with its verb.
    clausal = len(nouns) > 1 and nouns[0] in mentioned and nouns[-1] not in mentioned
    plural = bool(nouns) and tokens[nouns[-1]].text.endswith("s")
    return Shape(determined, described, acts, command, placed, len(nouns), compact, clausal, plural)


def _word_at(tokens: Sequence[Token], index: int, end: int) -> bool:
    return index < end and tokens[index].kind is Kind.WORD


def _scenery(tokens: Sequence[Token], index: int, end: int) -> int:
    """The end of "in the image", "of any kind" and the like, which place nothing; 0 if none."""
    texts = [token.text for token in tokens[index : min(index + 3, end)]]
    for at, text in enumerate(texts):
        if text in w.SCENE or (at and texts[0] == "any" and text in w.FILLERS):
            return index + at + 1
        if text not in ("the", "this", "any", "sight"):
            break
    return 0
