"""Decides for every word of a prompt whether a negation covers it, in one pass from left to right.

The method is that of ConText (cues begin, invert and end a scope), with scopes for image prompts:
the noun phrase after a cue, then its list. A word counts as not covered where this is uncertain.
"""

from dataclasses import dataclass, replace

from composer.audit.lexicon import Effect
from composer.audit.reading import Item, Reading
from composer.audit.tokens import DASHES, WORDS, Kind, Token
from composer.audit.turns import Scope, after_cue, after_word, ended, negation

_NEVER = -100


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
class _Level:
    """An open bracket or quotation mark: the scope around it, and the level that it is in."""

    mark: str
    scope: Scope | None
    outer: "_Level | None"
    drawn: bool = False  # quoted words that are drawn literally


@dataclass(frozen=True, slots=True)
class _State:
    """The state of the pass between two tokens."""

    scope: Scope | None = None
    universal: int = _NEVER  # the last token such as "everything" or "anything"
    brackets: _Level | None = None
    quotes: _Level | None = None


def find_marks(reading: Reading) -> list[Mark | None]:
    """One mark for every token; None where no cue applies."""
    marks: list[Mark | None] = [None] * len(reading.tokens)
    state, skip = _State(), 0
    for index, token in enumerate(reading.tokens):
        item = reading.items[reading.numbers[index]] if reading.items else None
        if item and item.start == index and (scope := state.scope) is not None and scope.negated:
            state = replace(state, scope=_in_item(reading, scope, item))
        if token.kind not in WORDS:
            state = _after_mark(reading, state, index, token)
        elif index >= skip:
            state, skip = _after_word(reading, state, index)
            if state.scope is not None:
                marks[index:skip] = [_mark(state.scope)] * (skip - index)
    return marks


def _mark(scope: Scope) -> Mark:
    if scope.negated and scope.outside:
        return Mark(False, "presupposed", scope.cue)
    return Mark(scope.negated, scope.rule, scope.cue, scope.ended)


def _after_word(reading: Reading, state: _State, index: int) -> tuple[_State, int]:
    """The state after the cue or the word at a token, and the token after it."""
    if index in reading.cues:
        drawn = state.quotes is not None and state.quotes.drawn
        effective = not drawn or reading.cues[index].effect in (Effect.STOP, Effect.INCLUDE)
        scope = after_cue(reading, state.scope, index, state.universal) if effective else None
        if scope is not None:
            return replace(state, scope=scope), reading.cues[index].end
    elif reading.tokens[index].kind is Kind.SYMBOL and index not in reading.mentioned:
        return state, index + 1
    if "universal" in reading.kinds(index):
        state = replace(state, universal=index)
    if state.scope is not None:
        scope = after_word(reading, state.scope, index)
        if scope is not state.scope:
            state = replace(state, scope=scope)
    return state, index + 1


def _after_mark(reading: Reading, state: _State, index: int, token: Token) -> _State:
    kind, scope = token.kind, state.scope
    listing = scope is not None and scope.negated and scope.listed
    if kind is Kind.QUOTE:
        return _after_quote(reading, state, index, token)
    if kind is Kind.OPEN:
        return replace(state, brackets=_Level(token.text, scope, state.brackets))
    if kind is Kind.CLOSE:
        level = state.brackets
        return replace(state, scope=level.scope, brackets=level.outer) if level else state
    if kind is Kind.COLON:
        return replace(state, scope=None if listing else _listed(scope))  # or another list begins
    if kind is Kind.FLAG:
        opened = token.text == "--no"
        no = negation(reading, index, Effect.LIST, "--no", index, "negative-list")
        return replace(state, scope=replace(no, listed=True) if opened else None)
    if kind not in (Kind.LINE, Kind.END, Kind.SEMICOLON):
        return state
    bullet = reading.is_bullet(index + 1)
    bulleted = bullet or reading.is_bullet(index) or reading.is_bullet(index - 1)
    goes_on = listing and (kind is Kind.SEMICOLON or bulleted)
    titled = scope is not None and scope.effect in (Effect.WITHOUT, Effect.LIST)
    begun = _listed(scope) if titled and (bullet or token.text in DASHES) else None
    if begun and not goes_on:
        return replace(state, scope=begun)
    hesitates = token.text.startswith("..") and scope is not None and scope.start == index
    return state if goes_on or hesitates else replace(state, scope=None, universal=_NEVER)


