"""Makes the two tokenizers from the vocabulary: one token a known word, in both.

The T5 one reads anything else as "unknown"; the CLIP one spells it out in bytes.
"""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
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
    plain = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_END))
    trained.pre_tokenizer = plain.pre_tokenizer
    trained.normalizer = plain.normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=[_START, _END],
        show_progress=False,
    )
    trained.train_from_iterator([" ".join(WORDS), " ".join(_MARKS)], trainer)
    vocabulary = trained.get_vocab()
    for symbol in alphabet:
        for form in (symbol, f"{symbol}</w>"):
            vocabulary.setdefault(form, len(vocabulary))
    merges = [(first, second) for first, second in json.loads(trained.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)
