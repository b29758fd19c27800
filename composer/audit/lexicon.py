"""Reads the tables of cues and word classes, which are data: one file a language in `languages/`.

    not: they … show a -logo
      do/does not, cannot
    join_or: no text … -logo | or, nor

A table is a line with its name and an example, and its entries, with commas between them, behind a
bar or below it with blanks before them. In the example `…` stands for each entry, and the term is
`-logo` where it is then absent, `+logo` where it is there. `a/b` is either word; `#` begins a
comment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import product
from pathlib import Path

from composer.audit.normalise import normalise
from composer.audit.tokens import WORDS, Kind, Token, tokenise

LANGUAGES = {
    "en": "english", "de": "german", "fr": "french", "es": "spanish", "it": "italian",
    "pt": "portuguese",
}  # fmt: skip
"""The languages with tables, by their codes."""


class Effect(Enum):
    """How a cue changes the meaning of the words after it."""

    NO = "no"  # negates what follows; repeated, it is emphasis
    NOT = "not"  # the same, of a verb
    WITHOUT = "without"  # negates what follows; under another negation it affirms
    ORDER = "order"  # the same, but only as a command: "remove the text"
    INVERT = "invert"  # has no effect alone; under a negation it affirms
    HANDLE = "handle"  # a verb whose object must exist: "do not cover the label"
    SELDOM = "seldom"  # has no effect alone; a negation after it affirms
    INSTEAD = "instead"  # negates only its own phrase: "instead of text, icons"
    LIST = "list"  # begins a list of unwanted things, with a colon
    STOP = "stop"  # ends a negation
    EXCEPT = "except"  # inverts: "no A except B", "everything except B"
    AFFIRM = "affirm"  # contains a negation but does not negate: "no doubt"
    INCLUDE = "include"  # continues a list: "such as"


NEGATES = (Effect.NO, Effect.NOT)


@dataclass(frozen=True, slots=True)
class Cue:
    """A cue in a prompt: its effect, its words, and the token after it."""

    effect: Effect
    text: str
    end: int


@dataclass(frozen=True)
class Table:
    """One table of a language, with its example."""

    name: str
    example: str
    entries: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Lexicon:
    """The tables of some languages together.

    `cues` has the beginnings of all cues, each with its effect if it is a cue.
    """

    cues: Mapping[tuple[str, ...], Effect | None]
    classes: Mapping[str, frozenset[str]]

    def kinds(self, word: str) -> frozenset[str]:
        """The names of the tables that have a word, and what its ending says."""
        return _kinds_of(self, word)

    def cue_at(self, tokens: Sequence[Token], index: int) -> Cue | None:
        """The longest cue that begins at a token."""
        words: tuple[str, ...] = ()
        best: Cue | None = None
        for at in range(index, len(tokens)):
            if tokens[at].kind is Kind.HYPHEN and words:
                continue
            words = (*words, tokens[at].text)
            if tokens[at].kind not in WORDS or words not in self.cues:
                break
            if effect := self.cues[words]:
                best = Cue(effect, " ".join(words), at + 1)
        return best


_ADJECTIVES = ("ous", "ful", "ish", "esque", "less", "iest", "ier")
_TOGETHER = {
    "determiner": {"article", "definite", "number"},
    "preposition": {"locative", "of_like"},
    "gone": {"forgone"},
    "lost": {"harmed", "gone"},
}


@lru_cache(maxsize=16384)
def _kinds_of(lexicon: Lexicon, word: str) -> frozenset[str]:
    kinds = {name for name, entries in lexicon.classes.items() if word in entries}
    for name, parts in _TOGETHER.items():
        if kinds & parts:
            kinds.add(name)
    if len(word) > 5 and word.endswith(_ADJECTIVES):
        kinds.add("adjective")
    # Participles: walking, but not ceiling.
    for ending, nouns in (("ing", "ing_noun"), ("ed", "ed_noun")):
        if len(word) > 4 and word.endswith(ending) and nouns not in kinds:
            kinds.add(ending)
    return frozenset(kinds)


def read_tables(language: str) -> Iterator[Table]:
    """The tables of one language, in the order of its file."""
    file = Path(__file__).parent / "languages" / f"{LANGUAGES[language]}.txt"
    name = example = ""
    entries: list[str] = []
    for line in (*file.read_text(encoding="utf-8").splitlines(), "end:"):
        if line.startswith(" "):
            entries += filter(None, (entry.strip() for entry in line.split(",")))
        elif line and not line.startswith("#"):
            if entries:
                yield Table(name, example, tuple(_spelt(entries)))
            name, _, example = line.partition(": ")
            example, _, short = example.partition(" | ")
            entries = [entry.strip() for entry in short.split(",") if entry]


def _spelt(entries: Sequence[str]) -> Iterator[str]:
    for entry in entries:
        for words in product(*(word.split("/") for word in entry.split())):
            yield " ".join(token.text for token in tokenise(normalise(" ".join(words))))


@lru_cache(maxsize=16)
def lexicon(languages: tuple[str, ...] = ()) -> Lexicon:
    """English and the languages of these codes.

    Raises ValueError for an unknown code.
    """
    classes: dict[str, set[str]] = {}
    for language in dict.fromkeys(("en", *languages)):
        if language not in LANGUAGES:
            raise ValueError(f"{language!r} is no language of the audit: {', '.join(LANGUAGES)}")
        for table in read_tables(language):
            classes.setdefault(table.name, set()).update(table.entries)
    known: dict[tuple[str, ...], Effect | None] = {}
    for effect in Effect:
        for phrase in classes.get(effect.value, ()):
            words = tuple(phrase.split())
            for count in range(1, len(words)):
                known.setdefault(words[:count], None)
            known[words] = known.get(words) or effect
    return Lexicon(known, {name: frozenset(entries) for name, entries in classes.items()})
