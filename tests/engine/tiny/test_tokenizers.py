"""The tokenizers: what training feeds the encoders is what the pipelines will feed them."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer, T5TokenizerFast

from runner.engine.tiny.folders import WEIGHTS
from tests.engine.tiny.encoders import Reader, draw_sentence
from tests.engine.tiny.tokenizers import build_clip_tokenizer, build_t5_tokenizer, capital_pairs
from tests.engine.tiny.vocabulary import WORDS

Pair = tuple[T5TokenizerFast, CLIPTokenizer]


@pytest.fixture(scope="module")
def built() -> Pair:
    return build_t5_tokenizer(), build_clip_tokenizer()


def test_every_known_word_is_one_token_for_both(built: Pair) -> None:
    t5, clip = built
    for word in WORDS:
        assert len(t5(word, add_special_tokens=False).input_ids) == 1, word
        assert len(clip(word, add_special_tokens=False).input_ids) == 1, word
    assert t5.decode(t5("a red circle, on white.").input_ids) == "a red circle, on white.</s>"


def test_training_reads_sentences_as_the_tokenizers_do(built: Pair) -> None:
    t5, clip = built
    reader = Reader(t5, clip)
    rng = random.Random(0)
    for _ in range(200):
        sentence = draw_sentence(rng)
        assert reader.t5(sentence.words) == t5(sentence.text()).input_ids
        assert reader.clip(sentence.words) == clip(sentence.text()).input_ids


def test_a_long_sentence_is_cut_as_the_pipeline_cuts_it(built: Pair) -> None:
    t5, _ = built
    words = ["red"] * 40
    cut = t5(" ".join(words), max_length=24, truncation=True, padding="max_length").input_ids
    assert Reader(*built).t5_batch([words], 24)[0].tolist() == cut


def test_a_saved_tokenizer_reads_the_same(built: Pair, tmp_path: Path) -> None:
    for number, tokenizer in enumerate(built):
        where = tmp_path / str(number)
        tokenizer.save_pretrained(where)
        again = type(tokenizer).from_pretrained(where)
        for text in ("A RED circle, on a blue background.", "a cat left of it", ""):
            assert again(text).input_ids == tokenizer(text).input_ids


def test_tokenizers_are_made_the_same_each_time() -> None:
    code = (
        "from tests.engine.tiny.tokenizers import build_clip_tokenizer, build_t5_tokenizer\n"
        "for make in (build_t5_tokenizer, build_clip_tokenizer):\n"
        "    print(sorted(make().get_vocab().items()))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = (
        sorted(make().get_vocab().items()) for make in (build_t5_tokenizer, build_clip_tokenizer)
    )
    assert made.splitlines() == list(map(str, here))


def test_the_shipped_tokenizers_know_the_vocabulary() -> None:
    t5 = T5TokenizerFast.from_pretrained(WEIGHTS / "tokenizer_2")
    clip = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    assert t5.get_vocab() == build_t5_tokenizer().get_vocab()
    assert all(len(clip(word, add_special_tokens=False).input_ids) == 1 for word in WORDS)


def test_capitals_are_known_and_pair_with_their_words(built: Pair) -> None:
    t5, _ = built
    pairs = dict(capital_pairs(t5))
    for spelt in ("Red", "RED", "A", "Background"):
        capital = t5.convert_tokens_to_ids(f"▁{spelt}")
        assert pairs[capital] == t5.convert_tokens_to_ids(f"▁{spelt.lower()}")
