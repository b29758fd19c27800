"""Cuts a prompt into items at commas and conjunctions, and describes the phrase of each item.

Whether the negation of "no A, B" extends to B depends on the phrase: a bare noun continues the
list; an article, an adjective or a verb begins a new phrase. One pass forward and one pass back,
both linear.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from composer.audit.lexicon import Cue, Effect, Lexicon
from composer.audit.tokens import WORDS, Kind, Token, word_at

_BORDERS = dict.fromkeys((Kind.END, Kind.LINE, Kind.COLON, Kind.FLAG), "border") | {
    Kind.OPEN: "open",
    Kind.CLOSE: "close",
    Kind.SEMICOLON: "semicolon",
}
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


@dataclass(frozen=True)
class Item:
    """The tokens [start, end) between two separators."""

    start: int
    end: int
    joined: str  # the separator before it: border, semicolon, open, close, comma, and, or
    phrase: Phrase = field(default_factory=Phrase)
    opener: Effect | None = None  # of the cue that the item begins with
    closed: str = ""  # "and" or "or" if a later item closes the list that this one is in
    enclosed: bool = False  # it and all items up to the next border or bracket are bare


def is_join(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> str:
    """How a token joins two items: comma, and, or; empty if it does not."""
    token = tokens[index]
    if token.kind is Kind.WORD:
        kinds = lexicon.kinds(token.text)
        return "and" if "join_and" in kinds else "or" if "join_or" in kinds else ""
    return _MARKS.get(token.kind, "")


def cut_items(
    tokens: Sequence[Token],
    mentioned: Collection[int],
    cues: Mapping[int, tuple[Cue, int]],
    lexicon: Lexicon,
) -> list[Item]:
    """The items of a prompt, in order."""
    items: list[Item] = []
    start, joined = 0, "border"
    for index in range(len(tokens) + 1):
        separator = "border"
        if index < len(tokens):
            separator = _BORDERS.get(tokens[index].kind) or is_join(tokens, index, lexicon)
        if not separator:
            continue
        if index > start:
            phrase = phrase_of(tokens, start, index, mentioned, lexicon)
            first = cues.get(start)
            items.append(Item(start, index, joined, phrase, first[0].effect if first else None))
        elif separator in _STRENGTH and joined in _STRENGTH:
            # "a, and b" is joined by "and"
            separator = max(separator, joined, key=_STRENGTH.__getitem__)
        elif separator in _STRENGTH and joined == "border":
            separator = "border"
        start, joined = index + 1, separator
    return _closed(items)


_RESTARTS = frozenset(Effect) - {Effect.INVERT, Effect.HANDLE, Effect.LIST, Effect.INCLUDE}


def _closed(items: Sequence[Item]) -> list[Item]:
    """The items with `closed` and `enclosed`, which depend on the items after them."""
    after: Item | None = None
    done: list[Item] = []
    for item in reversed(items):
        alone = after is None or after.joined in ("border", "semicolon", "open", "close")
        enclosed = item.phrase.bare and (alone or after is None or after.enclosed)
        after = replace(item, closed="" if alone else _closing(after), enclosed=enclosed)
        done.append(after)
    return done[::-1]


def _closing(after: Item | None) -> str:
    """The conjunction that closes a list at the item `after` or later."""
    if after is None or after.opener in _RESTARTS:
        return ""
    phrase = after.phrase
    if after.joined == "or":
        return "or"
    if after.joined == "and":
        busy = phrase.determined or phrase.described or phrase.acts or phrase.command
        return "" if busy or phrase.clausal else "and"
    if phrase.acts or phrase.command:
        return ""
    quiet = not (phrase.described or phrase.determined)
    return after.closed if quiet or after.closed == "or" else ""


def phrase_of(
    tokens: Sequence[Token], start: int, end: int, mentioned: Collection[int], lexicon: Lexicon
) -> Phrase:
    """Describe the tokens [start, end); words of a mention always count as nouns."""
    determined = described = acts = command = placed = False
    nouns: list[int] = []
    index = start
    while index < end:
        token, text = tokens[index], tokens[index].text
        kinds = lexicon.kinds(text)
        index += 1
        if index - 1 in mentioned and token.kind in WORDS:
            nouns.append(index - 1)
        elif token.kind is not Kind.WORD:
            continue
        elif index < end and tokens[index].kind is Kind.HYPHEN:
            continue  # only the last part of a compound counts
        elif text in ("any", "no") or "filler" in kinds:
            continue
        elif "determiner" in kinds or text.isdigit():
            determined = determined or not nouns
        elif "preposition" in kinds or "with" in kinds or text in ("featuring", "to"):
            after = _scenery(tokens, index, end, lexicon)
            if not after:
                placed = True
                break
            index = after
        elif "list_adjective" in kinds and not nouns and index < end:
            continue
        elif "imperative" in kinds and not nouns and index < end and not described:
            command = True
        elif "finite" in kinds:
            acts = acts or bool(nouns)
        elif "material" in kinds and not nouns and index < end and word_at(tokens, index):
            described = True
        elif "adjective" in kinds or (not text.isalpha() and any(map(str.isdigit, text))):
            described = True
        elif "ing" in kinds or "ed" in kinds:
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


def _scenery(tokens: Sequence[Token], index: int, end: int, lexicon: Lexicon) -> int:
    """The end of a phrase such as "in the image", which names no real place; 0 if there is none.

    `index` is the token after the preposition; "of any kind" is another such phrase.
    """
    texts = [token.text for token in tokens[index : min(index + 3, end)]]
    for at, text in enumerate(texts):
        kinds = lexicon.kinds(text)
        if "scene" in kinds or (at and texts[0] == "any" and "filler" in kinds):
            return index + at + 1
        if text not in ("the", "this", "any", "sight"):
            break
    return 0
