"""Finds negations in or after a mention: "text-free", "logo: none", "labels are not shown".

They apply only where the mention is the subject: "people not looking" does not negate the people.
Each search forward or back is bounded, so that the cost stays linear.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from composer.audit.items import is_join
from composer.audit.lexicon import Lexicon
from composer.audit.reading import Mark
from composer.audit.terms import Mention
from composer.audit.tokens import WORDS, Kind, Token, word_at

_WORDS_BESIDE = 3
"""So many words of a compound before a mention, or of a list after it, an affix reaches."""
_LONGEST = 5
"""So many words the longest predicate has."""
_PREFIXES = ("no", "non", "un", "zero", "without", "anti")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A mention and the tokens around it."""

    tokens: Sequence[Token]
    mention: Mention
    lexicon: Lexicon

    def word(self, index: int) -> str:
        """The text of a token if it is a word, else empty."""
        return word_at(self.tokens, index)

    def kinds(self, index: int) -> frozenset[str]:
        """The classes of the word at a token."""
        return self.lexicon.kinds(word_at(self.tokens, index))

    def kind(self, index: int) -> Kind:
        """The kind of a token; a border where there is none."""
        return self.tokens[index].kind if 0 <= index < len(self.tokens) else Kind.END

    def joins(self, index: int) -> bool:
        """Whether a token joins two items."""
        return index < len(self.tokens) and bool(is_join(self.tokens, index, self.lexicon))

    def ends(self, index: int) -> bool:
        """Whether a phrase ends at a token."""
        return self.kind(index) not in (*WORDS, Kind.HYPHEN, Kind.SLASH)

    def sees(self, index: int) -> bool:
        """Whether one of the three words after a token is "frame", "picture" or the like."""
        return any("visibility" in self.kinds(at) for at in range(index + 1, index + 4))


def negated_after(near: Surroundings, mark: Mark | None) -> Mark | None:
    """The negation in or after a mention that no scope covers; None if there is none."""
    affix = _affix(near, mark)
    if affix:
        return affix
    before = near.word(near.mention.first - 1)
    if mark is not None and mark.rule == "pseudo" and mark.cue == f"not {before}":
        return None  # "not every logo is removed"
    places = _predicates(near)
    for at in places:
        if answer := _answer_at(near, at):
            return Mark(True, "after", answer)
    for at in places:
        finite, words = _says_absent(near, at)
        if words and _is_subject(near, finite):
            return Mark(True, "after", words)
    return None


def affirmed_after(near: Surroundings, mark: Mark) -> Mark | None:
    """The double negation of a covered mention: "not label-free", "let no label be hidden"."""
    cue, last = mark.cue.split()[0], near.mention.last
    both = ""
    if _free_after(near) and cue not in ("no", "avoid"):
        both = "-free"
    elif cue not in ("no", "without") and _is_let(near):
        both = "let"
    elif "lost" in near.kinds(last) and "harmed" in near.kinds(last) and cue in ("no", "not"):
        both = f"… {near.word(last)}"
    elif near.word(last) in ("be", "get", "become") and "lost" in near.kinds(last + 1):
        both = f"{near.word(last)} {near.word(last + 1)}"
    return Mark(False, "double-negation", f"{mark.cue} {both}") if both else None


def _is_let(near: Surroundings) -> bool:
    """Whether "let" affirms a mention: "don't let the dog leave", not "don't let a dog appear"."""
    first, last = near.mention.first, near.mention.last
    is_let = any(near.word(at) in ("let", "letting") for at in range(first - 3, first))
    appears = near.word(last) in ("", "be", "in", "into") or "present" in near.kinds(last)
    return is_let and not appears


