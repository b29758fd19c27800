"""Reads a prompt from left to right and says of every word whether a negation covers it.

ConText's shape (cues that open, turn and end a scope) with scopes that fit image prompts: the
noun phrase after a cue, then its list. One pass; what is unsure counts as not covered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from composer.audit import words as w
from composer.audit.cues import ALMOST, COMMANDS_WITH_ARTICLE, WRITING, Cue, Effect, cue_at
from composer.audit.items import Item, cut_items, shape_of
from composer.audit.tokens import Kind, Token


@dataclass(frozen=True, slots=True)
class Mark:
    """What the reader says of one word: covered or not, by which cue, and by which rule."""

    negated: bool
    rule: str
    cue: str


@dataclass
class _Scope:
    """The scope that is open: a negation, or an affirmation that remembers why."""

    negated: bool
    rule: str
    cue: str
    effect: Effect
    item: int
    depth: int
    verbal: bool = False
    listed: bool = False  # a list with a colon: everything up to the border
    noun_seen: bool = False
    outside: bool = False  # in a place that is taken for granted: "on the label"
    flaw: str = ""
    determined: bool = False
    all_bare: bool = True
    handled: bool = False  # "do not cover the label with X": X is negated again


_NOUN_NEGATORS = frozenset("no zero nary nobody noone neither nor".split())
_UNIVERSAL = frozenset("everything anything all everyone anyone anywhere every each".split())
_SIGNS = frozenset("sign signs symbol poster sticker notice plate placard zone board label".split())
_ANNOUNCED = frozenset("following these elements things items list below this include".split())
_POLITE = frozenset(
    "please then also just simply always kindly now must should will can but and or may".split()
)
_AUXILIARY = frozenset(
    "be been being is are was were do does did to it you we they there have has had get".split()
)


class Reader:
    """One reading of one prompt; `marks` has an entry for every token."""

    def __init__(self, tokens: Sequence[Token], mentioned: Collection[int]) -> None:
        self.tokens = tokens
        self.mentioned = mentioned
        self.cues: Mapping[int, tuple[Cue, int]] = find_cues(tokens, mentioned)
        self.items: list[Item] = cut_items(tokens, mentioned, self.cues)
        self.marks: list[Mark | None] = [None] * len(tokens)
        self.scope: _Scope | None = None
        self.depth = 0
        self.universal = -100
        self.quotes: list[tuple[str, bool, _Scope | None]] = []

    def read(self) -> list[Mark | None]:
        """Read the whole prompt."""
        starts = {item.start: number for number, item in enumerate(self.items)}
        self.number = 0
        skip = 0
        for index, token in enumerate(self.tokens):
            if index in starts:
                self.number = starts[index]
                self._enter_item(self.items[self.number])
            if token.kind is not Kind.WORD:
                self._at_mark(index, token)
                continue
            if index < skip:
                continue
            found = self.cues.get(index)
            if found and self._apply(found[0], index, found[1]):
                skip = found[1]
                self._mark(index, skip)
            else:
                self._at_word(index, token.text)
                self._mark(index, index + 1)
        return self.marks

    def _mark(self, start: int, end: int) -> None:
        scope = self.scope
        if scope is None:
            return
        if scope.negated and scope.outside:
            mark = Mark(False, "presupposed", scope.cue)
        else:
            mark = Mark(scope.negated, scope.rule, scope.cue)
        for index in range(start, end):
            self.marks[index] = mark

    # Marks and items

    def _at_mark(self, index: int, token: Token) -> None:
        kind = token.kind
        if kind is Kind.QUOTE:
            self._at_quote(index, token)
        elif kind is Kind.OPEN:
            self.depth += 1
        elif kind is Kind.CLOSE:
            self.depth = max(0, self.depth - 1)
            if self.scope and self.scope.depth > self.depth:
                self.scope = None
        elif kind is Kind.COLON:
            scope = self.scope
            opens = scope is not None and scope.negated and not scope.noun_seen
            if scope is not None and opens:
                scope.listed, scope.rule = True, "negative-list"
            else:
                self.scope = None
        elif kind is Kind.FLAG:
            self.scope = None
            if token.text == "--no":
                self._open(Effect.LIST, "--no", index, rule="negative-list", listed=True)
        elif kind is Kind.LINE:
            if not (self.scope and self.scope.listed and self._bullet(index + 1)):
                self.scope = None
        elif kind is Kind.END and not (self._bullet(index) and self.scope and self.scope.listed):
            self.scope = None
        if self.scope is None and kind in (Kind.END, Kind.LINE):
            self.universal = -100

    def _bullet(self, index: int) -> bool:
        """Whether a line goes on with a bulleted list."""
        if index >= len(self.tokens) or index == 0:
            return False
        if self.tokens[index - 1].kind is not Kind.LINE:
            return False
        return self.tokens[index].text in ("-", "*", "•", "·", "+", "–")

    def _at_quote(self, index: int, token: Token) -> None:
        if self.quotes and self.quotes[-1][0] == token.text:
            self.scope = self.quotes.pop()[2]
            return
        before = self.tokens[index - 1] if index else None
        if token.text == "'" and before is not None and before.end == token.start:
            if before.kind is Kind.WORD:
                return  # a possessive: artists' logo
        written = any(
            t.kind is Kind.WORD and t.text in WRITING for t in self.tokens[max(0, index - 3) : index]
        )
        self.quotes.append((token.text, written, self.scope))

    def _enter_item(self, item: Item) -> None:
        scope = self.scope
        if scope is None or item.joined in ("border", "open"):
            return
        if not scope.negated:
            return
        if self._goes_on(scope, item):
            scope.outside = False
            if item.joined in ("comma", "and", "or") and not scope.listed and scope.noun_seen:
                scope.rule = "list" if scope.effect is not Effect.INSTEAD else scope.rule
            scope.all_bare = scope.all_bare and item.shape.bare
        else:
            rule = "presupposed" if scope.outside else "list-end"
            self.scope = _Scope(False, rule, scope.cue, scope.effect, -1, self.depth)

    def _goes_on(self, scope: _Scope, item: Item) -> bool:
        """Whether a negated list reaches the item that begins here."""
        shape, closed = item.shape, item.closed
        if scope.listed or item.joined == "close" or item.opener is Effect.INCLUDE:
            return True
        if scope.verbal and not scope.noun_seen and item.joined != "comma":
            return True  # "do not show or print X"
        first = self.tokens[item.start].text
        if scope.outside and item.joined != "comma":
            return first == "any"
        if item.joined == "or":
            return not shape.command or scope.verbal
        if shape.command or shape.acts:
            return False
        if item.joined == "and":
            if shape.determined:
                return scope.determined and not shape.described and not shape.placed and not closed
            return not shape.described
        if scope.effect is Effect.INSTEAD:
            return closed == "or" and shape.bare
        if shape.determined:
            return closed == "or" and scope.determined
        if shape.described:
            return closed == "or"
        if not shape.bare:
            return bool(closed)
        return bool(closed) or scope.all_bare

    # Cues

    def _open(
        self, effect: Effect, cue: str, after: int, rule: str = "negated", listed: bool = False
    ) -> None:
        end = self.items[self.number].end if self.items else after
        shape = shape_of(self.tokens, after, end, self.mentioned)
        verbal = effect is Effect.NOT and cue.split()[0] not in _NOUN_NEGATORS
        self.scope = _Scope(
            True, rule, cue, effect, self.number, self.depth, verbal, listed,
            determined=shape.determined,
            all_bare=shape.nouns > 0
            and not (shape.determined or shape.described or shape.acts or shape.placed),
        )  # fmt: skip

    def _affirm(self, rule: str, cue: str, item: int | None = None, handled: bool = False) -> None:
        self.scope = _Scope(
            False, rule, cue, Effect.AFFIRM, self.number if item is None else item, self.depth,
            handled=handled,
        )  # fmt: skip

    def _apply(self, cue: Cue, index: int, end: int) -> bool:
        """Let a cue act; False when it is no cue here and its words are just words."""
        effect, text = cue.effect, " ".join(cue.words)
        if self.quotes and self.quotes[-1][1] and effect not in (Effect.STOP, Effect.INCLUDE):
            return False
        if effect is not Effect.AFFIRM and self._glued(index, end):
            return False
        if effect is Effect.AFFIRM:
            self._affirm("pseudo", text)
            return True
        if effect in (Effect.NOT, Effect.WITHOUT) and self._weakened(cue, index, end):
            return True
        scope = self.scope
        same = scope is not None and scope.item == self.number
        negated = scope is not None and scope.negated and same
        doubled = scope is not None and not scope.negated and scope.rule == "double-negation"
        if effect is Effect.STOP:
            return self._stop(text, index)
        if effect is Effect.EXCEPT:
            return self._except(text, index, end)
        if effect is Effect.INSTEAD:
            self._open(effect, text, end, rule="replacement")
            return True
        if effect is Effect.LIST:
            if end < len(self.tokens) and self.tokens[end].kind is Kind.COLON:
                self._open(effect, text, end, rule="negative-list")
                return True
            return False
        if effect is Effect.INCLUDE:
            if scope is None or not scope.negated or scope.listed:
                return False
            scope.all_bare, scope.outside, scope.rule = True, False, "list"
            return True
        if effect is Effect.NOT:
            return self._negate(text, index, end, negated)
        if effect is Effect.HANDLE:
            return self._handle(text, index, end, negated, doubled and same)
        return self._turn_around(cue, text, index, end, negated, doubled, same)

    def _glued(self, index: int, end: int) -> bool:
        before = index > 0 and self.tokens[index - 1].kind is Kind.HYPHEN
        return before or (end < len(self.tokens) and self.tokens[end].kind is Kind.HYPHEN)

    def _weakened(self, cue: Cue, index: int, end: int) -> bool:
        """Whether a negator is none here: almost no X, No. 3, no bigger than X, no smoking sign."""
        after = [t for t in self.tokens[end : end + 2] if t.kind is Kind.WORD]
        words = [t.text for t in after] + ["", ""]
        rule = ""
        if index and self.tokens[index - 1].text in ALMOST:
            rule = "almost"
        elif cue.words in (("no",), ("minus",)) and words[0].isdigit():
            rule = "number"
        elif cue.words == ("no",) and words[1] == "than":
            rule = "comparison"
        elif cue.words == ("no",) and words[1] in _SIGNS and (
            words[0].endswith("ing") or words[0] in ("entry", "trespass", "vacancy", "exit")
        ):
            rule = "sign"
        if rule:
            self._affirm("pseudo", " ".join((*cue.words, words[0])).strip())
        return bool(rule)

    def _negate(self, text: str, index: int, end: int, negated: bool) -> bool:
        scope = self.scope
        if text == "no" and end < len(self.tokens) and self.tokens[end].kind is Kind.COMMA:
            return True  # "no, ..." is an answer, not a negated noun
        if negated and scope is not None:
            if scope.effect is Effect.NOT and not scope.noun_seen:
                return True  # "no no X" is emphasis
            if scope.effect in (Effect.WITHOUT, Effect.ORDER) and not scope.noun_seen:
                if text != "any":
                    self._affirm("double-negation", f"{scope.cue} {text}")
                    return True
        listed = scope is not None and scope.negated and scope.listed
        if listed:
            return True  # "Negative prompt: no text" still lists text
        self._open(Effect.NOT, text, end)
        return True

    def _handle(self, text: str, index: int, end: int, negated: bool, doubled: bool) -> bool:
        """A verb that needs its object: under a negation the object is there."""
        scope = self.scope
        if scope is None or scope.listed:
            return False
        if doubled:
            scope.handled = True
            return True
        if not negated or scope.noun_seen:
            return False
        gerund = text.endswith("ing")
        followed = end < len(self.tokens) and self.tokens[end].kind is Kind.WORD
        if not scope.verbal and not (gerund and followed):
            return False
        self._affirm("double-negation", f"{scope.cue} {text}", handled=True)
        return True

    def _turn_around(
        self, cue: Cue, text: str, index: int, end: int, negated: bool, doubled: bool, same: bool
    ) -> bool:
        """Cues that negate alone and affirm under another negation."""
        scope = self.scope
        command = cue.effect is Effect.ORDER or cue.words[0] in (
            "avoid", "omit", "exclude", "excludes", "eliminate"
        )  # fmt: skip
        if scope is not None and negated and not scope.listed:
            if not (command and scope.noun_seen):
                self._affirm("double-negation", f"{scope.cue} {text}")
                return True
        elif scope is not None and doubled and same:
            self._open(cue.effect, f"{scope.cue} {text}", end, rule="double-negation")
            return True
        elif doubled and command and index == self.items[self.number].start:
            return True  # "do not crop, hide or remove X" goes on
        elif scope is not None and scope.negated and scope.verbal and command:
            if self.items[self.number].joined == "or":
                self._affirm("double-negation", f"{scope.cue} {text}")
                return True
        if cue.effect is Effect.INVERT:
            return False
        if scope is not None and scope.negated and scope.listed:
            return False
        if cue.effect is Effect.ORDER and not self._is_order(text, index, end):
            return False
        self._open(cue.effect, text, end)
        return True

    def _is_order(self, text: str, index: int, end: int) -> bool:
        """Whether "remove" is a wish of the author: not "a man removing posters"."""
        after = self.tokens[end].text if end < len(self.tokens) else ""
        if text in COMMANDS_WITH_ARTICLE and after not in ("the", "any", "all", "every", "a", "an"):
            return False
        before = self.tokens[index - 1] if index else None
        if before is None or before.kind in (Kind.END, Kind.LINE, Kind.COLON, Kind.OPEN, Kind.QUOTE):
            return True
        if text.split()[0].endswith("ing"):
            return before.text == "by" or after in ("all", "any", "every")
        if before.kind is Kind.WORD:
            if before.text == "to":
                return index > 1 and self.tokens[index - 2].text in (
                    "sure", "remember", "try", "need", "want", "have", "careful", "forget"
                )  # fmt: skip
            return before.text in _POLITE or before.text.endswith("ly")
        return before.kind in (Kind.COMMA, Kind.SLASH, Kind.AND)

    def _stop(self, text: str, index: int) -> bool:
        scope = self.scope
        if text == "but" and self._universal_before(index, 4):
            self._open(Effect.EXCEPT, f"{self.tokens[self.universal].text} but", index + 1, "exception")
            return True
        if scope is None:
            return False
        if not scope.negated:
            if scope.handled and text == "with":
                self._open(Effect.WITHOUT, scope.cue, index + 1)
            return False
        if text in ("with", "as", "so", "when", "where", "if") and scope.listed:
            return False
        if text == "with" and not scope.noun_seen:
            return False  # "not covered with X"
        self._affirm("terminator", text)
        return True

    def _universal_before(self, index: int, reach: int) -> bool:
        word = self.tokens[self.universal].text if self.universal >= 0 else ""
        if self.scope is not None and self.scope.negated:
            return False
        near = index - self.universal <= (1 if word in ("all", "every", "each") else reach)
        return self.universal >= 0 and near

    def _except(self, text: str, index: int, end: int) -> bool:
        if self.scope is not None and self.scope.negated:
            self._affirm("exception", text)
            return True
        if self.universal >= 0 and index - self.universal <= 8:
            self._open(Effect.EXCEPT, f"{self.tokens[self.universal].text} {text}", end, "exception")
            return True
        return False

    # Plain words

    def _at_word(self, index: int, text: str) -> None:
        if text in _UNIVERSAL:
            self.universal = index
        scope = self.scope
        if scope is None or not scope.negated or scope.listed or scope.outside:
            return
        if index in self.mentioned:
            scope.noun_seen = True
            return
        following = self._next_words(index, 3)
        after = following[0] if following else ""
        if not scope.noun_seen and self._some_left(text, after, scope):
            self._affirm("pseudo", f"{scope.cue} {text}")
        elif text in w.PREPOSITIONS or text == "to":
            scope.outside = self._taken_for_granted(text, following, scope)
        elif text in w.SHOW_VERBS and not scope.noun_seen:
            return
        elif not scope.noun_seen and text in w.CHANGES and not scope.verbal:
            scope.noun_seen, scope.flaw = True, "change"
        elif self._unknown_verb(text, after, scope):
            scope.outside = True
        elif text not in w.DETERMINERS | w.FILLERS | _AUXILIARY | _ANNOUNCED and text != "any":
            if scope.verbal and w.is_ing(text):
                return
            if not w.is_adjective(text) and text not in w.LIST_ADJECTIVES:
                if not scope.noun_seen and text in w.PRESUPPOSING:
                    scope.flaw = "flaw"
                scope.noun_seen = True

    def _next_words(self, index: int, count: int) -> list[str]:
        found: list[str] = []
        for token in self.tokens[index + 1 : index + 1 + count]:
            if token.kind is not Kind.WORD:
                break
            found.append(token.text)
        return found

    def _some_left(self, text: str, after: str, scope: _Scope) -> bool:
        if text in ("all", "every"):
            return scope.verbal
        return text in w.QUANTITY or (text == "a" and after in ("lot", "ton", "bunch", "few"))

    def _taken_for_granted(self, text: str, following: Sequence[str], scope: _Scope) -> bool:
        """Whether what comes after a preposition is there anyway: "no glare on the label"."""
        if not following or following[0] == "any":
            return False
        if scope.flaw == "change" or (scope.flaw and text in w.LOCATIVE):
            return True
        if text in w.OF_LIKE:
            return False
        named = any(word.endswith("'s") for word in following)
        definite = named or following[0] in w.DEFINITE or following[0] in w.NUMBERS
        return definite or (following[0] in w.ARTICLES and text in w.LOCATIVE and text != "to")

    def _unknown_verb(self, text: str, after: str, scope: _Scope) -> bool:
        """A verb that may need its object: "without dominating the label" keeps the label."""
        if scope.noun_seen or after not in w.DEFINITE:
            return False
        if text in w.DETERMINERS | w.FILLERS | _AUXILIARY | w.SHOW_VERBS or w.is_adjective(text):
            return False
        return w.is_ing(text) or scope.verbal


def find_cues(
    tokens: Sequence[Token], mentioned: Collection[int]
) -> dict[int, tuple[Cue, int]]:
    """All cues, longest first at each place, none inside another or inside a mention."""
    found: dict[int, tuple[Cue, int]] = {}
    skip = 0
    for index, token in enumerate(tokens):
        if token.kind is not Kind.WORD or index < skip:
            continue
        hit = cue_at(tokens, index)
        if hit is None or (index in mentioned and all(i in mentioned for i in range(index, hit[1]))):
            continue
        found[index] = hit
        skip = hit[1]
    return found
