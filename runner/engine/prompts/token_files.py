"""Reads a tokenizer from its folder as transformers does, without importing transformers.

Where a folder has no `tokenizer.json`, which describes one wholly, it holds a vocabulary, and
everything else comes from the class. No torch and no network either.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_STORED = "tokenizer.json"

_CLIP_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Unreadable(Exception):
    """No tokenizer can be built from the files."""


def stored(part: Path) -> "Tokenizer":
    """The tokenizer that a folder describes, as Qwen's do."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(part / _STORED))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def clip(part: Path) -> "Tokenizer":
    """CLIP's byte-level BPE, with a start and an end token around the text."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    if (part / _STORED).is_file():
        return stored(part)
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary, merges = BPE.read_file(str(part / "vocab.json"), str(part / "merges.txt"))
    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in (start, end)])
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, _number(tokenizer, end)), (start, _number(tokenizer, start)),
        trim_offsets=False, add_prefix_space=False,
    )  # fmt: skip
    return tokenizer


def t5(part: Path) -> "Tokenizer":
    """T5's unigram pieces, with an end token after the text."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    if (part / _STORED).is_file():
        return stored(part)
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString((part / "spiece.model").read_bytes())
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    if characters := model.normalizer_spec.precompiled_charsmap:
        tokenizer.normalizer = normalizers.Precompiled(characters)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    end = "</s>"
    tokenizer.add_special_tokens(["<pad>", end, "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, _number(tokenizer, end))]
    )
    return tokenizer


def settings(part: Path) -> dict[str, Any]:
    """The settings in the folder; empty where it has none."""
    file = part / "tokenizer_config.json"
    value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not isinstance(value, dict):
        raise Unreadable(f"{file.name} is no JSON object")
    return value


def template(part: Path, options: Iterable[tuple[str, Any]]) -> Callable[[str], str]:
    """A function that puts the folder's chat template around a prompt, as a user's message.

    `options` are passed to the template. Raises Unreadable where the folder has no template.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    own = part / "chat_template.jinja"
    source = own.read_text(encoding="utf-8") if own.is_file() else _template_in(settings(part))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    compiled = environment.from_string(source)

    def wrap(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return compiled.render(messages=messages, add_generation_prompt=True, **dict(options))

    return wrap


def _to_json(value: Any, indent: int | None = None) -> str:
    """JSON that is not escaped for HTML; jinja2's own filter would escape it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _template_in(config: Mapping[str, Any]) -> str:
    template = config.get("chat_template")
    if isinstance(template, list):
        named = (each.get("template") for each in template if each.get("name") == "default")
        template = next(named, None)
    if not isinstance(template, str):
        raise Unreadable("it has no chat template")
    return template


def _number(tokenizer: "Tokenizer", token: str) -> int:
    """The id of a token. Raises Unreadable where the tokenizer has none."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise Unreadable(f"it has no {token}")
    return int(number)