def _affix(near: Surroundings, mark: Mark | None) -> Mark | None:
    """A negating prefix or suffix: "text-free", "non-stick"."""
    first = near.mention.first
    if mark is not None and not mark.negated and mark.rule == "double-negation":
        return None
    compound = [first]
    while len(compound) <= _WORDS_BESIDE and near.kind(compound[-1] - 1) is Kind.HYPHEN:
        compound.append(compound[-1] - 2)
    cue = _free_after(near)
    if cue:
        before = compound[-1] - 1
        weak = "almost" in near.kinds(before) or near.word(before) in ("not", "never")
        return None if weak else Mark(True, "affix", cue)
    for at in compound[1:]:  # no-price-tag, non-stick
        if near.word(at) in _PREFIXES:
            return Mark(True, "affix", f"{near.word(at)}-")
    return Mark(True, "affix", "non") if near.word(first - 1) == "non" else None


def _free_after(near: Surroundings) -> str:
    """The "-free" or "-less" after a mention, also after the first one of "logo- and text-free"."""
    last = near.mention.last
    if near.kind(last) is Kind.HYPHEN:
        if "suffix" in near.kinds(last + 1):
            return "" if near.kind(last + 2) is Kind.HYPHEN else f"-{near.word(last + 1)}"
        return _suspended(near, last + 1) if near.joins(last + 1) else ""
    if near.kind(last) is Kind.SLASH and near.word(last + 1):
        return _suspended(near, last)
    if near.word(last) == "free" and near.kind(last + 1) is not Kind.HYPHEN:
        return "" if "not_free" in near.kinds(last + 1) else "free"
    return ""


def _suspended(near: Surroundings, at: int) -> str:
    # Each word of the list brings its hyphen and a comma or a conjunction.
    for index in range(at, min(at + 3 * _WORDS_BESIDE, len(near.tokens))):
        kind, text = near.kind(index), near.tokens[index].text
        if kind is Kind.HYPHEN and "suffix" in near.kinds(index + 1):
            return f"-{near.word(index + 1)}"
        joins = near.joins(index) or kind is Kind.HYPHEN
        if not joins and (kind is not Kind.WORD or text in ("free", "with")):
            return ""
    return ""


def _answer_at(near: Surroundings, at: int) -> str:
    """A negative answer after a mention: "logo: none", "logos? no", "text - none"."""
    mark = near.tokens[at].text if at < len(near.tokens) else ""
    if mark == "," and near.word(at + 1) == "none":
        at += 1
    elif mark in (":", "=", "?", "-", "–", "—") and near.kind(at) is not Kind.HYPHEN:
        at += 1
    elif near.word(at) not in ("none", "nope"):
        return ""
    answer = near.word(at)
    if answer in ("not", "absolutely"):
        follows = near.word(at + 1) in ("any", "not", "at") or "present" in near.kinds(at + 1)
        return f"{mark} {answer} {near.word(at + 1)}" if follows else ""
    ends = near.ends(at + 1) or "emphasis" in near.kinds(at + 1)
    return f"{mark} {answer}".strip() if "answer" in near.kinds(at) and ends else ""


def _predicates(near: Surroundings) -> list[int]:
    """Where the predicate of a subject may begin: after nouns, a place, or other subjects."""
    at = near.mention.last
    places, nouns, limit = [at], 0, min(at + 14, len(near.tokens))
    while at < limit:
        kinds = near.kinds(at)
        if near.joins(at):
            # After a noun: the word after the mention may be its verb.
            if nouns or not _joined_subject(near, at, limit):
                break
            while at < limit and (near.joins(at) or near.word(at) in ("the", "any")):
                at += 1
            while at < limit and _is_noun(near, at):
                at += 1
            places.append(at)
        elif "preposition" in kinds:
            at += 1
            plain = {"any", "kind", "sort"}
            while at < limit and (
                _is_noun(near, at) or "determiner" in near.kinds(at) or near.word(at) in plain
            ):
                at += 1
            places.append(at)
            nouns = 0
        elif _is_noun(near, at) and nouns <= 1:
            nouns += 1
            at += 1
            places.append(at)
        else:
            break
    return places


_NO_NOUNS = {"gone", "gone_at_end", "negator", "auxiliary", "preposition", "with", "ing", "ed"} | {
    "determiner"
}


