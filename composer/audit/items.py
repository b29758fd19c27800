"""Cuts a prompt into items at commas and conjunctions, and describes the phrase of each item.

Whether the negation of "no A, B" extends to B depends on the phrase: a bare noun continues the
list; an article, an adjective or a verb begins a new phrase. One pass forward and one pass back,
both linear.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from composer.audit import words as w
from composer.audit.cues import Cue, Effect
from composer.audit.tokens import Kind, Token, word_at

_BORDERS = dict.fromkeys((Kind.END, Kind.LINE, Kind.COLON, Kind.FLAG), "border") | {
    Kind.OPEN: "open",
    Kind.CLOSE: "close",
}
_JOINS = {"and": "and", "or": "or", "nor": "or", "plus": "and"}
_MARKS = {Kind.COMMA: "comma", Kind.SLASH: "or", Kind.AND: "and"}
_STRENGTH = {"comma": 0, "and": 1, "or": 2}


@dataclass(frozen=True)
class Phrase:
    """The words that a phrase has, as far as word lists can tell."""

    determined: bool = False  # an article, a number or the like
    described: bool = False  # an adjective
    acts: bool = False  # a verb after a noun
    command: bool = False  # an imperative before any noun
    placed: bool = False  # a preposition with a place
    nouns: int = 0
    compact: bool = False  # one noun, or only nouns of mentions
    clausal: bool = False  # a mention with another noun after it
    plural: bool = False  # the last noun ends in s

    @property
    def bare(self) -> bool:
        """Whether there is only a noun, as in a list that continues."""
        busy = self.determined or self.described or self.acts or self.command or self.placed
        return self.compact and not busy


@dataclass
class Item:
    """The tokens [start, end) between two separators."""

    start: int
    end: int
    joined: str  # the separator before it: border, open, close, comma, and, or
    phrase: Phrase = field(default_factory=Phrase)
    closed: str = ""  # "and" or "or" if a later item closes the list that this one is in
    opener: Effect | None = None  # of the cue that the item begins with


def is_join(tokens: Sequence[Token], index: int) -> str:
    """How a token joins two items: comma, and, or; empty if it does not."""
    token = tokens[index]
    if token.kind is Kind.WORD:
        return _JOINS.get(token.text, "")
    return _MARKS.get(token.kind, "")


def cut_items(
    tokens: Sequence[Token], mentioned: Collection[int], cues: Mapping[int, tuple[Cue, int]]
) -> list[Item]:
    """The items of a prompt, in order."""
    items: list[Item] = []
    start, joined = 0, "border"
    for index in range(len(tokens) + 1):
        separator = "border"
        if index < len(tokens):
            separator = _BORDERS.get(tokens[index].kind) or is_join(tokens, index)
        if not separator:
            continue
        if index > start:
            items.append(Item(start, index, joined))
        elif separator in _STRENGTH and joined in _STRENGTH:
            # "a, and b" is joined by "and"
            separator = max(separator, joined, key=_STRENGTH.__getitem__)
        elif separator in _STRENGTH and joined == "border":
            separator = "border"
        start, joined = index + 1, separator
    for item in items:
        first = cues.get(item.start)
        item.opener = first[0].effect if first else None
        item.phrase = phrase_of(tokens, item.start, item.end, mentioned)
    _close_lists(items)
    return items


_RESTARTS = frozenset(Effect) - {Effect.INVERT, Effect.HANDLE, Effect.LIST, Effect.INCLUDE}


def _close_lists(items: Sequence[Item]) -> None:
    """Set `closed` of each item, from the last one back: it depends on the items after it."""
    for item, after in zip(reversed(items[:-1]), reversed(items[1:]), strict=True):
        phrase = after.phrase
        if after.joined in ("border", "open", "close") or after.opener in _RESTARTS:
            continue
        if after.joined == "or":
            item.closed = "or"
        elif after.joined == "and":
            busy = phrase.determined or phrase.described or phrase.acts or phrase.command
            busy = busy or phrase.clausal
            item.closed = "" if busy else "and"
        elif not (phrase.acts or phrase.command):
            quiet = not (phrase.described or phrase.determined)
            item.closed = after.closed if quiet or after.closed == "or" else ""


def phrase_of(tokens: Sequence[Token], start: int, end: int, mentioned: Collection[int]) -> Phrase:
    """Describe the tokens [start, end); words of a mention always count as nouns."""
    determined = described = acts = command = placed = False
    nouns: list[int] = []
    index = start
    while index < end:
        token, text = tokens[index], tokens[index].text
        index += 1
        if token.kind is not Kind.WORD:
            continue
        if index < end and tokens[index].kind is Kind.HYPHEN and index - 1 not in mentioned:
            continue  # only the last part of a compound counts
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
        elif text in w.MATERIALS and not nouns and index < end and word_at(tokens, index):
            described = True
        elif w.is_adjective(text) or (not text.isalpha() and any(c.isdigit() for c in text)):
            described = True
        elif w.is_ing(text) or w.is_ed(text):
            acts, described = acts or bool(nouns), described or not nouns
        else:
            nouns.append(index - 1)
    compact = len(nouns) == 1 or (bool(nouns) and all(place in mentioned for place in nouns))
    # A mention with another noun after it may be a subject with its verb.
    clausal = len(nouns) > 1 and nouns[0] in mentioned and nouns[-1] not in mentioned
    plural = bool(nouns) and tokens[nouns[-1]].text.endswith("s")
    return Phrase(
        determined, described, acts, command, placed, len(nouns), compact, clausal, plural
    )


def _scenery(tokens: Sequence[Token], index: int, end: int) -> int:
    """The end of a phrase such as "in the image", which names no real place; 0 if there is none.

    `index` is the token after the preposition; "of any kind" is another such phrase.
    """
    texts = [token.text for token in tokens[index : min(index + 3, end)]]
    for at, text in enumerate(texts):
        if text in w.SCENE or (at and texts[0] == "any" and text in w.FILLERS):
            return index + at + 1
        if text not in ("the", "this", "any", "sight"):
            break
    return 0
