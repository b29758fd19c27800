"""Parses forbidden terms and finds their mentions in a prompt.

A term is a word with its plurals and inflections, a phrase, or a symbol. It is never used as a
regular expression, so that no term can make the search slow or match other text.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from composer.audit.forms import word_forms
from composer.audit.lexicon import Lexicon
from composer.audit.normalise import Working, normalise
from composer.audit.spelling import ReadWord, readable
from composer.audit.tokens import SPACED, UNSPACED, Kind, Token, tokenise


@dataclass(frozen=True)
class Term:
    """One forbidden term.

    `word` matches with plurals and inflections, `exact` only this form (in any letter case),
    `substring` inside other words too. Occurrences inside an `allow` phrase are not mentions.
    """

    term: str
    aliases: tuple[str, ...] = ()
    match: Literal["word", "exact", "substring"] = "word"
    severity: Literal["error", "warn"] = "error"
    reason: str = ""
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mention:
    """A place where terms occur.

    `start` and `end` are offsets in the working copy, [first, last) is the range of tokens, and
    `terms` are indices of terms.
    """

    start: int
    end: int
    first: int
    last: int
    terms: tuple[int, ...]


def parse_terms(terms: Iterable[str | Mapping[str, Any] | Term]) -> tuple[Term, ...]:
    """Terms from strings and from objects as packs, settings and JSON lines write them.

    Raises ValueError for a form without a visible character, and for an unknown match or severity.
    """
    parsed: dict[Term, None] = {}
    for item in terms:
        if isinstance(item, Term):
            term = item
        elif isinstance(item, str):
            term = Term(item)
        else:
            term = Term(
                term=str(item["term"]),
                aliases=tuple(item.get("aliases", ())),
                match=item.get("match", "word"),
                severity=item.get("severity", "error"),
                reason=item.get("reason", ""),
                allow=tuple(item.get("allow", ())),
            )
        if term.match not in ("word", "exact", "substring"):
            raise ValueError(f"the term {term.term!r}: match must be word, exact or substring")
        if term.severity not in ("error", "warn"):
            raise ValueError(f"the term {term.term!r}: severity must be error or warn")
        for form in (term.term, *term.aliases):
            if not _is_visible(form):
                raise ValueError(f"the term {term.term!r} has a form without a visible character")
        parsed[term] = None
    return tuple(parsed)


@lru_cache(maxsize=4096)
def _is_visible(form: str) -> bool:
    return bool(normalise(form).text.strip())


@dataclass
class _Node:
    """A node of a prefix tree of words, which keeps the search linear."""

    after: "dict[str, _Node]" = field(default_factory=dict)
    terms: list[int] = field(default_factory=list)


_UNSPACED = re.compile(f"[{UNSPACED}]")
_WITHIN = re.compile(SPACED * 2)
_Strings = list[tuple[str, int, bool]]  # text, index of the term, only at word borders


@lru_cache(maxsize=64)
def _prepared(terms: tuple[Term, ...], lexicon: Lexicon) -> tuple[_Node, _Strings, _Node]:
    """Terms prepared for searching: as words, as strings, and what `allow` excepts."""
    words, allowed = _Node(), _Node()
    strings: _Strings = []
    for number, term in enumerate(terms):
        for form in (term.term, *term.aliases):
            _add_form(words, strings, term, number, form, lexicon)
        for phrase in term.allow:
            _insert(allowed, _words_of(phrase), number)
    return words, strings, allowed


def _add_form(
    words: _Node, strings: _Strings, term: Term, number: int, form: str, lexicon: Lexicon
) -> None:
    plain = " ".join(normalise(form).text.split())
    pieces = _words_of(form)
    only_words = all(part.isalnum() or part in " '-" for part in plain)
    as_string = term.match == "substring" or not pieces or not only_words
    if as_string or _UNSPACED.search(plain):
        spellings = {plain} if as_string else {plain, "".join(pieces)}
        strings.extend((spelling, number, term.match != "substring") for spelling in spellings)
    if as_string:
        return
    plurals = sorted(lexicon.classes["plural"])
    for last in word_forms(pieces[-1], plurals) if term.match == "word" else (pieces[-1],):
        _insert(words, (*pieces[:-1], last), number)
        if len(pieces) > 1:  # "price tag" is also written "pricetag"
            _insert(words, ("".join(pieces[:-1]) + last,), number)


def _insert(root: _Node, words: Sequence[str], number: int) -> None:
    node = root
    for word in words:
        node = node.after.setdefault(word, _Node())
    if number not in node.terms:
        node.terms.append(number)


def _words_of(text: str) -> tuple[str, ...]:
    return tuple(token.text for token in tokenise(normalise(text)) if token.kind is Kind.WORD)


def find_mentions(
    work: Working, tokens: Sequence[Token], terms: tuple[Term, ...], lexicon: Lexicon
) -> list[Mention]:
    """All mentions in the order of the text, without those in `allow` phrases."""
    as_words, as_strings, excepted = _prepared(terms, lexicon)
    # Each place has references to lists of terms, not copies: many terms may share a place.
    found: dict[tuple[int, int, int, int], list[Sequence[int]]] = {}
    allowed: set[tuple[int, int]] = set()  # (token, term)
    words = readable(tokens)
    for position in range(len(words)):
        for first, last, numbers in _walk(as_words, tokens, words, position):
            key = (tokens[first].start, tokens[last - 1].end, first, last)
            found.setdefault(key, []).append(numbers)
        if excepted.after:
            for first, last, numbers in _walk(excepted, tokens, words, position):
                allowed.update((index, term) for index in range(first, last) for term in numbers)
    for plain, number, borders in as_strings:
        previous = (-1, -1)
        for start, end in _occurrences(work.text, plain, borders):
            place = _tokens_at(tokens, start, end)
            if place != previous:  # once in a word is enough
                found.setdefault((start, end, *place), []).append((number,))
                previous = place
    mentions: list[Mention] = []
    for (start, end, first, last), lists in sorted(found.items(), key=lambda item: item[0]):
        numbers = list(dict.fromkeys(number for numbers in lists for number in numbers))
        if allowed:
            inside = range(first, last)
            numbers = [n for n in numbers if not all((index, n) in allowed for index in inside)]
        if numbers:
            mentions.append(Mention(start, end, first, last, tuple(numbers)))
    return mentions


def _walk(
    root: _Node, tokens: Sequence[Token], words: Sequence[ReadWord], position: int
) -> list[tuple[int, int, Sequence[int]]]:
    """The terms in a tree that begin at one word, as (first token, end token, terms).

    The words of a term may be separated only by blanks, hyphens and block borders.
    """
    hits: list[tuple[int, int, Sequence[int]]] = []
    word = words[position]
    for reading in word.readings:
        node = root.after.get(reading)
        at = position
        while node is not None:
            if node.terms:
                hits.append((word.index, words[at].index + 1, node.terms))
            at += 1
            if not node.after or at >= len(words) or not words[at].joined:
                break
            node = next((node.after[w] for w in words[at].readings if w in node.after), None)
    stop, letters = word.spelt
    if letters in root.after:
        hits.append((word.index, stop, root.after[letters].terms))
    # "water-mark" is also read as "watermark"; up to three pieces are joined.
    joined = word.readings[0]
    for at in range(position + 1, min(position + 3, len(words))):
        index = words[at].index
        if tokens[index - 1].kind is not Kind.HYPHEN or words[at - 1].index != index - 2:
            break
        joined += words[at].readings[0]
        if joined in root.after and root.after[joined].terms:
            hits.append((word.index, index + 1, root.after[joined].terms))
    return hits


def _occurrences(text: str, plain: str, borders: bool) -> Iterable[tuple[int, int]]:
    """Where `plain` occurs in a text; with `borders` not inside longer words."""
    at = text.find(plain)
    while at >= 0:
        end = at + len(plain)
        edges = (text[max(0, edge - 1) : edge + 1] for edge in (at, end))
        within = borders and any(map(_WITHIN.match, edges))
        if not within:
            yield at, end
        at = text.find(plain, at + 1 if within else end)


def _tokens_at(tokens: Sequence[Token], start: int, end: int) -> tuple[int, int]:
    """The tokens [first, last) that overlap [start, end) of the working copy; at least one."""
    low = bisect_right(tokens, start, key=lambda token: token.end)
    last = low
    while last < len(tokens) and tokens[last].start < end:
        last += 1
    return low, max(last, min(low + 1, len(tokens)))
