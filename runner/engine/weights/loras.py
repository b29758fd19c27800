"""LoRAs on a pipeline: loaded once, weighed anew for each image, taken off without a trace.

    file ──hash──► read by the pipeline's own loader ──checked against every layer──► adapters
    same files as before: only the weights are set        other files, or none: all taken off first

What a pipeline was before its first LoRA is put back to the byte, so that the next plain image is
as if there had never been one. Everything is checked before anything is touched, and a LoRA that
does not fit is the caller's fault, never a crash. Reads safetensors only, from this machine only.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.engine import errors as faults
from runner.engine.weights import fp8, lora_layers
from runner.engine.weights.lora_layers import Fitting
from runner.engine.weights.original_layers import Untouched
from runner.errors import InputBad, JobFailed, ModelMissing
from runner.job import Lora
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_HELD = "_fluxdrop_loras"
_TEXT = "text_encoder"
_TEXT_KEYS = ("lora_te1_", "lora_te_", "text_encoder.", "text_encoders.clip_l.")

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Held:
    """What a transformer or text encoder was, and the LoRAs that it has now."""

    before: Untouched
    key: Key
    adapters: Mapping[int, str]
    """The adapter's name of each LoRA in the list that has something for this module."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """One LoRA as the pipeline's loader reads it; `answer` is the rest of what the loader says."""

    adapter: str
    fitting: Fitting
    answer: tuple[Any, ...]


def apply(pipe: Any, loras: Sequence[Lora]) -> tuple[str, ...]:
    """Make exactly these LoRAs act on a pipeline, with their weights; what a caller should know.

    Works on what the pipeline has of transformer and text encoder, so it serves a text stage and
    a paint stage alike. Raises InputBad or ModelMissing, with the pipeline as without any LoRA.
    """
    if not loras:
        remove(pipe)
        return ()
    if not hasattr(pipe, "load_lora_weights"):
        raise InputBad(f"{type(pipe).__name__} cannot load LoRA files: leave `loras` out")
    key = tuple(_identity(lora) for lora in loras)
    found: list[str] = []
    for part, module in _modules(pipe):
        held = getattr(module, _HELD, None)
        if held is None or held.key != key:
            _take_off(module)
            held = _put_on(pipe, part, module, loras, key)
        _weigh(module, {name: loras[n].weight for n, name in held.adapters.items()})
        found += held.warnings
    return tuple(dict.fromkeys(found))


def remove(pipe: Any) -> None:
    """Take all LoRAs off a pipeline; where there are none, nothing is touched."""
    for _, module in _modules(pipe):
        _take_off(module)


def text_mark(loras: Sequence[Lora]) -> str:
    """What of these LoRAs changes how prompts are encoded: part of the key of kept embeddings.

    Empty where none does, as with most LoRAs; the text stage needs `apply` only where it is not.
    """
    marks = [
        f"{lora.sha256 or _content(*_facts(lora.path))}*{lora.weight:g}"
        for lora in loras
        if any(key.startswith(_TEXT_KEYS) for key in _keys(*_facts(lora.path)))
    ]
    return " ".join(marks)


def _modules(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a pipeline that LoRAs are for, of those that it has."""
    for part in getattr(pipe, "_lora_loadable_modules", ()):
        module = getattr(pipe, part, None)
        if hasattr(module, "named_modules"):
            yield part, module


def _identity(lora: Lora) -> tuple[str, str]:
    """What stays the same as long as it is the same file; the weight is not part of it."""
    return str(lora.path), lora.sha256 or _content(*_facts(lora.path))


def _put_on(pipe: Any, part: str, module: Any, loras: Sequence[Lora], key: Key) -> _Held:
    reads = {n: _read(pipe, part, module, n, lora) for n, lora in enumerate(loras)}
    mine = {n: read for n, read in reads.items() if read.fitting.tensors}
    held = _Held(
        before=Untouched.of(module),
        key=key,
        adapters={n: read.adapter for n, read in mine.items()},
        warnings=tuple(text for read in reads.values() for text in read.fitting.warnings),
    )
    setattr(module, _HELD, held)
    training = module.training
    try:
        with nullcontext() if part == _TEXT else fp8.adapters_in_bf16(module):
            # What widens the input layer goes first: all others are made to fit the wider one.
            for read in sorted(mine.values(), key=lambda each: not each.fitting.widens):
                held.before.keep(module, read.fitting.norms)
                _load(pipe, part, module, read)
        module.train(training)  # new layers are born in training, where some drop values at random
    except BaseException as error:
        remove(pipe)
        # Loading takes offloading hooks off for a while, and may have ended there.
        pipe.maybe_free_model_hooks()
        if isinstance(error, FluxdropError) or not isinstance(error, Exception):
            raise
        listed = " and ".join(_called(lora) for lora in loras)
        raise _ours(error, listed, "cannot be put on this model") from error
    return held


