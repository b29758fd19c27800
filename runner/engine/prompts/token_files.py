"""Reads the files of a tokenizer's folder, and builds it as the pipelines' own library does.

transformers takes the vocabulary from the files and everything else from its classes; so does this
file, for the three classes that the families use. No torch, no transformers, no network.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WHOLE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"

_CLIP_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Unreadable(Exception):
    """No tokenizer can be made of the files."""


def clip(part: Path) -> Tokenizer:
    """CLIP's byte-level BPE, a start and an end around the text."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

    start, end = "<|startoftext|>", "<|endoftext|>"
    made = _bpe(part, end_of_word_suffix="</w>", unk_token=end)
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.add_special_tokens([AddedToken(each, special=True) for each in (start, end)])
    made.post_processor = processors.RobertaProcessing(
        (end, _number(made, end)), (start, _number(made, start)),
        trim_offsets=False, add_prefix_space=False,
    )  # fmt: skip
    return made


def qwen2(part: Path) -> Tokenizer:
    """Qwen's byte-level BPE, nothing added to the text."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

    made = _bpe(part)
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.add_special_tokens([AddedToken(each, special=True) for each in _added(part)])
    return made


def t5(part: Path) -> Tokenizer:
    """T5's unigram pieces, an end after the text."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    pieces, characters = _pieces(part)
    made = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    if characters:
        made.normalizer = normalizers.Precompiled(characters)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    end = "</s>"
    made.add_special_tokens(["<pad>", end, "<unk>"])
    made.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, _number(made, end))]
    )
    return made


def settings(part: Path) -> dict[str, Any]:
    """What the folder says of its tokenizer; nothing where it says nothing."""
    file = part / SETTINGS
    return _json(file) if file.is_file() else {}


def template(part: Path, options: Iterable[tuple[str, Any]]) -> Callable[[str], str]:
    """The folder's chat template, which wraps a prompt as the message of a user."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    own = part / "chat_template.jinja"
    source = own.read_text(encoding="utf-8") if own.is_file() else _template_in(settings(part))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    compiled = environment.from_string(source)

    given = dict(options)

    def wrap(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return compiled.render(messages=messages, add_generation_prompt=True, **given)

    return wrap


def _to_json(value: Any, indent: int | None = None) -> str:
    """JSON that is not escaped for HTML, as a template's own filter would do."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _template_in(given: Mapping[str, Any]) -> str:
    found = given.get("chat_template")
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found}
        found = named.get("default")
    if not isinstance(found, str):
        raise Unreadable("it has no chat template")
    return found


def _bpe(part: Path, **options: Any) -> Tokenizer:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    vocabulary: Any
    merges: Any
    whole = part / WHOLE
    if whole.is_file():
        model = _json(whole).get("model", {})
        vocabulary = model.get("vocab")
        merges = [
            tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
            for pair in model.get("merges", ())
        ]
    else:
        files = str(part / "vocab.json"), str(part / "merges.txt")
        vocabulary, merges = BPE.read_file(*files)
    return Tokenizer(BPE(vocab=vocabulary, merges=merges, **options))


def _added(part: Path) -> list[str]:
    """The tokens that are not in the vocabulary of a BPE, in the order of their numbers."""
    whole = part / WHOLE
    if whole.is_file():
        given = {str(each["id"]): each for each in _json(whole).get("added_tokens", ())}
    else:
        given = settings(part).get("added_tokens_decoder", {})
    return [given[number]["content"] for number in sorted(given, key=int)]


def _pieces(part: Path) -> tuple[list[tuple[str, float]], bytes | None]:
    """The pieces of a unigram tokenizer with their scores, and its table of characters."""
    whole = part / WHOLE
    if not whole.is_file():
        return _sentencepiece(part / "spiece.model")
    given = _json(whole)
    pieces = [(str(piece), float(score)) for piece, score in given.get("model", {})["vocab"]]
    normalizer = given.get("normalizer") or {}
    for each in normalizer.get("normalizers", [normalizer]):
        if each.get("type") == "Precompiled":
            return pieces, base64.b64decode(each["precompiled_charsmap"])
    return pieces, None


def _sentencepiece(file: Path) -> tuple[list[tuple[str, float]], bytes | None]:
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(file.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return pieces, model.normalizer_spec.precompiled_charsmap or None


def _number(made: Tokenizer, token: str) -> int:
    number = made.token_to_id(token)
    if number is None:
        raise Unreadable(f"it has no {token}")
    return int(number)


def _json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise Unreadable(f"{file.name} is no JSON object")
    return found
