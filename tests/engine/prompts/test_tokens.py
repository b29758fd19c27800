"""Tokens are counted as a model's own tokenizers count them, without the libraries that use them.

transformers is the other side of every comparison here, and is imported nowhere else in counting.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from composer.tokencount import Encoder
from runner.engine.prompts import tokens
from runner.engine.registry import MODEL_REGISTRY
from runner.engine.tiny.folders import WEIGHTS
from tests.harness import ROOT, clean_environment

TINY = MODEL_REGISTRY["tiny"]
TEXTS = [
    "",
    "a red circle on a blue background",
    "A RED Circle, a BLUE square. and a zeppelin's 3 o'clock shadow",
    "tab\there\n\n  two lines,   e\u0301 and \u00bd and \ufb01",
    "木と水 сонце café 🐈‍⬛ <|endoftext|> </s>",
    "a small green star, " * 60,
]
TEMPLATE = (
    "{%- for message in messages %}\n"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "{{- '<|im_start|>assistant\\n' }}\n"
    "{%- if enable_thinking is false %}\n"
    "{{- '<think>\\n\\n</think>\\n\\n' }}\n"
    "{%- endif %}\n"
    "{%- endif %}"
)


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    yield
    tokens._loaded.cache_clear()


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A repository with a small tokenizer of Qwen's class, as the hub has it."""
    from transformers import Qwen2TokenizerFast

    letters = sorted(pre_tokens() | {"Ġ", "Ċ"})
    vocabulary = {symbol: number for number, symbol in enumerate([*letters, "re", "Ġa"])}
    made = Qwen2TokenizerFast(vocab=vocabulary, merges=[("r", "e"), ("Ġ", "a")])
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = TEMPLATE
    made.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    return tmp_path


def pre_tokens() -> set[str]:
    """The 256 stand-ins for bytes."""
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet())


def flux1(folder: Path) -> tuple[Encoder, ...]:
    """What reads the prompts of a FLUX.1 in a folder."""
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    return tokens.encoders(replace(TINY, builtin=False, repo=str(folder)), folder)


def counts(encoder: Encoder) -> list[int]:
    return [encoder.measure(text)[0] for text in TEXTS]


def reference(tokenizer: Any) -> list[int]:
    return [len(tokenizer(text, verbose=False).input_ids) for text in TEXTS]


