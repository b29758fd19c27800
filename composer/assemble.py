"""Joins FIXED + SUBJECT + VARIABLE + EXTRA into one prompt and records which block gave which part.

Blocks are joined unchanged: no template is applied and nothing is cut. A prompt that is too long
is reported together with its longest block.
"""

from dataclasses import dataclass

from composer.audit import Report, Span, Term, audit
from composer.layers import Block
from composer.packs import Pack
from composer.terms import terms_for


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


def assemble(
    pack: Pack, subject: Block, variable: Block | None = None, extra: str = ""
) -> Assembled:
    """Join the blocks of one prompt in the pack's order; empty blocks leave no separator."""
    extra_block = Block("", "(extra)", " ".join(extra.split()))
    blocks = {"fixed": pack.fixed, "subject": subject, "variable": variable, "extra": extra_block}
    prompt = ""
    spans: list[Span] = []
    for part in pack.order:
        block = blocks[part]
        if block is None or not block.text:
            continue
        if spans:
            prompt += pack.separator
        spans.append(Span(part, block.file, len(prompt), len(prompt) + len(block.text)))
        prompt += block.text
    return Assembled(prompt, tuple(spans), pack.max_chars)


def compose(
    pack: Pack,
    subject: Block,
    variable: Block | None,
    extra: str,
    forbidden: tuple[Term, ...],
    languages: tuple[str, ...] = (),
) -> tuple[Assembled, Report]:
    """The prompt of one combination, and its audit against the settings' and the pack's terms."""
    assembled = assemble(pack, subject, variable, extra)
    terms = terms_for(pack, subject, variable, forbidden)
    return assembled, audit(assembled.prompt, terms, assembled.spans, languages)
