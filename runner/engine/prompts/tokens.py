"""Counts the tokens of a prompt as a model's own encoders do, without torch or transformers.

    family ─► its tokenizers' folders ─► `tokenizers` ─► composer's Encoders

A tokenizer that is not on this machine, or cannot be read, is estimated instead, and says so. It
never asks the network and never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.tokencount import CLIP_LIMIT, Encoder, Reading, estimating
from runner.engine.hub import find
from runner.engine.models import Model
from runner.engine.prompts import token_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

_SANE_LIMIT = 100_000
_MOST_UNKNOWN = 40


@dataclass(frozen=True)
class Reader:
    """How one text encoder of a family takes a prompt.

    A `pooled` one has its tokenizer's limit, any other the model's. `chat` holds what the family's
    pipeline gives to the chat template that it wraps around a prompt.
    """

    name: str
    folder: str
    build: Callable[[Path], Tokenizer]
    pooled: bool = False
    chat: tuple[tuple[str, Any], ...] | None = None


_QWEN3 = partial(Reader, "Qwen3", "tokenizer", token_files.qwen2)

READERS: Mapping[str, tuple[Reader, ...]] = {
    "flux1": (
        Reader("CLIP", "tokenizer", token_files.clip, pooled=True),
        Reader("T5", "tokenizer_2", token_files.t5),
    ),
    "flux2": (_QWEN3(chat=(("enable_thinking", False),)),),
    "zimage": (_QWEN3(chat=(("enable_thinking", True),)),),
}
"""What reads a prompt, for each family of the registry."""


def encoders(model: Model, data: Path | None) -> tuple[Encoder, ...]:
    """What reads the prompts of a model; counting where its tokenizers are below `data`."""
    folder = _folder(model, data)
    readers = READERS.get(model.family, READERS["flux1"])
    return tuple(_encoder(reader, model, folder) for reader in readers)


def _folder(model: Model, data: Path | None) -> Path | None:
    if model.builtin:
        from runner.engine.tiny.folders import WEIGHTS

        return WEIGHTS
    return find(model.repo, model.revision, data) if data is not None else None


def _encoder(reader: Reader, model: Model, folder: Path | None) -> Encoder:
    try:
        if folder is not None:
            return _counting(reader, model, folder / reader.folder)
    except (OSError, token_files.Unreadable) as error:
        log.info("estimating %s tokens of %s: %s", reader.name, model.name, error)
    limit = CLIP_LIMIT if reader.pooled else model.max_sequence_length
    return estimating(reader.name, limit, pooled=reader.pooled)


def _counting(reader: Reader, model: Model, part: Path) -> Encoder:
    """Raises OSError where the files are not here, Unreadable where they make no sense."""
    # A model may be pulled while a runner lives: the mark tells the folder from what it was before.
    stats = sorted((file.name, file.stat()) for file in part.iterdir())
    mark = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    loaded = _loaded(reader, part, mark)
    limit = loaded.limit if reader.pooled else model.max_sequence_length
    # Of what the built-in model does not know, the registry tells in its own words.
    unknown = None if model.builtin else loaded.tokenizer.token_to_id("<unk>")
    measure = partial(_measure, loaded, limit, unknown)
    return Encoder(reader.name, limit, measure, counted=True, pooled=reader.pooled)


@dataclass(frozen=True)
class _Loaded:
    """A tokenizer, its own limit, and what is put around a prompt before it."""

    tokenizer: Tokenizer
    limit: int
    wrap: Callable[[str], str]


@lru_cache(maxsize=8)
def _loaded(reader: Reader, part: Path, mark: object) -> _Loaded:
    try:
        limit = token_files.settings(part).get("model_max_length")
        wrap = str if reader.chat is None else token_files.template(part, reader.chat)
        made = _Loaded(
            reader.build(part),
            limit if isinstance(limit, int) and limit < _SANE_LIMIT else CLIP_LIMIT,
            wrap,
        )
        _measure(made, made.limit, None, "a prompt")
    except Exception as error:
        # The libraries raise all sorts, bare `Exception` among them, for files that make no sense.
        raise token_files.Unreadable(f"{part.name}: {error}") from error
    return made


def _measure(loaded: _Loaded, limit: int, unknown: int | None, text: str) -> Reading:
    # A lone surrogate is no text; nothing that may be sent contains one.
    clean = text.encode("utf-8", "replace").decode("utf-8")
    whole = loaded.wrap(clean)
    found = loaded.tokenizer.encode(whole)
    tokens, ends = len(found.ids), found.offsets
    parts = (whole[slice(*ends[n])] for n, number in enumerate(found.ids) if number == unknown)
    strange = " ".join(dict.fromkeys(part.strip() for part in parts))[:_MOST_UNKNOWN]
    if tokens <= limit:
        return Reading(tokens, len(text), strange)
    closing = next((n for n, own in enumerate(reversed(found.special_tokens_mask)) if not own), 0)
    end = ends[limit - closing - 1][1] - max(whole.find(clean), 0)
    return Reading(tokens, max(0, min(end, len(text))), strange)
