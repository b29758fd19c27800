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
from composer.audit.lookalikes import DIGITS_AS_LETTERS
from composer.audit.normalise import Working, normalise
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


@dataclass(frozen=True)
class Mention:
    """A place where a term occurs: offsets in the working copy, and its tokens [first, last)."""

    term: Term
    start: int
    end: int
    first: int
    last: int


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
            if not normalise(form).text.strip():
                raise ValueError(f"the term {term.term!r} has a form without a visible character")
        parsed[term] = None
    return tuple(parsed)


@dataclass
class _Node:
    """One step of the tree of words; shared beginnings keep the search linear."""

    after: dict[str, _Node] = field(default_factory=dict)
    here: list[Term] = field(default_factory=list)


@dataclass(frozen=True)
class Lexicon:
    """Terms made ready for searching."""

    words: _Node
    strings: tuple[tuple[str, Term, bool], ...]
    allowed: _Node
    allowed_terms: frozenset[str]


@lru_cache(maxsize=64)
def lexicon(terms: tuple[Term, ...]) -> Lexicon:
    """Make terms ready for searching; the same terms are prepared once."""
    words, allowed = _Node(), _Node()
    strings: list[tuple[str, Term, bool]] = []
    for term in terms:
        for form in (term.term, *term.aliases):
            _add_form(words, strings, term, form)
        for phrase in term.allow:
            _insert(allowed, _words_of(phrase), term)
    return Lexicon(words, tuple(strings), allowed, frozenset())


def _add_form(words: _Node, strings: list[tuple[str, Term, bool]], term: Term, form: str) -> None:
    plain = " ".join(normalise(form).text.split())
    pieces = _words_of(form)
    only_words = all(part.isalnum() or part in " '-" for part in plain)
    if term.match == "substring" or not pieces or not only_words or _unspaced(plain):
        strings.append((plain, term, term.match != "substring" and not _unspaced(plain)))
        return
    for last in word_forms(pieces[-1]) if term.match == "word" else (pieces[-1],):
        _insert(words, (*pieces[:-1], last), term)
    if len(pieces) > 1:  # "price tag" is also written "pricetag"
        for last in word_forms(pieces[-1]) if term.match == "word" else (pieces[-1],):
            _insert(words, ("".join(pieces[:-1]) + last,), term)


def _insert(root: _Node, words: Sequence[str], term: Term) -> None:
    node = root
    for word in words:
        node = node.after.setdefault(word, _Node())
    if term not in node.here:
        node.here.append(term)


def _words_of(text: str) -> tuple[str, ...]:
    return tuple(token.text for token in tokenise(normalise(text)) if token.kind is Kind.WORD)


def _unspaced(text: str) -> bool:
    """Whether a text is in a script that puts no blanks between words, so has no word borders."""
    return any(
        unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER"))
        for char in text
    )


def find_mentions(work: Working, tokens: Sequence[Token], terms: tuple[Term, ...]) -> list[Mention]:
    """Every mention of the terms, in the order of the text, without those in `allow` phrases."""
    prepared = lexicon(terms)
    found: dict[tuple[int, int, Term], Mention] = {}
    allowed: list[tuple[int, int, Term]] = []
    steps = _readable(tokens)
    for place in range(len(steps)):
        for start, stop, term in _walk(prepared.words, tokens, steps, place):
            mention = Mention(term, tokens[start].start, tokens[stop - 1].end, start, stop)
            found[(mention.start, mention.end, term)] = mention
        if prepared.allowed.after:
            allowed += _walk(prepared.allowed, tokens, steps, place)
    for plain, term, borders in prepared.strings:
        for start, end in _occurrences(work.text, plain, borders):
            first, last = _tokens_at(tokens, start, end)
            found[(start, end, term)] = Mention(term, start, end, first, last)
    excused = {(index, term) for start, stop, term in allowed for index in range(start, stop)}
    mentions = [
        mention
        for mention in found.values()
        if not all((index, mention.term) in excused for index in range(mention.first, mention.last))
    ]
    return sorted(mentions, key=lambda mention: (mention.start, mention.end, mention.term.term))


def _readable(tokens: Sequence[Token]) -> list[tuple[int, int, tuple[str, ...]]]:
    """The words as (first token, token after, ways to read it), disguises undone."""
    steps: list[tuple[int, int, tuple[str, ...]]] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.kind is Kind.WORD:
            spelt = _spelt_out(tokens, index)
            if spelt > index:
                letters = "".join(t.text for t in tokens[index:spelt] if t.kind is Kind.WORD)
                steps.append((index, spelt, (letters,)))
            steps.append((index, index + 1, _readings(token.text)))
        index += 1
    return steps


def _readings(text: str) -> tuple[str, ...]:
    ways = [text]
    if text.endswith("'s"):
        ways.append(text[:-2])
    if not text.isalpha() and any(char.isdigit() for char in text) and not text.isdigit():
        ways.append(text.translate(DIGITS_AS_LETTERS))
    return tuple(ways)


def _spelt_out(tokens: Sequence[Token], index: int) -> int:
    """Where a word written letter by letter ("l o g o", "l.o.g.o") ends; `index` if it is none."""
    if index and tokens[index - 1].kind is Kind.WORD and len(tokens[index - 1].text) == 1:
        return index
    at, letters, stop = index, 0, index
    while at < len(tokens) and len(tokens[at].text) == 1 and at - index < 60:
        if tokens[at].kind is Kind.WORD:
            letters, stop = letters + 1, at + 1
        elif tokens[at].text not in ".-*":
            break
        at += 1
    return stop if letters > 2 else index


_Steps = Sequence[tuple[int, int, tuple[str, ...]]]


def _walk(
    root: _Node, tokens: Sequence[Token], steps: _Steps, place: int
) -> list[tuple[int, int, Term]]:
    """The terms that begin at one word: down the tree, over blanks and hyphens only."""
    hits: list[tuple[int, int, Term]] = []
    first, stop, ways = steps[place]
    glued = ""
    for way in ways:
        node = root.after.get(way)
        at, end = place, stop
        while node is not None:
            hits += [(first, end, term) for term in node.here]
            at += 1
            if at >= len(steps) or not node.after or not _adjoin(tokens, end, steps[at][0]):
                break
            end = steps[at][1]
            node = next((node.after[w] for w in steps[at][2] if w in node.after), None)
    # "water-mark" is read as "watermark" too; three pieces are as far as anyone goes.
    glued, at, end = ways[0], place, stop
    for _ in range(2):
        at += 1
        if at >= len(steps) or end >= len(tokens) or tokens[end].kind is not Kind.HYPHEN:
            break
        if steps[at][0] != end + 1:
            break
        end, glued = steps[at][1], glued + steps[at][2][0]
        if glued in root.after:
            hits += [(first, end, term) for term in root.after[glued].here]
    return hits


def _adjoin(tokens: Sequence[Token], end: int, start: int) -> bool:
    """Whether only hyphens and block borders lie between two words."""
    return start - end <= 2 and all(
        token.kind is Kind.HYPHEN or (token.kind is Kind.END and not token.text)
        for token in tokens[end:start]
    )


def _occurrences(text: str, wanted: str, borders: bool) -> Iterable[tuple[int, int]]:
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        inside = (wanted[0].isalnum() and at > 0 and text[at - 1].isalnum()) or (
            wanted[-1].isalnum() and end < len(text) and text[end].isalnum()
        )
        if not (borders and inside):
            yield at, end
        at = text.find(wanted, at + 1)


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