def test_the_built_in_models_tokens_are_counted_as_transformers_counts_them() -> None:
    """Seen red: with the start left out of CLIP's processor, and without T5's pre-tokenizer."""
    from transformers import CLIPTokenizer, T5TokenizerFast

    clip, t5 = tokens.encoders(TINY, None)
    assert (clip.name, clip.limit, clip.counted, clip.pooled) == ("CLIP", 77, True, True)
    assert (t5.name, t5.limit, t5.counted, t5.pooled) == ("T5", 64, True, False)
    assert counts(clip) == reference(CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer"))
    assert counts(t5) == reference(T5TokenizerFast.from_pretrained(WEIGHTS / "tokenizer_2"))


def test_what_is_seen_ends_where_transformers_cuts() -> None:
    from transformers import T5TokenizerFast

    _, t5 = tokens.encoders(TINY, None)
    text = "a red circle, " * 40
    number, seen, _ = t5.measure(text)
    assert number > t5.limit
    own = T5TokenizerFast.from_pretrained(WEIGHTS / "tokenizer_2")
    cut = own(text, truncation=True, max_length=t5.limit).input_ids
    assert text[:seen].split() == own.decode(cut, skip_special_tokens=True).split()


def test_clip_is_counted_from_a_vocabulary_and_merges_as_flux_has_them(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    model = json.loads((WEIGHTS / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))["model"]
    part = tmp_path / "tokenizer"
    part.mkdir()
    (part / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (part / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    shutil.copy(WEIGHTS / "tokenizer/tokenizer_config.json", part)
    clip, t5 = flux1(tmp_path)
    assert clip.counted and not t5.counted
    assert counts(clip) == reference(CLIPTokenizer.from_pretrained(part))


def test_t5_is_counted_from_a_sentencepiece_model(tmp_path: Path) -> None:
    import sentencepiece
    from transformers import T5TokenizerFast

    part = tmp_path / "tokenizer_2"
    part.mkdir()
    with (part / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS[1:3] * 20), model_writer=file, vocab_size=40,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
        )  # fmt: skip
    clip, t5 = flux1(tmp_path)
    assert t5.counted and not clip.counted
    assert counts(t5) == reference(T5TokenizerFast.from_pretrained(part, extra_ids=0))


def test_words_that_t5_has_no_tokens_for_are_named(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "tokenizer_2", tmp_path / "tokenizer_2")
    _, t5 = flux1(tmp_path)
    text = "a red кіт on a blue 木 and кіт"
    assert t5.measure(text).unknown == "кіт 木"
    (warning,) = t5.warnings(text, t5.measure(text))
    assert warning == "T5 does not know 'кіт 木': say it in plain English"
    assert tokens.encoders(TINY, None)[1].measure(text).unknown == "", "the registry says it"


@pytest.mark.parametrize("family", ["flux2", "zimage"])
def test_a_family_that_wraps_a_prompt_in_a_chat_counts_the_wrapping(
    qwen: Path, family: str
) -> None:
    from transformers import Qwen2TokenizerFast

    model = replace(TINY, builtin=False, repo=str(qwen), family=family, max_sequence_length=100)
    (encoder,) = tokens.encoders(model, qwen)
    assert encoder.counted and encoder.limit == 100
    own = Qwen2TokenizerFast.from_pretrained(qwen / "tokenizer")

    def rendered(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        made: str = own.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True,
            enable_thinking=family == "zimage",
        )  # fmt: skip
        return made

    assert counts(encoder) == [len(own(rendered(text)).input_ids) for text in TEXTS]
    cut = own.decode(own(rendered(TEXTS[-1]), truncation=True, max_length=100).input_ids)
    assert cut.endswith(TEXTS[-1][: encoder.measure(TEXTS[-1])[1]])
    # A template may also stand in a file of its own.
    settings = qwen / "tokenizer/tokenizer_config.json"
    kept = json.loads(settings.read_text(encoding="utf-8"))
    template = qwen / "tokenizer/chat_template.jinja"
    moved = kept.pop("chat_template", None) or template.read_text(encoding="utf-8")
    template.unlink(missing_ok=True)
    settings.write_text(json.dumps({**kept, "chat_template": moved}), encoding="utf-8")
    (other,) = tokens.encoders(model, qwen)
    assert other.counted and counts(other) == counts(encoder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(file.read_bytes()[:2000]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("[]", encoding="utf-8"),
        lambda file: file.write_text('{"model": {"vocab": []}}', encoding="utf-8"),
        lambda file: file.write_text('{"model": {"vocab": {"a": "b"}}}', encoding="utf-8"),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
    ],
    ids=["gone", "cut short", "empty", "a list", "no pieces", "nonsense", "no text"],
)
@pytest.mark.parametrize("folder", ["tokenizer", "tokenizer_2"])
def test_a_tokenizer_that_cannot_be_read_is_estimated(
    tmp_path: Path, folder: str, damage: Callable[[Path], object]
) -> None:
    for part in ("tokenizer", "tokenizer_2"):
        shutil.copytree(WEIGHTS / part, tmp_path / part)
    assert [each.counted for each in flux1(tmp_path)] == [True, True]
    damage(tmp_path / folder / "tokenizer.json")
    found = flux1(tmp_path)
    assert [each.counted for each in found] == [folder != "tokenizer", folder == "tokenizer"]
    assert [each.limit for each in found] == [77, 64]
    assert all(each.measure("a red circle")[0] > 3 for each in found)


def test_a_model_that_is_pulled_while_a_runner_lives_is_counted_from_then_on(
    tmp_path: Path,
) -> None:
    assert [each.counted for each in flux1(tmp_path)] == [False, False]
    shutil.copytree(WEIGHTS / "tokenizer", tmp_path / "tokenizer")
    assert [each.counted for each in flux1(tmp_path)] == [True, False]


def test_counting_loads_neither_torch_nor_transformers() -> None:
    script = (
        "import sys\n"
        "from runner.engine.prompts import tokens\n"
        "from runner.engine.registry import MODEL_REGISTRY\n"
        "assert 'tokenizers' not in sys.modules\n"
        "clip, t5 = tokens.encoders(MODEL_REGISTRY['tiny'], None)\n"
        "assert clip.counted and t5.measure('a red circle')[0] == 4\n"
        "print(sorted({'torch', 'transformers', 'diffusers', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=clean_environment(), timeout=60,
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
