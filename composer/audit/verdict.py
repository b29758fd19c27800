"""Audits one prompt: decides for every mention whether it is negated, and gives one verdict.

An affirmed mention of a term of severity `error` is a violation. Other mentions are only advice,
including negated ones: a prompt understands no negatives, so that "no text" may bring text into the
picture. A spec's negative prompt never comes here: what it names is not wanted.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from composer.audit.after import decide
from composer.audit.lexicon import lexicon
from composer.audit.mentions import find_mentions
from composer.audit.normalise import LOOKALIKES, normalise
from composer.audit.reading import read
from composer.audit.scope import Mark, find_marks
from composer.audit.terms import Term, parse_terms
from composer.audit.tokens import tokenise


@dataclass(frozen=True)
class Span:
    """The part [start, end) of a prompt that came from one block; offsets count code points."""

    block: str
    file: str
    start: int
    end: int

    @property
    def length(self) -> int:
        """The number of characters of the block."""
        return self.end - self.start


@dataclass(frozen=True)
class Finding:
    """One mention of a term: its place in the prompt, and what decided on it.

    `start` and `end` count code points; `cue` and `block` are empty where there is none. `why` says
    in words what `rule` names.
    """

    term: str
    start: int
    end: int
    block: str
    cue: str
    rule: str
    why: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON for other programs."""
        return {key: value for key, value in vars(self).items() if value or key != "note"}


@dataclass(frozen=True)
class Report:
    """The verdict on one prompt; `findings` are its violations, `advice` never blocks it."""

    verdict: Literal["ok", "violation"]
    findings: tuple[Finding, ...] = ()
    advice: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the prompt has no violation."""
        return self.verdict == "ok"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON for other programs."""
        return {
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "advice": [finding.to_json() for finding in self.advice],
        }


def audit(
    prompt: str,
    terms: Iterable[str | Mapping[str, Any] | Term],
    spans: Sequence[Span] = (),
    languages: Iterable[str] = (),
) -> Report:
    """Audit a prompt for forbidden terms; a negation never extends beyond its block.

    Raises ValueError for an invalid term.
    """
    parsed, words = parse_terms(terms), lexicon(tuple(languages))
    if not parsed or not prompt:
        return Report("ok")
    work = normalise(prompt)
    tokens = tokenise(work, (edge for span in spans for edge in (span.start, span.end)))
    mentions = find_mentions(work, tokens, parsed, words)
    if not mentions:
        return Report("ok")
    mentioned = frozenset(i for mention in mentions for i in range(mention.first, mention.last))
    reading = read(tokens, mentioned, words)
    marks = find_marks(reading)
    findings: list[Finding] = []
    advice: list[Finding] = []
    reported = [[0, 0] for _ in parsed]  # for each term: as advice, as violation
    decided: dict[tuple[int, int], Mark] = {}
    for mention in mentions:
        key = (mention.start, mention.end)
        if key not in decided:
            decided[key] = decide(reading, mention, marks[mention.last - 1])
        mark = decided[key]
        for number in mention.terms:
            term = parsed[number]
            blocks = not mark.negated and term.severity == "error"
            reported[number][blocks] += 1
            # At each level, at most 20 mentions of one term are reported; all of them count.
            if reported[number][blocks] <= 20:
                finding = _finding(term, mark, prompt, work.span(mention.start, mention.end), spans)
                (findings if blocks else advice).append(finding)
    return Report("violation" if findings else "ok", tuple(findings), tuple(advice))


def _finding(
    term: Term, mark: Mark, prompt: str, place: tuple[int, int], spans: Sequence[Span]
) -> Finding:
    start, end = place
    block = next((span.block for span in spans if span.start <= start < span.end), "")
    note = term.reason
    if mark.negated:
        note = "a prompt reads no negatives: describe what is wanted instead of naming this"
    reason = _why(term, prompt[start:end], mark)
    return Finding(term.term, start, end, block, mark.cue, mark.rule, reason, note)


_THERE = {
    "affirmed": "nothing negates it",
    "list-end": "{cue} before it ends at {ended}",
    "terminator": "{cue} ends the negation before it",
    "exception": "{cue} makes it the one thing left",
    "double-negation": "{cue} negates twice, which asks for it",
    "pseudo": "{cue} negates nothing",
    "presupposed": "{cue} negates something else, and speaks of this as there",
}
_ABSENT = {
    "negated": "{cue} negates it",
    "list": "{cue} negates the list that it is in",
    "negative-list": "it is in the list after {cue}",
    "exception": "{cue} leaves it out",
    "double-negation": "{cue} leaves it out",
    "affix": "{cue} at the word negates it",
    "after": "{cue} after it says that it is absent",
    "replacement": "{cue} puts something else in its place",
}


def _why(term: Term, text: str, mark: Mark) -> str:
    """Why the mention `text` of a term has its mark, and how it was disguised."""
    reasons = _ABSENT if mark.negated else _THERE
    named = mark.ended in ("comma", "semicolon", "bracket")
    ended = f"the {mark.ended}" if named else repr(mark.ended)
    reason = reasons[mark.rule].format(cue=repr(mark.cue), ended=ended)
    disguise = _disguise(term, text)
    return f"{disguise}; {reason}" if disguise else reason


def _disguise(term: Term, text: str) -> str:
    known = " ".join((term.term, *term.aliases)).casefold()
    for char in text:
        if char.isascii() or char.casefold() in known:
            continue
        if not normalise(char).text:
            name = unicodedata.name(char, f"U+{ord(char):04X}").lower()
            return f"{normalise(text).text!r} is written with a hidden {name}"
        if char.casefold() in LOOKALIKES or char in LOOKALIKES:
            script = unicodedata.name(char).split()[0].title()
            return f"{text!r} contains a {script} {char}"
    if any(char.isdigit() for char in text) and not any(char.isdigit() for char in known):
        return f"{text!r} has digits for letters"
    letters = text.replace(".", " ").replace("-", " ").replace("*", " ").split()
    spelt = len(letters) > 2 and max(map(len, letters)) == 1
    return f"{text!r} is spelt letter by letter" if spelt else ""
