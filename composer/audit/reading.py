"""A prompt as the stages read it: its tokens, what is known of each word, its cues and its items.

An item is what stands between two commas, conjunctions or borders. Whether the negation of "no A,
B" extends to B depends on the phrase of B: a bare noun continues the list; an article, an adjective
or a verb begins a new phrase. All passes are linear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile

from composer.audit.lexicon import Cue, Effect, Lexicon
from composer.audit.tokens import WORDS, Kind, Token

_JOINS = {Kind.COMMA: "comma", Kind.SLASH: "or", Kind.AND: "and"}
_BORDERS = dict.fromkeys((Kind.END, Kind.LINE, Kind.COLON, Kind.FLAG), "border") | {
    Kind.OPEN: "open",
    Kind.CLOSE: "close",
    Kind.SEMICOLON: "semicolon",
}
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


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens of a prompt and what is known of them; `numbers` has the item of each token."""

    tokens: Sequence[Token]
    mentioned: frozenset[int]  # those that belong to mentions
    lexicon: Lexicon
    cues: Mapping[int, Cue] = field(default_factory=dict)
    items: Sequence[Item] = ()
    numbers: Sequence[int] = ()

    def word(self, index: int) -> str:
        """The text of a token if it is a word or a symbol, else empty."""
        inside = 0 <= index < len(self.tokens) and self.tokens[index].kind in WORDS
        return self.tokens[index].text if inside else ""

    def kinds(self, index: int) -> frozenset[str]:
        """The classes of the word at a token."""
        return self.lexicon.kinds(self.word(index))

    def mark(self, index: int) -> Kind:
        """The kind of a token; a border where there is none."""
        return self.tokens[index].kind if 0 <= index < len(self.tokens) else Kind.END

    def joins(self, index: int) -> str:
        """How a token joins two items: comma, and, or; empty if it does not."""
        mark = self.mark(index)
        if mark is not Kind.WORD:
            return _JOINS.get(mark, "")
        kinds = self.kinds(index)
        return "and" if "join_and" in kinds else "or" if "join_or" in kinds else ""

    def words_after(self, index: int, count: int) -> list[str]:
        """Up to `count` words that follow a token without a mark between them."""
        following = self.tokens[index + 1 : index + 1 + count]
        return [token.text for token in takewhile(lambda t: t.kind in WORDS, following)]

    def is_bullet(self, index: int) -> bool:
        """Whether a token is the bullet or the number of a list, at the start of a line."""
        if self.mark(index - 1) is not Kind.LINE or not 0 < index < len(self.tokens):
            return False
        mark, following = (*(token.text for token in self.tokens[index : index + 2]), "")[:2]
        return mark in ("-", "*", "•", "·", "+") or (mark.isdigit() and following in (".", ")"))

    def begins_item(self, index: int) -> bool:
        """Whether an item begins at a token."""
        return index == self.items[self.numbers[index]].start


def read(tokens: Sequence[Token], mentioned: frozenset[int], lexicon: Lexicon) -> Reading:
    """Find the cues of a prompt, and cut it into items."""
    cues: dict[int, Cue] = {}
    skip = 0
    for index, token in enumerate(tokens):
        if token.kind in WORDS and index >= skip:
            found = lexicon.cue_at(tokens, index)
            # No cue inside another cue or inside a mention.
            if found and not mentioned.issuperset(range(index, found.end)):
                cues[index], skip = found, found.end
    reading = Reading(tokens, mentioned, lexicon, cues)
    items = _items(reading)
    starts = {item.start: number for number, item in enumerate(items)}
    numbers = list(accumulate((starts.get(index, 0) for index in range(len(tokens))), max))
    return replace(reading, items=items, numbers=numbers)


def _items(text: Reading) -> list[Item]:
    """The items of a prompt, in order."""
    items: list[Item] = []
    start, joined = 0, "border"
    for index in range(len(text.tokens) + 1):
        separator = _BORDERS.get(text.mark(index)) or text.joins(index)
        if not separator:
            continue
        if index > start:
            phrase = phrase_of(text, start, index)
            first = text.cues.get(start)
            items.append(Item(start, index, joined, phrase, first.effect if first else None))
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
    phrase, closed = after.phrase, after.closed
    acts, loud = phrase.acts or phrase.command, phrase.described or phrase.determined
    if after.joined == "or":
        return "or"
    if after.joined == "and":
        return "" if acts or loud or phrase.clausal else "and"
    return "" if acts or (loud and closed != "or") else closed


def phrase_of(text: Reading, start: int, end: int) -> Phrase:
    """Describe the tokens [start, end); words of a mention always count as nouns."""
    determined = described = acts = command = placed = False
    nouns: list[int] = []
    index = start
    while index < end:
        token, kinds = text.tokens[index], text.kinds(index)
        word = token.text
        index += 1
        if index - 1 in text.mentioned and token.kind in WORDS:
            nouns.append(index - 1)
        elif token.kind is not Kind.WORD or word in ("any", "no") or "filler" in kinds:
            continue
        elif index < end and (
            text.mark(index) is Kind.HYPHEN  # only the last part of a compound counts
            or ("list_adjective" in kinds and not nouns)
        ):
            continue
        elif "determiner" in kinds or word.isdigit():
            determined = determined or not nouns
        elif "preposition" in kinds or "with" in kinds or word in ("featuring", "to"):
            after = _scenery(text, index, end)
            if not after:
                placed = True
                break
            index = after
        elif "imperative" in kinds and not nouns and index < end and not described:
            command = True
        elif "finite" in kinds:
            acts = acts or bool(nouns)
        elif (
            "adjective" in kinds
            and not ("noun_too" in kinds and index == end)
            or (not word.isalpha() and any(map(str.isdigit, word)))
        ):
            described = True
        elif "ing" in kinds or "ed" in kinds:
            acts, described = acts or bool(nouns), described or not nouns
        else:
            nouns.append(index - 1)
    compact = len(nouns) == 1 or (bool(nouns) and all(place in text.mentioned for place in nouns))
    # A mention with another noun after it may be a subject with its verb.
    clausal = len(nouns) > 1 and nouns[0] in text.mentioned and nouns[-1] not in text.mentioned
    plural = bool(nouns) and text.tokens[nouns[-1]].text.endswith("s")
    return Phrase(
        determined, described, acts, command, placed, len(nouns), compact, clausal, plural
    )


def _scenery(text: Reading, index: int, end: int) -> int:
    """The end of a phrase such as "in the image", which names no real place; 0 if there is none.

    `index` is the token after the preposition; "of any kind" is another such phrase.
    """
    for at in range(index, min(index + 3, end)):
        kinds = text.kinds(at)
        if "scene" in kinds or (text.word(at - 1) == "any" and "filler" in kinds):
            return at + 1
        if text.word(at) not in ("the", "this", "any", "sight"):
            break
    return 0
