"""The state of one pass over a prompt: its tokens, cues and items, and the open scope.

`composer.audit.scope` runs the pass, `turns` applies the cues and `plain` the other words; this
module has no rules of its own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from composer.audit.cues import Cue, Effect
from composer.audit.items import Item, phrase_of
from composer.audit.tokens import Kind, Token, word_at

_NOUN_NEGATORS = frozenset("no zero nary nobody noone neither nor".split())


@dataclass(frozen=True, slots=True)
class Mark:
    """The result for one word: whether a negation covers it, and the cue and rule that decided."""

    negated: bool
    rule: str
    cue: str


@dataclass
class Scope:
    """The open scope: a negation, or an affirmation with the rule and cue that made it one."""

    negated: bool
    rule: str
    cue: str
    effect: Effect
    item: int
    verbal: bool = False  # the negation is of a verb: "do not show X"
    listed: bool = False  # a list with a colon, which extends to the border
    has_noun: bool = False
    acted: bool = False  # a participle came before any noun: "not smiling"
    outside: bool = False  # after a preposition, in a place that is presupposed: "on the label"
    shared: bool = False  # that place has a definite article, which later places may share
    flaw: str = ""
    adjectives: int = 0
    determined: bool = False
    described: bool = False
    all_bare: bool = True
    handled: bool = False  # "do not cover the label with X": X is negated again


@dataclass
class Reading:
    """The state of the pass; `number` is the index of the current item."""

    tokens: Sequence[Token]
    mentioned: Collection[int]
    cues: Mapping[int, tuple[Cue, int]]
    items: Sequence[Item]
    scope: Scope | None = None
    number: int = 0
    universal: int = -100  # the last token such as "everything" or "anything"
    outer: list[Scope | None] = field(default_factory=list)  # scopes around open brackets
    quotes: list[tuple[str, bool, Scope | None]] = field(default_factory=list)

    def open(
        self, effect: Effect, cue: str, after: int, rule: str = "negated", listed: bool = False
    ) -> None:
        """Begin a negation whose phrase starts at the token `after`."""
        end = self.items[self.number].end if self.items else after
        phrase = phrase_of(self.tokens, after, end, self.mentioned)
        busy = phrase.determined or phrase.described or phrase.acts or phrase.placed
        self.scope = Scope(
            negated=True,
            rule=rule,
            cue=cue,
            effect=effect,
            item=self.number,
            verbal=effect is Effect.NOT and cue.split()[0] not in _NOUN_NEGATORS,
            listed=listed,
            determined=phrase.determined,
            described=phrase.described,
            all_bare=phrase.nouns > 0 and not busy,
        )

    def affirm(self, rule: str, cue: str, handled: bool = False) -> None:
        """End a negation; the new scope records the rule and cue."""
        self.scope = Scope(False, rule, cue, Effect.AFFIRM, self.number, handled=handled)

    def word(self, index: int) -> str:
        """The text of a token if it is a word, else empty."""
        return word_at(self.tokens, index)

    def words_after(self, index: int, count: int) -> list[str]:
        """Up to `count` words that follow a token without a mark between them."""
        following = self.tokens[index + 1 : index + 1 + count]
        return [token.text for token in takewhile(lambda t: t.kind is Kind.WORD, following)]
