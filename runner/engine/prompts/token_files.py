"""Builds a tokenizer from its folder as transformers does, without importing transformers.

transformers takes the vocabulary from the files and everything else from its classes; so does this
module, for the three classes that the families use. No torch and no network either.
"""

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOKENIZER = "tokenizer.json"

_CLIP_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Unreadable(Exception):
    """No tokenizer can be built from the files."""


def clip(part: Path) -> "Tokenizer":
    """CLIP's byte-level BPE, with a start and an end token around the text."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = _bpe(part, end_of_word_suffix="</w>", unk_token=end)
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


def qwen2(part: Path) -> "Tokenizer":
    """Qwen's byte-level BPE, with no token added to the text."""
    from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

    tokenizer = _bpe(part)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in _added(part)])
    return tokenizer


def t5(part: Path) -> "Tokenizer":
    """T5's unigram pieces, with an end token after the text."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    pieces, characters = _pieces(part)
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    if characters:
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
    return _json(file) if file.is_file() else {}


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


def _bpe(part: Path, **options: Any) -> "Tokenizer":
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    vocabulary: Any
    merges: Any
    file = part / _TOKENIZER
    if file.is_file():
        model = _json(file).get("model", {})
        vocabulary = model.get("vocab")
        merges = [
            tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
            for pair in model.get("merges", ())
        ]
    else:
        vocabulary, merges = BPE.read_file(str(part / "vocab.json"), str(part / "merges.txt"))
    return Tokenizer(BPE(vocab=vocabulary, merges=merges, **options))


def _added(part: Path) -> list[str]:
    """The tokens that are not in the vocabulary of a BPE, in the order of their numbers."""
    file = part / _TOKENIZER
    if file.is_file():
        tokens = {str(token["id"]): token for token in _json(file).get("added_tokens", ())}
    else:
        tokens = settings(part).get("added_tokens_decoder", {})
    return [tokens[number]["content"] for number in sorted(tokens, key=int)]


def _pieces(part: Path) -> tuple[list[tuple[str, float]], bytes | None]:
    """The pieces of a unigram tokenizer with their scores, and its table of characters."""
    file = part / _TOKENIZER
    if not file.is_file():
        return _sentencepiece(part / "spiece.model")
    content = _json(file)
    pieces = [(str(piece), float(score)) for piece, score in content.get("model", {})["vocab"]]
    normalizer = content.get("normalizer") or {}
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


def _number(tokenizer: "Tokenizer", token: str) -> int:
    """The id of a token. Raises Unreadable where the tokenizer has none."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise Unreadable(f"it has no {token}")
    return int(number)


def _json(file: Path) -> dict[str, Any]:
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise Unreadable(f"{file.name} is no JSON object")
    return value
