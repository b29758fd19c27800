"""The state of one reading: the prompt's tokens, cues and items, and the scope that is open now.

The passes beside this file act on it: `scope` walks, `turns` lets cues act, `plain` weighs the
other words. It holds no rules of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from composer.audit.cues import Cue, Effect
from composer.audit.items import Item, shape_of
from composer.audit.tokens import Kind, Token

_NOUN_NEGATORS = frozenset("no zero nary nobody noone neither nor".split())


@dataclass(frozen=True, slots=True)
class Mark:
    """What the reader says of one word: covered or not, by which cue, and by which rule."""

    negated: bool
    rule: str
    cue: str


@dataclass
class Scope:
    """The scope that is open: a negation, or an affirmation that remembers why."""

    negated: bool
    rule: str
    cue: str
    effect: Effect
    item: int
    verbal: bool = False  # negates a verb first: "do not show X"
    listed: bool = False  # a list with a colon: everything up to the border
    noun_seen: bool = False
    acted: bool = False  # a participle came before any noun: "not smiling"
    outside: bool = False  # in a place that is taken for granted: "on the label"
    shared: bool = False  # that place has an article which further places may share
    flaw: str = ""
    adjectives: int = 0
    determined: bool = False
    described: bool = False
    all_bare: bool = True
    handled: bool = False  # "do not cover the label with X": X is negated again


@dataclass
class Reading:
    """One prompt being read; `number` is the item in hand."""

    tokens: Sequence[Token]
    mentioned: Collection[int]
    cues: Mapping[int, tuple[Cue, int]]
    items: Sequence[Item]
    scope: Scope | None = None
    number: int = 0
    universal: int = -100  # where "everything", "anything" or the like was said last
    outer: list[Scope | None] = field(default_factory=list)  # scopes around open brackets
    quotes: list[tuple[str, bool, Scope | None]] = field(default_factory=list)

    def open(
        self, effect: Effect, cue: str, after: int, rule: str = "negated", listed: bool = False
    ) -> None:
        """Begin a negation whose phrase starts at the token `after`."""
        end = self.items[self.number].end if self.items else after
        shape = shape_of(self.tokens, after, end, self.mentioned)
        busy = shape.determined or shape.described or shape.acts or shape.placed
        self.scope = Scope(
            negated=True,
            rule=rule,
            cue=cue,
            effect=effect,
            item=self.number,
            verbal=effect is Effect.NOT and cue.split()[0] not in _NOUN_NEGATORS,
            listed=listed,
            determined=shape.determined,
            described=shape.described,
            all_bare=shape.nouns > 0 and not busy,
        )

    def affirm(self, rule: str, cue: str, handled: bool = False) -> None:
        """End a negation and remember why."""
        self.scope = Scope(False, rule, cue, Effect.AFFIRM, self.number, handled=handled)

    def word(self, index: int) -> str:
        """The text of a token if it is a word, else nothing."""
        inside = 0 <= index < len(self.tokens) and self.tokens[index].kind is Kind.WORD
        return self.tokens[index].text if inside else ""

    def words_after(self, index: int, count: int) -> list[str]:
        """Up to `count` words that follow a token without a mark between."""
        found: list[str] = []
        for token in self.tokens[index + 1 : index + 1 + count]:
            if token.kind is not Kind.WORD:
                break
            found.append(token.text)
        return found
