"""The values of the pass that finds scopes: what was read, the open scope, and the marks.

`composer.audit.scope` runs the pass, `turns` applies the cues and `plain` the other words. All of
them return new values and change none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from composer.audit.items import Item, phrase_of
from composer.audit.lexicon import Cue, Effect
from composer.audit.text import Text


@dataclass(frozen=True, slots=True)
class Mark:
    """The result for one word: whether a negation covers it, and the cue and rule that decided.

    `ended` is what ended the negation of `cue`, where one did.
    """

    negated: bool
    rule: str
    cue: str
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """The open scope: a negation, or an affirmation with the rule and cue that made it one."""

    negated: bool
    rule: str
    cue: str
    effect: Effect
    item: int
    start: int = -1  # the token after the cue
    listed: bool = False  # a list with a colon, which extends to the border
    has_noun: bool = False
    outside: bool = False  # after a preposition, in a place that is presupposed: "on the label"
    shared: bool = False  # that place has a definite article, which later places may share
    flaw: bool = False  # the noun is a flaw or a change, of something that is there: "no glare"
    adjectives: int = 0
    determined: bool = False
    described: bool = False
    all_bare: bool = True
    ended: str = ""

    @property
    def verbal(self) -> bool:
        """Whether the negation is of a verb: "do not show X"."""
        return self.effect is Effect.NOT


@dataclass(frozen=True, slots=True)
class Reading(Text):
    """A prompt as the earlier stages read it; `numbers` has the item of each token."""

    cues: Mapping[int, tuple[Cue, int]]
    items: Sequence[Item]
    numbers: Sequence[int]

    def begins_item(self, index: int) -> bool:
        """Whether an item begins at a token."""
        return index == self.items[self.numbers[index]].start


def negation(
    reading: Reading, at: int, effect: Effect, cue: str, after: int, rule: str = "negated"
) -> Scope:
    """A negation by the cue at the token `at`; its phrase starts at the token `after`."""
    number = reading.numbers[at]
    end = reading.items[number].end if reading.items else after
    # The next cue ends it: phrases that overlap would make many cues in one item slow.
    end = next((place for place in range(after, end) if place in reading.cues), end)
    phrase = phrase_of(reading, after, end)
    busy = phrase.determined or phrase.described or phrase.acts or phrase.placed
    return Scope(
        negated=True,
        rule=rule,
        cue=cue,
        effect=effect,
        item=number,
        start=after,
        determined=phrase.determined,
        described=phrase.described,
        all_bare=phrase.nouns > 0 and not busy,
    )


def affirmation(
    reading: Reading, at: int, rule: str, cue: str, effect: Effect = Effect.AFFIRM
) -> Scope:
    """The end of a negation at a token; it records the rule and cue."""
    return Scope(False, rule, cue, effect, reading.numbers[at])


def ended(scope: Scope, rule: str, by: str) -> Scope:
    """The end of a negation that its own cue does not reach beyond."""
    return replace(Scope(False, rule, scope.cue, scope.effect, -1), ended=by)
