"""Counts the tokens of a prompt as a model's own encoders do, without torch or transformers.

    family ─► its tokenizers' folders ─► `tokenizers` ─► composer's Encoders

Where a tokenizer is not on this machine, or cannot be read, its tokens are estimated, and the
Encoder says so. Never asks the network and never raises.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from composer.tokencount import CLIP_LIMIT, Encoder, Reading, estimating
from runner.engine.families import FAMILIES
from runner.engine.families.base import Reader
from runner.engine.hub.library import locate
from runner.engine.hub.sources import main_source
from runner.engine.models import Model
from runner.engine.prompts import token_files
from runner.engine.tiny.folders import WEIGHTS
from runner.files import stamp

log = logging.getLogger(__name__)


def encoders(model: Model, data: Path | None) -> tuple[Encoder, ...]:
    """What reads the prompts of a model, in tokens.

    Each counts where its tokenizer is on this machine and estimates elsewhere; without `data` only
    those of the built-in model count.
    """
    folder = WEIGHTS if model.builtin else data and locate(main_source(model), data)
    return encoders_in(folder, model)


def encoders_in(folder: Path | None, model: Model) -> tuple[Encoder, ...]:
    """The same with the tokenizers in the folder of a pipeline; None is one without any."""
    return tuple(_encoder(reader, model, folder) for reader in FAMILIES[model.family].readers)


def _encoder(reader: Reader, model: Model, folder: Path | None) -> Encoder:
    try:
        if folder is not None:
            return _counting(reader, model, folder / reader.folder)
    except (OSError, token_files.Unreadable) as error:
        log.info("estimating %s tokens of %s: %s", reader.name, model.name, error)
    limit = CLIP_LIMIT if reader.pooled else model.max_sequence_length
    return estimating(reader.name, limit, pooled=reader.pooled)


def _counting(reader: Reader, model: Model, part: Path) -> Encoder:
    """Raises OSError where the files are missing, Unreadable where they are no tokenizer."""
    # A model may be pulled while a runner runs: the mark differs where a file of the folder does.
    mark = tuple((file.name, *stamp(file)) for file in sorted(part.iterdir()))
    loaded = _loaded(reader, part, mark)
    limit = loaded.limit if reader.pooled else model.max_sequence_length
    # The registry has a text of its own for words that the built-in model does not know.
    unknown_id = None if model.builtin else loaded.tokenizer.token_to_id("<unk>")
    measure = partial(_measure, loaded, limit, unknown_id)
    return Encoder(reader.name, limit, measure, counted=True, pooled=reader.pooled)


@dataclass(frozen=True)
class _Loaded:
    """A tokenizer, its own limit, and the function that puts a chat template around a prompt."""

    tokenizer: Any
    limit: int
    wrap: Callable[[str], str]


@lru_cache(maxsize=8)
def _loaded(reader: Reader, part: Path, mark: object) -> _Loaded:
    try:
        # Where a tokenizer has no limit, transformers writes a number far beyond 100,000.
        limit = token_files.settings(part).get("model_max_length")
        wrap = str if reader.chat is None else token_files.template(part, reader.chat)
        loaded = _Loaded(
            reader.build(part),
            limit if isinstance(limit, int) and limit < 100_000 else CLIP_LIMIT,
            wrap,
        )
        _measure(loaded, loaded.limit, None, "a prompt")
    except Exception as error:
        # The libraries raise many classes for damaged files, bare `Exception` among them.
        raise token_files.Unreadable(f"{part.name}: {error}") from error
    return loaded


def _measure(loaded: _Loaded, limit: int, unknown_id: int | None, text: str) -> Reading:
    # A lone surrogate is no text: `encode` of the tokenizer would raise.
    clean = text.encode("utf-8", "replace").decode("utf-8")
    wrapped = loaded.wrap(clean)
    encoding = loaded.tokenizer.encode(wrapped)
    tokens, spans = len(encoding.ids), encoding.offsets
    parts = (
        wrapped[slice(*spans[n])] for n, token in enumerate(encoding.ids) if token == unknown_id
    )
    unknown = " ".join(dict.fromkeys(part.strip() for part in parts))[:40]
    if tokens <= limit:
        return Reading(tokens, len(text), unknown)
    # The model cuts the prompt and keeps the special tokens that end it.
    special = reversed(encoding.special_tokens_mask)
    closing = next((n for n, is_special in enumerate(special) if not is_special), 0)
    end = spans[limit - closing - 1][1] - max(wrapped.find(clean), 0)
    return Reading(tokens, max(0, min(end, len(text))), unknown)
