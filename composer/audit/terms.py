"""Prepares forbidden terms: parses them, makes their forms, and orders them for searching.

A term is a word with its plurals and inflections, a phrase, or a symbol. It is never used as a
regular expression, so that no term can make the search slow or match other text. Forms that are
words with another meaning ("glass" for "glasses") must not be made.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal

from composer.audit.lexicon import Lexicon
from composer.audit.normalise import normalise
from composer.audit.tokens import UNSPACED, Kind, tokenise


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


def parse_terms(terms: Iterable[str | Mapping[str, Any] | Term]) -> tuple[Term, ...]:
    """Terms from strings and from objects as packs, settings and JSON lines write them.

    Raises ValueError for a form without a visible character, and for an unknown match or severity.
    """
    parsed: dict[Term, None] = {}
    for item in terms:
        if isinstance(item, Mapping):
            given = {f.name: item[f.name] for f in fields(Term) if f.name in item}
            lists = {key: tuple(given.get(key, ())) for key in ("aliases", "allow")}
            item = Term(**{**given, **lists, "term": str(item["term"])})
        term = Term(item) if isinstance(item, str) else item
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
class Node:
    """A node of a prefix tree of words, which keeps the search linear."""

    after: "dict[str, Node]" = field(default_factory=dict)
    terms: list[int] = field(default_factory=list)


_UNSPACED = re.compile(f"[{UNSPACED}]")
Strings = list[tuple[str, int, bool]]  # text, index of the term, only at word borders


@lru_cache(maxsize=64)
def prepared(terms: tuple[Term, ...], lexicon: Lexicon) -> tuple[Node, Strings, Node]:
    """Terms prepared for searching: as words, as strings, and what `allow` excepts."""
    words, allowed = Node(), Node()
    strings: Strings = []
    for number, term in enumerate(terms):
        for form in (term.term, *term.aliases):
            _add_form(words, strings, term, number, form, lexicon)
        for phrase in term.allow:
            _insert(allowed, _words_of(phrase), number)
    return words, strings, allowed


def _add_form(
    words: Node, strings: Strings, term: Term, number: int, form: str, lexicon: Lexicon
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
    for last in word_forms(pieces[-1], lexicon) if term.match == "word" else (pieces[-1],):
        _insert(words, (*pieces[:-1], last), number)
        if len(pieces) > 1:  # "price tag" is also written "pricetag"
            _insert(words, ("".join(pieces[:-1]) + last,), number)


def _insert(root: Node, words: Sequence[str], number: int) -> None:
    node = root
    for word in words:
        node = node.after.setdefault(word, Node())
    if number not in node.terms:
        node.terms.append(number)


def _words_of(text: str) -> tuple[str, ...]:
    return tuple(token.text for token in tokenise(normalise(text)) if token.kind is Kind.WORD)


def word_forms(word: str, lexicon: Lexicon) -> tuple[str, ...]:
    """All forms by which a word of a term is found, the word itself first.

    The tables have endings and what becomes of them: "man>men".
    """
    plurals, endings, pasts = (
        [tuple(map(str.strip, rule.split(">"))) for rule in sorted(lexicon.classes[name])]
        for name in ("plural", "ending", "past")
    )
    ones = [_with(word, many, one) for one, many in plurals]
    if not any(ones):
        ones = [one for one in (_with(word, many, one) for one, many in endings) if len(one) > 2]
    bases = (word,) if word in lexicon.classes["unchanged"] else (word, *filter(None, ones))
    forms = dict.fromkeys(bases)
    for base in bases:
        forms |= dict.fromkeys(_with(base, one, many) for one, many in (*plurals, *endings))
        if len(base) > 2:
            forms |= dict.fromkeys(_with(base, now, then) for now, then in pasts)
            forms[f"{base}{base[-1]}ed"] = None
    return tuple(filter(None, forms))


def _with(word: str, ending: str, becomes: str) -> str:
    """A word with another ending; empty if it has not the first one, or is nothing else."""
    stem = word.removesuffix(ending)
    return stem + becomes if word.endswith(ending) and (stem or becomes and ending) else ""
