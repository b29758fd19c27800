"""Makes the two tokenizers from the vocabulary: one token a known word, in both.

The T5 one reads anything else as "unknown"; the CLIP one spells it out in bytes.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5TokenizerFast

from runner.engine.tiny.vocabulary import WORDS

T5_LENGTH = 512
CLIP_LENGTH = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"
_MARKS = (",", ".")


def _spellings() -> dict[str, str]:
    """Every spelling that has its own piece, and the word it spells.

    A normalizer that lowers the case would be the plain way, but a saved T5 tokenizer forgets it.
    """
    spellings = {word: word for word in WORDS}
    for word in WORDS:
        for spelt in (word.capitalize(), word.upper()):
            spellings.setdefault(spelt, word)
    return spellings


def build_t5_tokenizer() -> T5TokenizerFast:
    """Unigram with one piece a word, and one a capitalised word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [(f"▁{spelt}", -2.0) for spelt in _spellings()]
    pieces += [(mark, -2.0) for mark in _MARKS]
    pieces.append(("▁", -4.0))
    return T5TokenizerFast(
        vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=T5_LENGTH
    )


def capital_pairs(tokenizer: T5TokenizerFast) -> list[tuple[int, int]]:
    """(capitalised, plain) token numbers that must mean the same."""
    number = tokenizer.convert_tokens_to_ids
    return [
        (number(f"▁{spelt}"), number(f"▁{word}"))
        for spelt, word in _spellings().items()
        if spelt != word
    ]


def build_clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE whose merges are learnt from the words themselves."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _learn_merges((*WORDS, *_MARKS))
    pieces = [_START, _END, *alphabet, *(f"{symbol}</w>" for symbol in alphabet)]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def _learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merge the commonest neighbours until every word is one piece; equals go by the alphabet.

    The trainer of the tokenizers library breaks ties by chance, and a tokenizer whose numbers
    change from run to run is of no use to an encoder that was trained before.
    """
    spelt = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while neighbours := Counter(pair for word in spelt for pair in pairwise(word)):
        most = max(neighbours.values())
        merge = min(pair for pair, count in neighbours.items() if count == most)
        merges.append(merge)
        spelt = [_merged(word, merge) for word in spelt]
    return merges


def _merged(word: list[str], merge: tuple[str, str]) -> list[str]:
    made: list[str] = []
    for piece in word:
        if made and (made[-1], piece) == merge:
            made[-1] += piece
        else:
            made.append(piece)
    return made