def _is_noun(near: Surroundings, at: int) -> bool:
    text = near.word(at)
    if not text or text in ("no", "left", "out", "but", "and", "or"):
        return False
    return not near.lexicon.kinds(text) & _NO_NOUNS


def _joined_subject(near: Surroundings, at: int, limit: int) -> bool:
    """Whether a list of subjects ends with a conjunction, as in "A, B and C"."""
    for index in range(at, limit):
        slash = near.kind(index) in (Kind.AND, Kind.SLASH)
        if slash or near.kinds(index) & {"join_or", "join_and"} and near.word(index) != "plus":
            return near.word(index + 1) not in ("a", "an", "one", "some")
        if not (near.joins(index) or _is_noun(near, index) or near.word(index) == "the"):
            return False
    return False


def _says_absent(near: Surroundings, at: int) -> tuple[bool, str]:
    """Whether the words from `at` on mean absence: (with a finite verb, the words or empty)."""
    index, negator, longer, finite = at, "", False, False
    while index < min(at + 7, len(near.tokens)):
        text, kinds = near.word(index), near.kinds(index)
        no_longer = text == "no" and near.word(index + 1) == "longer"
        if near.joins(index) and "auxiliary" not in kinds:
            break
        if "negator" in kinds or no_longer:
            if next(_gone_at(near, index), ""):
                break
            if negator:
                return False, ""
            negator = text
            finite = finite or text not in ("not", "never", "no")
            longer = longer or no_longer
            index += no_longer
        elif "degree" in kinds and negator:
            return False, ""  # "not fully visible"
        elif "degree" in kinds or text.endswith("ly"):
            pass
        elif "auxiliary" in kinds and not (negator and "present" in kinds):
            finite = finite or text not in ("that", "which", "who", "all", "both", "to")
        else:
            break
        index += 1
    text, kinds = near.word(index), near.kinds(index)
    words = " ".join(near.word(i) for i in range(at, min(index + 1, len(near.tokens)))).strip()
    if negator:
        seen = "present" in kinds or (text in ("in", "within") and near.sees(index))
        return finite, words if seen or text in ("to", "anywhere") else ""
    if gone := next(_gone_at(near, index), ""):
        words = " ".join((*(near.word(i) for i in range(at, index)), gone))
        return finite and text != "nowhere", words
    kept = _kept(near)
    if "gone_at_end" in kinds and near.ends(index + 1):
        return False, words if text != "out" or kept else ""
    if text in ("out", "off", "outside", "hidden", "away") and near.sees(index):
        return finite, words if kept is not False else ""
    return False, ""


def _gone_at(near: Surroundings, index: int) -> Iterator[str]:
    """The predicates of absence that begin at a token: "removed", "out of the question"."""
    words: list[str] = []
    for at in range(index, len(near.tokens)):
        if near.kind(at) is Kind.HYPHEN and words:
            continue
        if not near.word(at) or len(words) == _LONGEST:
            return
        words.append(near.word(at))
        if "gone" in near.lexicon.kinds(" ".join(words)):
            yield " ".join(words)


def _kept(near: Surroundings) -> bool | None:
    """Whether a verb such as "leave" before the mention is not negated; None if there is none."""
    first = near.mention.first
    for index in range(first - 1, first - 5, -1):
        if "keep" in near.kinds(index):
            before = (index - 1, index - 2)
            avoided = any(near.word(at) in ("no", "avoid", "without") for at in before)
            return not avoided and not any("negator" in near.kinds(at) for at in before)
    return None


def _is_subject(near: Surroundings, finite: bool) -> bool:
    """Whether a mention is no object of the words before it: "glare on the label is not shown"."""
    first = near.mention.first
    for index in range(first - 1, max(-1, first - 7), -1):
        if near.kind(index) is Kind.HYPHEN:
            continue
        text, kinds = near.word(index), near.kinds(index)
        if not text or near.joins(index):
            return True
        if "with" in kinds:
            return not finite
        if "preposition" in kinds:
            return text in ("for", "about") or near.word(index - 1) in ("kind", "any", "sort")
        if "ing" in kinds and not kinds & {"show", "keep"}:
            return False
    return True
