"""Joins FIXED + SUBJECT + VARIABLE + EXTRA into one prompt and records which block gave which part.

Blocks are joined unchanged: no template is applied and nothing is cut. A prompt that is too long
is reported together with its longest block.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from composer.audit import Report, Span, Term, audit
from composer.choices import unexpanded
from composer.layers import Block
from composer.packs import Pack
from composer.terms import terms_for

_SENTENCE_END = re.compile("[.!?…。！？][\"'”’»)\\]]*$")
# Formatting characters, besides those of emoji and of scripts that need them between letters, and
# the blanks that Unicode counts as letters.
_HIDDEN = re.compile(
    "[\u00ad\u061c\u115f\u1160\u034f\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb\U000e0001-\U000e007f]|(?<=[A-Za-z])[\u200c\u200d]"
)


class Parts(NamedTuple):
    """The blocks of one prompt."""

    fixed: Block
    subject: Block
    variable: Block | None = None
    extra: Block | None = None


@dataclass(frozen=True)
class Assembled:
    """A prompt and the spans of its blocks, in their order; `limit` is in characters."""

    prompt: str
    spans: tuple[Span, ...]
    limit: int

    @property
    def over_by(self) -> int:
        """The number of characters beyond the limit; 0 when the prompt fits."""
        return max(0, len(self.prompt) - self.limit)

    @property
    def longest(self) -> Span:
        """The longest block, which is the one to shorten."""
        return max(self.spans, key=lambda span: span.length)

    def warnings(self, *, expanded: bool) -> Iterator[str]:
        """Hidden characters in blocks, and choices where they are not expanded."""
        for span in self.spans:
            text = self.prompt[span.start : span.end]
            for char in dict.fromkeys(_HIDDEN.findall(text)):
                name = unicodedata.name(char, "a hidden character")
                behind = text[: text.index(char)][-20:]
                yield f"{span.file}: holds U+{ord(char):04X} ({name}) behind {behind!r}"
            if not expanded and (found := unexpanded(text)):
                yield f"{span.file}: {found} is drawn as it stands: `choices: true` would expand it"

    def too_long(self) -> str:
        """One sentence about a prompt that is too long; empty when it fits."""
        if not self.over_by:
            return ""
        longest = self.longest
        return (
            f"{len(self.prompt):,} characters, {self.over_by:,} over the limit of {self.limit:,}: "
            f"shorten the longest block, {longest.block} ({longest.file}, "
            f"{longest.length:,} characters)"
        )


def assemble(pack: Pack, parts: Parts) -> Assembled:
    """Join the blocks of one prompt in the pack's order; empty blocks leave no separator.

    Behind a block that ends a sentence the default separator is a blank.
    """
    prompt = ""
    spans: list[Span] = []
    for part in pack.order:
        block: Block | None = getattr(parts, part)
        if block is None or not block.text:
            continue
        if spans:
            ended = pack.separator == ", " and _SENTENCE_END.search(prompt)
            prompt += " " if ended else pack.separator
        spans.append(Span(part, block.file, len(prompt), len(prompt) + len(block.text)))
        prompt += block.text
    return Assembled(prompt, tuple(spans), pack.max_chars)


def compose(
    pack: Pack, parts: Parts, forbidden: tuple[Term, ...], languages: tuple[str, ...] = ()
) -> tuple[Assembled, Report]:
    """The prompt of its blocks, and its audit against the settings' and the pack's terms."""
    assembled = assemble(pack, parts)
    terms = terms_for(pack, parts.subject, parts.variable, forbidden)
    return assembled, audit(assembled.prompt, terms, assembled.spans, languages)