def _listed(scope: Scope | None) -> Scope | None:
    """The list that begins if a colon or dash follows a negation directly: "Avoid: ..."."""
    if scope is None or not scope.negated or scope.has_noun:
        return None
    return replace(scope, listed=True, rule="negative-list")


def _after_quote(reading: Reading, state: _State, index: int, token: Token) -> _State:
    level = state.quotes
    if level is not None and level.mark == token.text:
        return replace(state, scope=level.scope, quotes=level.outer)
    adjoins = bool(reading.word(index - 1)) and reading.tokens[index - 1].end == token.start
    if token.text == "'" and adjoins:
        return state  # a possessive: artists' logo
    drawn = any("writing" in reading.kinds(at) for at in range(index - 3, index))
    return replace(state, quotes=_Level(token.text, state.scope, level, drawn))


def _in_item(reading: Reading, scope: Scope, item: Item) -> Scope:
    """The negation in the item that begins: it goes on, or it has ended."""
    if not _goes_on(reading, scope, item):
        by = {"open": "bracket", "close": "bracket"}.get(item.joined, item.joined)
        return ended(scope, "presupposed" if scope.outside else "list-end", by)
    if item.joined == "open":
        return replace(scope, all_bare=item.enclosed)
    in_list = scope.has_noun and not scope.listed and scope.effect is not Effect.INSTEAD
    return replace(
        scope,
        outside=False,
        rule="list" if in_list else scope.rule,
        all_bare=scope.all_bare and item.phrase.bare and item.joined not in ("and", "or"),
    )


def _goes_on(reading: Reading, scope: Scope, item: Item) -> bool:
    """Whether a negation extends to the item that begins here."""
    phrase, closed = item.phrase, item.closed
    if item.joined == "semicolon":
        busy = phrase.command or phrase.determined or phrase.acts or phrase.placed
        return scope.listed and not busy
    if item.joined == "open":
        within = scope.listed or not scope.has_noun or item.opener is Effect.INCLUDE
        return within or (item.enclosed and not scope.outside)
    if scope.listed or item.joined == "close" or item.opener is Effect.INCLUDE:
        return True
    # "No large, bold X", "do not show or print X"; two adjectives count as a noun.
    complete = scope.has_noun or scope.adjectives > 1 or (scope.verbal and scope.phrase.described)
    if not complete and not phrase.determined and (scope.verbal or not phrase.command):
        return True
    # "No text on the mug, logos or stamps" continues the list before the place, "no text on the
    # mug, lid or cup" the places.
    leaves_place = item.joined == "comma" and closed and scope.shared and phrase.plural
    if scope.outside and not leaves_place:
        return reading.word(item.start) == "any"
    if item.joined == "or":
        return not phrase.command or scope.verbal
    if phrase.command or phrase.acts or phrase.clausal:
        return False
    if item.joined == "and":
        if phrase.determined:
            placed = phrase.placed and scope.effect is not Effect.ORDER
            return scope.phrase.determined and not (phrase.described or placed or closed)
        return not phrase.described
    if scope.effect is Effect.INSTEAD:
        return closed == "or" and phrase.bare
    if phrase.determined or phrase.described:
        return closed == "or" and (scope.phrase.determined or scope.verbal or not phrase.determined)
    # "Armour, no helmet, spear" are tags: there only what few want goes on the list.
    tag = reading.items[scope.item].joined == "comma" and not closed
    if tag and not any("unwanted" in reading.kinds(at) for at in range(item.start, item.end)):
        return False
    return bool(closed) or (phrase.bare and scope.all_bare)
