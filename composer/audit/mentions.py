"""Finds the mentions of terms, also where they are written with digits or spelt letter by letter.

Disguised single letters have been replaced before, by `composer.audit.normalise`.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from composer.audit.lexicon import Lexicon
from composer.audit.normalise import DIGITS_AS_LETTERS, Working
from composer.audit.terms import Node, Term, prepared
from composer.audit.tokens import SPACED, Kind, Token

_WITHIN = re.compile(SPACED * 2)
_SPELT = re.compile(r"(?<![\w'])[^\W_](?:[ .*-]{1,3}[^\W_]){2,}(?![\w'])")


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


@dataclass(frozen=True, slots=True)
class ReadWord:
    """One word token with its readings; `index` is its token."""

    index: int
    readings: tuple[str, ...]
    joined: bool  # only blanks, hyphens or a block border are between it and the word before


def find_mentions(
    work: Working, tokens: Sequence[Token], terms: tuple[Term, ...], lexicon: Lexicon
) -> list[Mention]:
    """All mentions in the order of the text, without those in `allow` phrases."""
    as_words, as_strings, excepted = prepared(terms, lexicon)
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
    for start, end, numbers in _spelt_out(work.text, as_words):
        found.setdefault((start, end, *_tokens_at(tokens, start, end)), []).append(numbers)
    for plain, number, borders in as_strings:
        previous = (-1, -1)
        for start, end in _occurrences(work.text, plain, borders):
            place = _tokens_at(tokens, start, end)
            if borders or place != previous:  # inside a word once is enough
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
    root: Node, tokens: Sequence[Token], words: Sequence[ReadWord], position: int
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


def _occurrences(text: str, plain: str, borders: bool) -> Iterator[tuple[int, int]]:
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


def readable(tokens: Sequence[Token]) -> list[ReadWord]:
    """The words of a prompt, in order, with all their readings."""
    words: list[ReadWord] = []
    for index, token in enumerate(tokens):
        if token.kind is Kind.WORD:
            between = tokens[words[-1].index + 1 : index] if words else tokens
            joined = len(between) < 3 and all(t.kind is Kind.HYPHEN or not t.text for t in between)
            words.append(ReadWord(index, _readings(token.text), joined))
    return words


def _readings(text: str) -> tuple[str, ...]:
    if text.isalpha():
        return (text,)
    readings = [text]
    if text.endswith("'s"):
        readings.append(text[:-2])
    if any(char.isdigit() for char in text) and not text.isdigit():
        readings.append(text.translate(DIGITS_AS_LETTERS))
    return tuple(readings)


def _spelt_out(text: str, root: Node) -> Iterator[tuple[int, int, Sequence[int]]]:
    """The terms that are spelt letter by letter, also behind an article: "l.o.g.o", "a l o g o"."""
    for match in _SPELT.finditer(text):
        letters = [at for at in range(*match.span()) if text[at].isalnum()]
        for places in (letters, letters[1:] if text[letters[0]] == "a" else []):
            node = root.after.get("".join(text[at] for at in places))
            if node is not None and node.terms:
                yield places[0], match.end(), node.terms