def _read(pipe: Any, part: str, module: Any, number: int, lora: Lora) -> _Read:
    """One file, read by the pipeline's own loader and converters, and checked."""
    name, content = _called(lora), _content(*_facts(lora.path))
    if lora.sha256 and lora.sha256 != content:
        raise InputBad(f"{name} changed since this job was accepted: drop the spec again")
    try:
        tensors, *answer = pipe.lora_state_dict(
            str(lora.path.parent),
            weight_name=lora.path.name,
            local_files_only=True,
            use_safetensors=True,
            return_alphas=True,
            return_lora_metadata=True,
        )
    except Exception as error:  # converters fail in as many ways as there are file formats
        raise _ours(error, name, "cannot be read as a LoRA for this model") from error
    lora_layers.check_numbers(tensors, name)
    parts = pipe._lora_loadable_modules
    if not any(key.startswith(tuple(f"{each}." for each in parts)) for key in tensors):
        raise InputBad(f"{name} fits no layer of this model: it was made for another one")
    if any(".lokr_" in key and "_qkv." in key for key in tensors):
        raise InputBad(f"{name} joins layers that are apart here: convert it to a plain LoRA")
    if part == _TEXT:
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{_TEXT}.")}
        fitting = Fitting(own)
    else:
        fitting = lora_layers.fitted(
            tensors, module, part, name, may_widen="Control" in type(pipe).__name__
        )
    return _Read(f"lora{number}_{content[:12]}", fitting, tuple(answer))


def _ours(error: Exception, name: str, says: str) -> JobFailed:
    """The error of ours for what a loader raised, which hides the first cause behind others."""
    log.warning("%s %s: %s: %s", name, says, type(error).__name__, str(error)[:500])
    link: BaseException | None = error
    while link is not None:
        ours = faults.translated(link)
        if ours is not None:
            return ours
        if any(kind.__name__ == "SafetensorError" for kind in type(link).__mro__):
            return InputBad(f"{name} is damaged or no safetensors file: fetch it again")
        link = link.__cause__ or link.__context__
    return InputBad(f"{name} {says}: it was made for another one")


def _take_off(module: Any) -> None:
    held = getattr(module, _HELD, None)
    if held is not None:
        held.before.put_back(module)
        delattr(module, _HELD)


def _load(pipe: Any, part: str, module: Any, read: _Read) -> None:
    if part == _TEXT:
        alphas, metadata = read.answer
        pipe.load_lora_into_text_encoder(
            dict(read.fitting.tensors),
            network_alphas=alphas,
            text_encoder=module,
            adapter_name=read.adapter,
            metadata=metadata,
            _pipeline=pipe,
        )
        return
    # The loader would read the file again, and take what does not fit: it is given what was read.
    pipe.lora_state_dict = lambda *given, **settings: (dict(read.fitting.tensors), *read.answer)
    try:
        with warnings.catch_warnings():
            # peft finds it remarkable that there are several.
            warnings.filterwarnings("ignore", module="peft")
            pipe.load_lora_weights({}, adapter_name=read.adapter)
    finally:
        del pipe.lora_state_dict


def _weigh(module: Any, weights: Mapping[str, float]) -> None:
    if weights:
        from diffusers.utils import set_weights_and_activate_adapters

        set_weights_and_activate_adapters(module, list(weights), list(weights.values()))


def _called(lora: Lora) -> str:
    return lora.name or lora.path.name


def _facts(path: Path) -> tuple[Path, int, int]:
    """A file with what changes when it does. Raises ModelMissing where there is none."""
    try:
        facts = path.stat()
    except OSError:
        raise ModelMissing(
            f"the LoRA {path.name} is not on this machine any more: put it back, or run"
            " `fluxdrop models pull` with its repository"
        ) from None
    return path, facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=256)
def _content(path: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file; in the hub's cache it is the name of the file behind the link."""
    real = path.resolve()
    if real.parent.name == "blobs" and len(real.name) == 64:
        return real.name
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=256)
def _keys(path: Path, size: int, changed: int) -> tuple[str, ...]:
    """The names of the tensors in a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return tuple(file.keys())
    except SafetensorError as error:
        raise _ours(error, path.name, "cannot be read") from error
