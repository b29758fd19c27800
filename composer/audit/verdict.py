"""The audit of one prompt: every mention judged, and one verdict.

One affirmed mention of a term is a violation. A negated one is advice: FLUX reads no negatives,
so "no text" may bring text in. Nothing here changes the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from composer.audit.after import affirmed_after, negated_after
from composer.audit.normalise import normalise
from composer.audit.reading import Mark
from composer.audit.scope import read_marks
from composer.audit.terms import Mention, Term, find_mentions, parse_terms
from composer.audit.tokens import Token, tokenise

RULES_VERSION = "1"
"""Rises when a rule changes a verdict; recorded beside every verdict."""

MENTIONS_SHOWN = 20
"""At most so many mentions of one term are reported at each level; all of them are judged."""

_NEGATED = "FLUX reads no negatives: describe what is wanted instead of naming this"


class Span(Protocol):
    """Where a block lies in a prompt."""

    @property
    def block(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


@dataclass(frozen=True)
class Finding:
    """One mention: where, in which block, which cue decided, by which rule, and what follows."""

    term: str
    start: int
    end: int
    block: str
    cue: str
    rule: str
    level: Literal["violation", "advice"] = "violation"
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as other programs read it."""
        shape: dict[str, Any] = {
            "term": self.term,
            "start": self.start,
            "end": self.end,
            "block": self.block,
            "cue": self.cue,
            "rule": self.rule,
        }
        return {**shape, "note": self.note} if self.note else shape


@dataclass(frozen=True)
class Report:
    """The verdict on one prompt: `findings` block it, `advice` never does."""

    verdict: Literal["ok", "violation"]
    findings: tuple[Finding, ...] = ()
    advice: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing forbidden is asked for."""
        return self.verdict == "ok"

    def to_json(self) -> dict[str, Any]:
        """The report as other programs read it."""
        return {
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "advice": [finding.to_json() for finding in self.advice],
        }


def audit(
    prompt: str,
    terms: Iterable[str | Mapping[str, Any] | Term],
    spans: Sequence[Span] = (),
) -> Report:
    """Judge a prompt against forbidden terms; a negation never reaches across a block border."""
    parsed = parse_terms(terms)
    if not parsed or not prompt:
        return Report("ok")
    work = normalise(prompt)
    tokens = tokenise(work, (edge for span in spans for edge in (span.start, span.end)))
    mentions = find_mentions(work, tokens, parsed)
    if not mentions:
        return Report("ok")
    mentioned = frozenset(i for mention in mentions for i in range(mention.first, mention.last))
    marks = read_marks(tokens, mentioned)
    findings: list[Finding] = []
    advice: list[Finding] = []
    shown = [[0, 0] for _ in parsed]
    judged: dict[tuple[int, int], Mark] = {}
    for mention in mentions:
        key = (mention.first, mention.last)
        if key not in judged:
            judged[key] = _judge(tokens, mention, marks[mention.last - 1])
        mark = judged[key]
        for number in mention.terms:
            term = parsed[number]
            blocks = not mark.negated and term.severity == "error"
            shown[number][blocks] += 1
            if shown[number][blocks] <= MENTIONS_SHOWN:
                finding = _finding(term, mark, work.span(mention.start, mention.end), spans)
                (findings if blocks else advice).append(finding)
    return Report("violation" if findings else "ok", tuple(findings), tuple(advice))


def _judge(tokens: Sequence[Token], mention: Mention, mark: Mark | None) -> Mark:
    if mark is not None and mark.negated:
        return affirmed_after(tokens, mention, mark) or mark
    return negated_after(tokens, mention, mark) or mark or Mark(False, "affirmed", "")


def _finding(term: Term, mark: Mark, place: tuple[int, int], spans: Sequence[Span]) -> Finding:
    start, end = place
    block = next((span.block for span in spans if span.start <= start < span.end), "")
    if mark.negated:
        return Finding(term.term, start, end, block, mark.cue, mark.rule, "advice", _NEGATED)
    level: Literal["violation", "advice"] = "advice" if term.severity == "warn" else "violation"
    return Finding(term.term, start, end, block, mark.cue, mark.rule, level, term.reason)
