"""Prepares forbidden terms: parses them, makes their forms, and orders them for searching.

A term is a word with its plurals and inflections, a phrase, or a symbol. It is never used as a
regular expression, so that no term can make the search slow or match other text. Forms that are
words with another meaning ("glass" for "glasses") must not be made.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    plurals = sorted(lexicon.classes["plural"])
    for last in word_forms(pieces[-1], plurals) if term.match == "word" else (pieces[-1],):
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


# Plurals with another meaning than their singular, and words that end in s but are no plurals.
_NO_SINGULAR = frozenset(
    "glasses jeans news lens pants scissors shorts goods arms series species gas bus canvas iris "
    "chaos atlas christmas texas paris mars jesus cosmos bias yes this his us is was has plus "
    "always perhaps across less headquarters binoculars leggings tights pyjamas "
    "pajamas clothes thanks physics graphics athletics economics customs looks means".split()
)


def word_forms(word: str, plurals: Iterable[str]) -> tuple[str, ...]:
    """All forms by which a word of a term is found, the word itself first.

    `plurals` are endings and what becomes of them: "man>men".
    """
    rules = [tuple(map(str.strip, rule.split(">"))) for rule in plurals]
    ones = [_ending(word, many, one) for one, many in rules]
    bases = dict.fromkeys((word, *(filter(None, ones) if any(ones) else (_singular(word),))))
    forms = dict.fromkeys((word,))
    for base in bases:
        several = filter(None, (_ending(base, one, many) for one, many in rules))
        forms |= dict.fromkeys((*several, *_plurals(base), *_past(base), base))
    return tuple(forms)


def _ending(word: str, ending: str, becomes: str) -> str:
    stem = word.removesuffix(ending)
    return stem + becomes if word.endswith(ending) and (stem or becomes and ending) else ""


def _singular(word: str) -> str:
    if len(word) < 4 or word in _NO_SINGULAR or not word.endswith("s"):
        return word
    if word.endswith(("ss", "us", "is", "ous")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    return word[:-1]


def _plurals(word: str) -> tuple[str, ...]:
    if not word.isalpha():
        return (word + "s",)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies", word + "s")
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    return (word + "s", word + "es") if word.endswith("o") else (word + "s",)


def _past(word: str) -> tuple[str, ...]:
    if not word.isalpha() or len(word) < 3:
        return ()
    if word.endswith("e"):
        return (word + "d",)
    if word.endswith("y") and word[-2] not in "aeiou":
        return (word[:-1] + "ied",)
    doubled = word[-1] not in "aeiouwxyhs" and word[-2] in "aeiou" and word[-3] not in "aeiou"
    return (word + "ed", word + word[-1] + "ed") if doubled else (word + "ed",)
