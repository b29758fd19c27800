"""Makes the two tokenizers from the vocabulary; in both each known word is one token.

T5's turns any other word into the unknown token, CLIP's into tokens for its bytes.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5TokenizerFast

from tests.engine.tiny.vocabulary import WORDS

T5_LENGTH = 512
CLIP_LENGTH = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"
_MARKS = (",", ".")


def _spellings() -> dict[str, str]:
    """Every spelling that has its own piece, with its word.

    A normalizer that lowers the case would be simpler, but saving a T5 tokenizer loses it.
    """
    spellings = {word: word for word in WORDS}
    for word in WORDS:
        for spelling in (word.capitalize(), word.upper()):
            spellings.setdefault(spelling, word)
    return spellings


def build_t5_tokenizer() -> T5TokenizerFast:
    """A unigram tokenizer with one piece for each spelling of each word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [(f"▁{spelling}", -2.0) for spelling in _spellings()]
    pieces += [(mark, -2.0) for mark in _MARKS]
    pieces.append(("▁", -4.0))
    return T5TokenizerFast(
        vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=T5_LENGTH
    )


def capital_pairs(tokenizer: T5TokenizerFast) -> list[tuple[int, int]]:
    """The (capitalised, plain) token numbers that must have the same embedding."""
    number = tokenizer.convert_tokens_to_ids
    return [
        (number(f"▁{spelling}"), number(f"▁{word}"))
        for spelling, word in _spellings().items()
        if spelling != word
    ]


def build_clip_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE tokenizer whose merges are learnt from the words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _learn_merges((*WORDS, *_MARKS))
    pieces = [_START, _END, *alphabet, *(f"{symbol}</w>" for symbol in alphabet)]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def _learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merge the most frequent neighbours until every word is one piece; ties go by the alphabet.

    The trainer of the tokenizers library breaks ties randomly, but the token numbers must not
    change from run to run, because the encoders are trained for them.
    """
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while neighbours := Counter(pair for word in pieces for pair in pairwise(word)):
        most = max(neighbours.values())
        merge = min(pair for pair, count in neighbours.items() if count == most)
        merges.append(merge)
        pieces = [_merged(word, merge) for word in pieces]
    return merges


def _merged(word: list[str], merge: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == merge:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
