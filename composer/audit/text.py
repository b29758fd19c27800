"""A prompt's tokens with what is known of each word: its classes, and whether terms occur there."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from composer.audit.lexicon import Lexicon
from composer.audit.tokens import WORDS, Kind, Token, word_at

_JOINS = {Kind.COMMA: "comma", Kind.SLASH: "or", Kind.AND: "and"}


@dataclass(frozen=True, slots=True)
class Text:
    """The tokens of a prompt, and the indices of those that belong to mentions."""

    tokens: Sequence[Token]
    mentioned: frozenset[int]
    lexicon: Lexicon

    def word(self, index: int) -> str:
        """The text of a token if it is a word, else empty."""
        return word_at(self.tokens, index)

    def kinds(self, index: int) -> frozenset[str]:
        """The classes of the word at a token."""
        return self.lexicon.kinds(word_at(self.tokens, index))

    def mark(self, index: int) -> Kind:
        """The kind of a token; a border where there is none."""
        return self.tokens[index].kind if 0 <= index < len(self.tokens) else Kind.END

    def joins(self, index: int) -> str:
        """How a token joins two items: comma, and, or; empty if it does not."""
        mark = self.mark(index)
        if mark is not Kind.WORD:
            return _JOINS.get(mark, "")
        kinds = self.kinds(index)
        return "and" if "join_and" in kinds else "or" if "join_or" in kinds else ""

    def words_after(self, index: int, count: int) -> list[str]:
        """Up to `count` words that follow a token without a mark between them."""
        following = self.tokens[index + 1 : index + 1 + count]
        return [token.text for token in takewhile(lambda t: t.kind in WORDS, following)]
