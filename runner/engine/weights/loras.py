"""LoRAs on a pipeline: loaded once, weighted anew for each image, removed without a trace.

    file ──hash──► names ──checked against every layer──► changes beside the layers
    same files as before: only the weights are set       other files, or none: all removed first

The layers of before the first LoRA are put back as they were, so that the next plain image is as if
there had never been one. Everything is checked before anything is changed, and a LoRA that does
not fit fails the job with a sentence. Reads safetensors only, from this machine only.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner import lora_names
from runner.engine import errors as faults
from runner.engine.hub.explain import causes
from runner.engine.weights import lora_changes, lora_layers
from runner.engine.weights.original_layers import OriginalLayers
from runner.errors import InputBad, JobFailed, ModelMissing
from runner.task import Lora
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_ATTRIBUTE = "_fluxdrop_loras"
"""Under this name a module holds its `_Applied`."""

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Applied:
    """The LoRAs that a transformer or text encoder has now, and its layers of before.

    `changes` are those of each LoRA, by its place in the list.
    """

    original: OriginalLayers
    key: Key
    changes: Mapping[int, Sequence[Any]]
    warnings: tuple[str, ...]


def apply(pipe: Any, loras: Sequence[Lora]) -> tuple[str, ...]:
    """Make exactly these LoRAs act on a pipeline, with their weights; returns warnings.

    Changes the transformer and the text encoders, of those that the pipeline has: so it serves a
    text stage and a paint stage alike. Raises InputBad where one does not fit or cannot be read
    and ModelMissing where its file is gone; no part has a half-loaded LoRA then.
    """
    if not loras:
        remove(pipe)
        return ()
    if not hasattr(pipe, "load_lora_weights"):
        raise InputBad(f"{type(pipe).__name__} cannot load LoRA files: leave `loras` out")
    # Weights are not part of it: they are set anew for each image.
    key = tuple((str(lora.path), lora.sha256 or _content(*_stat(lora.path))) for lora in loras)
    messages: list[str] = []
    for part, module in _modules(pipe):
        applied = getattr(module, _ATTRIBUTE, None)
        if applied is None or applied.key != key:
            _remove_from(module)
            applied = _apply_to(pipe, part, module, loras, key)
        for number, changes in applied.changes.items():
            for change in changes:
                change.strength = loras[number].weight
        messages += applied.warnings
    return tuple(dict.fromkeys(messages))


def remove(pipe: Any) -> None:
    """Remove all LoRAs from a pipeline; one without LoRAs is not changed."""
    for _, module in _modules(pipe):
        _remove_from(module)


def text_mark(loras: Sequence[Lora]) -> str:
    """Names the LoRAs that change how prompts are encoded: part of the key of kept embeddings.

    Empty where none does, as with most LoRAs; the text stage needs them only where it is not.
    """
    marks = [
        f"{lora.sha256 or _content(*_stat(lora.path))}*{lora.weight:g}"
        for lora in loras
        if _keys(*_stat(lora.path)).keys() - {lora_names.TRANSFORMER}
    ]
    return " ".join(marks)


def _modules(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The names and modules of a pipeline that LoRAs can be loaded into."""
    for part in lora_names.PARTS:
        module = getattr(pipe, part, None)
        if hasattr(module, "named_modules"):
            yield part, module


def _apply_to(pipe: Any, part: str, module: Any, loras: Sequence[Lora], key: Key) -> _Applied:
    fittings = [_fitting(pipe, part, module, lora) for lora in loras]
    applied = _Applied(
        original=OriginalLayers.of(module),
        key=key,
        changes={n: [change for _, change in each.changes] for n, each in enumerate(fittings)},
        warnings=tuple(text for each in fittings for text in each.warnings),
    )
    setattr(module, _ATTRIBUTE, applied)
    try:
        for fitting in fittings:
            applied.original.overwrite(module, fitting.values)
            for name, change in fitting.changes:
                lora_layers.put(module, name, change)
        width = max(fitting.width for fitting in fittings)
        if width > (applied.original.in_channels or width):
            module.config.in_channels = width
        applied.original.follow(module)
    except BaseException as error:
        remove(pipe)
        pipe.maybe_free_model_hooks()
        if isinstance(error, FluxdropError) or not isinstance(error, Exception):
            raise
        listed = " and ".join(_name(lora) for lora in loras)
        raise _translated(error, listed, "cannot be put on this model") from error
    return applied


def _fitting(pipe: Any, part: str, module: Any, lora: Lora) -> lora_changes.Fitting:
    """What one file does to a part of the pipeline, checked."""
    from safetensors import SafetensorError

    name, content = _name(lora), _content(*_stat(lora.path))
    if lora.sha256 and lora.sha256 != content:
        raise InputBad(f"{name} changed since this job was accepted: drop the spec again")
    keys = _keys(*_stat(lora.path))
    lora_names.check((key for own in keys.values() for key in own), name)
    lacking = {each: own for each, own in keys.items() if not hasattr(pipe, each)}
    if keys.keys() == lacking.keys():
        raise InputBad(f"{name} fits no layer of this model: it was made for another one")
    fitting = lora_changes.Fitting()
    if part in keys:
        try:
            fitting = lora_changes.fitting(lora.path, name, part, module, keys[part])
        except (OSError, SafetensorError) as error:
            raise _translated(error, name, "cannot be read") from error
    reads_control = "Control" in type(pipe).__name__
    if fitting.width > getattr(module.config, "in_channels", 0) and not reads_control:
        raise InputBad(
            f"{name} reads a control picture beside the prompt: use it with `kind: control`"
        )
    total = sum(map(len, keys.values()))
    warnings = (
        f"{len(own)} of the {total} tensors of {name} are for a {each}, which this model does not"
        f" have, and were left out, as {own[0]}"
        for each, own in lacking.items()
    )
    return replace(fitting, warnings=(*fitting.warnings, *warnings))


def _translated(error: Exception, name: str, problem: str) -> JobFailed:
    """Our error for what a loader raised, which hides the first cause behind others."""
    from safetensors import SafetensorError

    log.warning("%s %s: %s: %s", name, problem, type(error).__name__, str(error)[:500])
    for link in causes(error):
        ours = faults.translated(link)
        if ours is not None:
            return ours
        if isinstance(link, SafetensorError):
            return InputBad(f"{name} is damaged or no safetensors file: fetch it again")
    return InputBad(f"{name} {problem}: it was made for another one")


def _remove_from(module: Any) -> None:
    applied = getattr(module, _ATTRIBUTE, None)
    if applied is not None:
        applied.original.restore(module)
        delattr(module, _ATTRIBUTE)


def _name(lora: Lora) -> str:
    return lora.name or lora.path.name


def _stat(path: Path) -> tuple[Path, int, int]:
    """A file with its size and time of change. Raises ModelMissing where there is none."""
    try:
        stat = path.stat()
    except OSError:
        raise ModelMissing(
            f"the LoRA {path.name} is not on this machine any more: put it back, or run"
            " `fluxdrop models pull` with its repository"
        ) from None
    return path, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _content(path: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file; in the hub's cache it is the name of the blob behind the link."""
    real = path.resolve()
    if real.parent.name == "blobs" and len(real.name) == 64:
        return real.name
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=256)
def _keys(path: Path, size: int, changed: int) -> Mapping[str, Sequence[str]]:
    """The names of the tensors in a file, by the part of a pipeline that they are for."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise _translated(error, path.name, "cannot be read") from error
    parts = {
        part: tuple(key for key in names if lora_names.part_of(key) == part)
        for part in lora_names.PARTS
    }
    return {part: keys for part, keys in parts.items() if keys}
