"""What is forbidden: terms with their forms, and where those forms occur in a prompt.

A term is a word with its plurals and inflections, a phrase, or a symbol. It is data: it is never
read as a pattern, so no term can make the search slow or match what it does not say.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from composer.audit.forms import word_forms
from composer.audit.normalise import Working, normalise
from composer.audit.spelling import ReadWord, readable
from composer.audit.tokens import Kind, Token, tokenise

Match = Literal["word", "exact", "substring"]
Severity = Literal["error", "warn"]


@dataclass(frozen=True)
class Term:
    """One forbidden thing.

    `word` matches with plurals and inflections, `exact` only this form (in any letter case),
    `substring` inside other words too. A mention inside an `allow` phrase is no mention.
    """

    term: str
    aliases: tuple[str, ...] = ()
    match: Match = "word"
    severity: Severity = "error"
    reason: str = ""
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mention:
    """A place where terms occur, by number: offsets in the working copy, tokens [first, last)."""

    start: int
    end: int
    first: int
    last: int
    terms: tuple[int, ...]


def parse_terms(terms: Iterable[str | Mapping[str, Any] | Term]) -> tuple[Term, ...]:
    """Terms from strings and from objects as packs, settings and JSON lines write them.

    Raises ValueError for a term with nothing in it that could be seen.
    """
    parsed: dict[Term, None] = {}
    for given in terms:
        if isinstance(given, Term):
            term = given
        elif isinstance(given, str):
            term = Term(given)
        else:
            term = Term(
                term=str(given["term"]),
                aliases=tuple(given.get("aliases", ())),
                match=given.get("match", "word"),
                severity=given.get("severity", "error"),
                reason=given.get("reason", ""),
                allow=tuple(given.get("allow", ())),
            )
        if term.match not in ("word", "exact", "substring"):
            raise ValueError(f"the term {term.term!r}: match must be word, exact or substring")
        if term.severity not in ("error", "warn"):
            raise ValueError(f"the term {term.term!r}: severity must be error or warn")
        for form in (term.term, *term.aliases):
            if not _can_be_seen(form):
                raise ValueError(f"the term {term.term!r} has a form without a visible character")
        parsed[term] = None
    return tuple(parsed)


@lru_cache(maxsize=4096)
def _can_be_seen(form: str) -> bool:
    return bool(normalise(form).text.strip())


@dataclass
class _Node:
    """One step of the tree of words; shared beginnings keep the search linear."""

    after: dict[str, _Node] = field(default_factory=dict)
    here: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Lexicon:
    """Terms made ready for searching."""

    words: _Node
    strings: tuple[tuple[str, int, bool], ...]
    allowed: _Node


@lru_cache(maxsize=64)
def lexicon(terms: tuple[Term, ...]) -> Lexicon:
    """Make terms ready for searching; the same terms are prepared once."""
    words, allowed = _Node(), _Node()
    strings: list[tuple[str, int, bool]] = []
    for number, term in enumerate(terms):
        for form in (term.term, *term.aliases):
            _add_form(words, strings, term, number, form)
        for phrase in term.allow:
            _insert(allowed, _words_of(phrase), number)
    return Lexicon(words, tuple(strings), allowed)


def _add_form(
    words: _Node, strings: list[tuple[str, int, bool]], term: Term, number: int, form: str
) -> None:
    plain = " ".join(normalise(form).text.split())
    pieces = _words_of(form)
    only_words = all(part.isalnum() or part in " '-" for part in plain)
    if term.match == "substring" or not pieces or not only_words or _unspaced(plain):
        strings.append((plain, number, term.match != "substring" and not _unspaced(plain)))
        return
    for last in word_forms(pieces[-1]) if term.match == "word" else (pieces[-1],):
        _insert(words, (*pieces[:-1], last), number)
    if len(pieces) > 1:  # "price tag" is also written "pricetag"
        for last in word_forms(pieces[-1]) if term.match == "word" else (pieces[-1],):
            _insert(words, ("".join(pieces[:-1]) + last,), number)


def _insert(root: _Node, words: Sequence[str], number: int) -> None:
    node = root
    for word in words:
        node = node.after.setdefault(word, _Node())
    if number not in node.here:
        node.here.append(number)


def _words_of(text: str) -> tuple[str, ...]:
    return tuple(token.text for token in tokenise(normalise(text)) if token.kind is Kind.WORD)


def _unspaced(text: str) -> bool:
    """Whether a text is in a script that puts no blanks between words, so has no word borders."""
    scripts = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER")
    return any(unicodedata.name(char, "").startswith(scripts) for char in text)


def find_mentions(work: Working, tokens: Sequence[Token], terms: tuple[Term, ...]) -> list[Mention]:
    """Every place with a mention, in the order of the text, without those in `allow` phrases."""
    prepared = lexicon(terms)
    # Each place keeps the lists of its terms, not copies: a hundred terms may share a place.
    found: dict[tuple[int, int, int, int], list[Sequence[int]]] = {}
    excused: set[tuple[int, int]] = set()
    words = readable(tokens)
    for place in range(len(words)):
        for first, last, here in _walk(prepared.words, tokens, words, place):
            key = (tokens[first].start, tokens[last - 1].end, first, last)
            found.setdefault(key, []).append(here)
        if prepared.allowed.after:
            for first, last, here in _walk(prepared.allowed, tokens, words, place):
                excused.update((index, term) for index in range(first, last) for term in here)
    for plain, number, borders in prepared.strings:
        touched = (-1, -1)
        for start, end in _occurrences(work.text, plain, borders):
            where = _tokens_at(tokens, start, end)
            if where != touched:  # once in a word is enough
                found.setdefault((start, end, *where), []).append((number,))
                touched = where
    mentions: list[Mention] = []
    for (start, end, first, last), lists in sorted(found.items(), key=lambda item: item[0]):
        here = lists[0] if len(lists) == 1 else tuple(dict.fromkeys(n for ns in lists for n in ns))
        left = [t for t in here if not _is_excused(excused, t, first, last)] if excused else here
        if left:
            mentions.append(Mention(start, end, first, last, tuple(left)))
    return mentions


def _is_excused(excused: set[tuple[int, int]], term: int, first: int, last: int) -> bool:
    return all((index, term) in excused for index in range(first, last))


def _walk(
    root: _Node, tokens: Sequence[Token], words: Sequence[ReadWord], place: int
) -> list[tuple[int, int, Sequence[int]]]:
    """The terms that begin at one word: down the tree, over blanks and hyphens only."""
    hits: list[tuple[int, int, Sequence[int]]] = []
    word = words[place]
    for way in word.ways:
        node = root.after.get(way)
        at = place
        while node is not None:
            if node.here:
                hits.append((word.index, words[at].index + 1, node.here))
            at += 1
            if not node.after or at >= len(words) or not words[at].joined:
                break
            node = next((node.after[w] for w in words[at].ways if w in node.after), None)
    stop, letters = word.spelt
    if letters in root.after:
        hits.append((word.index, stop, root.after[letters].here))
    # "water-mark" is read as "watermark" too; three pieces are as far as anyone goes.
    glued = word.ways[0]
    for at in range(place + 1, min(place + 3, len(words))):
        index = words[at].index
        if tokens[index - 1].kind is not Kind.HYPHEN or words[at - 1].index != index - 2:
            break
        glued += words[at].ways[0]
        if glued in root.after and root.after[glued].here:
            hits.append((word.index, index + 1, root.after[glued].here))
    return hits


def _occurrences(text: str, wanted: str, borders: bool) -> Iterable[tuple[int, int]]:
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        inside = (wanted[0].isalnum() and at > 0 and text[at - 1].isalnum()) or (
            wanted[-1].isalnum() and end < len(text) and text[end].isalnum()
        )
        if borders and inside:
            at = text.find(wanted, at + 1)
            continue
        yield at, end
        at = text.find(wanted, end)


def _tokens_at(tokens: Sequence[Token], start: int, end: int) -> tuple[int, int]:
    """The tokens that a part of the working copy touches; an empty range is never returned."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        if tokens[middle].end <= start:
            low = middle + 1
        else:
            high = middle
    last = low
    while last < len(tokens) and tokens[last].start < end:
        last += 1
    return low, max(last, min(low + 1, len(tokens)))
