"""Decides for every word of a prompt whether a negation covers it, in one pass from left to right.

The method is that of ConText (cues begin, invert and end a scope), with scopes for image prompts:
the noun phrase after a cue, then its list. A word counts as not covered where this is uncertain.
"""

from collections.abc import Collection, Sequence

from composer.audit import plain, turns
from composer.audit import words as w
from composer.audit.cues import WRITING, Cue, Effect, cue_at
from composer.audit.items import Item, cut_items
from composer.audit.reading import Mark, Reading, Scope
from composer.audit.tokens import DASHES, Kind, Token

_BULLETS = ("-", "*", "•", "·", "+")


def read_marks(tokens: Sequence[Token], mentioned: Collection[int]) -> list[Mark | None]:
    """One mark for every token; None where no cue applies."""
    cues = _find_cues(tokens, mentioned)
    items = cut_items(tokens, mentioned, cues)
    reading = Reading(tokens, mentioned, cues, items)
    starts = {item.start: number for number, item in enumerate(items)}
    marks: list[Mark | None] = [None] * len(tokens)
    skip = 0
    for index, token in enumerate(tokens):
        if index in starts:
            reading.number = starts[index]
            _enter_item(reading, items[reading.number])
        if token.kind is not Kind.WORD:
            _at_mark(reading, index, token)
            continue
        if index < skip:
            continue
        skip = index + 1
        found = cues.get(index)
        if found and turns.apply(reading, found[0], index, found[1]):
            skip = found[1]
        else:
            plain.at_word(reading, index, token.text)
        if (scope := reading.scope) is not None:
            mark = Mark(scope.negated, scope.rule, scope.cue)
            if scope.negated and scope.outside:
                mark = Mark(False, "presupposed", scope.cue)
            marks[index:skip] = [mark] * (skip - index)
    return marks


def _find_cues(tokens: Sequence[Token], mentioned: Collection[int]) -> dict[int, tuple[Cue, int]]:
    """The longest cue at each token, as (cue, end); none inside another cue or inside a mention."""
    found: dict[int, tuple[Cue, int]] = {}
    skip = 0
    for index, token in enumerate(tokens):
        if token.kind is not Kind.WORD or index < skip:
            continue
        hit = cue_at(tokens, index) or _un_participle(tokens, index)
        if hit is None or all(place in mentioned for place in range(index, hit[1])):
            continue
        found[index] = hit
        skip = hit[1]
    return found


def _un_participle(tokens: Sequence[Token], index: int) -> tuple[Cue, int] | None:
    """A cue such as "undisturbed by": "un-", a participle, and "by" or "with"."""
    text = tokens[index].text
    if text.startswith("un") and w.is_ed(text) and index + 1 < len(tokens):
        after = tokens[index + 1]
        if after.kind is Kind.WORD and after.text in ("by", "with"):
            return Cue((text, after.text), Effect.WITHOUT), index + 2
    return None


def _at_mark(reading: Reading, index: int, token: Token) -> None:
    kind, scope = token.kind, reading.scope
    listing = scope is not None and scope.negated and scope.listed
    if kind is Kind.QUOTE:
        _at_quote(reading, index, token)
    elif kind is Kind.OPEN:
        reading.outer.append(scope)
    elif kind is Kind.CLOSE:
        if reading.outer:
            reading.scope = reading.outer.pop()
    elif kind is Kind.COLON:
        if not _begins_list(scope):
            reading.scope = None
    elif kind is Kind.FLAG:
        reading.scope = None
        if token.text == "--no":
            reading.open(Effect.LIST, "--no", index, rule="negative-list", listed=True)
    elif kind is Kind.LINE:
        if not (listing and _bullet(reading, index + 1)):
            reading.scope, reading.universal = None, -100
    elif kind is Kind.END:
        goes_on = listing and (_bullet(reading, index) or _bullet(reading, index - 1))
        titled = scope is not None and scope.effect in (Effect.WITHOUT, Effect.LIST)
        announced = token.text in DASHES and titled and _begins_list(scope)
        if not goes_on and not announced:
            reading.scope, reading.universal = None, -100


def _begins_list(scope: Scope | None) -> bool:
    """Begin a list if a colon or dash follows a negation directly: "Avoid: ..."; whether it did."""
    if scope is None or not scope.negated or scope.has_noun:
        return False
    scope.listed, scope.rule = True, "negative-list"
    return True


def _bullet(reading: Reading, index: int) -> bool:
    """Whether a token is the bullet or the number of a list, at the start of a line."""
    tokens = reading.tokens
    if not 0 < index < len(tokens) or tokens[index - 1].kind is not Kind.LINE:
        return False
    numbered = tokens[index].text.isdigit() and index + 1 < len(tokens)
    return tokens[index].text in _BULLETS or (numbered and tokens[index + 1].text in (".", ")"))


def _at_quote(reading: Reading, index: int, token: Token) -> None:
    if reading.quotes and reading.quotes[-1][0] == token.text:
        reading.scope = reading.quotes.pop()[2]
        return
    before = reading.tokens[index - 1] if index else None
    if token.text == "'" and before is not None and before.end == token.start:
        if before.kind is Kind.WORD:
            return  # a possessive: artists' logo
    nearby = reading.tokens[max(0, index - 3) : index]
    written = any(near.kind is Kind.WORD and near.text in WRITING for near in nearby)
    reading.quotes.append((token.text, written, reading.scope))


def _enter_item(reading: Reading, item: Item) -> None:
    scope = reading.scope
    if scope is None or not scope.negated or item.joined in ("border", "open"):
        return
    if _goes_on(reading, scope, item):
        scope.outside = False
        if scope.has_noun and not scope.listed and scope.effect is not Effect.INSTEAD:
            scope.rule = "list"
        scope.all_bare = scope.all_bare and item.phrase.bare
    else:
        rule = "presupposed" if scope.outside else "list-end"
        reading.scope = Scope(False, rule, scope.cue, scope.effect, -1)


def _still_open(scope: Scope) -> bool:
    """Whether the negated phrase has no noun yet: "no large, bold X", "do not show or print X".

    After two adjectives it counts as having one.
    """
    if scope.has_noun or scope.acted or scope.adjectives > 1:
        return False
    return not (scope.verbal and scope.described)


def _goes_on(reading: Reading, scope: Scope, item: Item) -> bool:
    """Whether a negation extends to the item that begins here."""
    phrase, closed = item.phrase, item.closed
    if scope.listed or item.joined == "close" or item.opener is Effect.INCLUDE:
        return True
    if _still_open(scope) and not phrase.determined and (scope.verbal or not phrase.command):
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
            return scope.determined and not phrase.described and not phrase.placed and not closed
        return not phrase.described
    if scope.effect is Effect.INSTEAD:
        return closed == "or" and phrase.bare
    if phrase.determined:
        return closed == "or" and scope.determined
    if phrase.described:
        return closed == "or"
    return bool(closed) or (phrase.bare and scope.all_bare)
