"""LoRAs on a pipeline: loaded once, weighted anew for each image, removed without a trace.

    file ──hash──► read by the pipeline's own loader ──checked against every layer──► adapters
    same files as before: only the weights are set       other files, or none: all removed first

The layers of before the first LoRA are restored to the byte, so that the next plain image is as if
there had never been one. Everything is checked before anything is changed, and a LoRA that does
not fit fails the job with a sentence. Reads safetensors only, from this machine only.
"""

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
from runner.engine.hub.explain import causes
from runner.engine.weights import fp8, lora_layers
from runner.engine.weights.lora_layers import Fitting
from runner.engine.weights.original_layers import OriginalLayers
from runner.errors import InputBad, JobFailed, ModelMissing
from runner.task import Lora
from specs.errors import FluxdropError

log = logging.getLogger(__name__)

_ATTRIBUTE = "_fluxdrop_loras"
"""Under this name a module holds its `_Applied`."""

_TEXT = "text_encoder"
_TEXT_KEYS = ("lora_te1_", "lora_te_", "text_encoder.", "text_encoders.clip_l.")

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Applied:
    """The LoRAs that a transformer or text encoder has now, and its layers of before.

    `adapters` are the adapters' names, by the place in the list of the LoRAs that have tensors for
    this module.
    """

    original: OriginalLayers
    key: Key
    adapters: Mapping[int, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """One LoRA as the pipeline's loader reads it; `rest` are its network alphas and metadata."""

    adapter: str
    fitting: Fitting
    rest: tuple[Any, ...]


def apply(pipe: Any, loras: Sequence[Lora]) -> tuple[str, ...]:
    """Make exactly these LoRAs act on a pipeline, with their weights; returns warnings.

    Changes the transformer and the text encoder, of those that the pipeline has: so it serves a
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
        if applied.adapters:
            from diffusers.utils import set_weights_and_activate_adapters

            weights = [loras[n].weight for n in applied.adapters]
            set_weights_and_activate_adapters(module, list(applied.adapters.values()), weights)
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
        if any(key.startswith(_TEXT_KEYS) for key in _keys(*_stat(lora.path)))
    ]
    return " ".join(marks)


def _modules(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The names and modules of a pipeline that LoRAs can be loaded into."""
    for part in getattr(pipe, "_lora_loadable_modules", ()):
        module = getattr(pipe, part, None)
        if hasattr(module, "named_modules"):
            yield part, module


def _apply_to(pipe: Any, part: str, module: Any, loras: Sequence[Lora], key: Key) -> _Applied:
    reads = [_read(pipe, part, module, n, lora) for n, lora in enumerate(loras)]
    fitting = {n: read for n, read in enumerate(reads) if read.fitting.tensors}
    applied = _Applied(
        original=OriginalLayers.of(module),
        key=key,
        adapters={n: read.adapter for n, read in fitting.items()},
        warnings=tuple(text for read in reads for text in read.fitting.warnings),
    )
    setattr(module, _ATTRIBUTE, applied)
    training = module.training
    try:
        with nullcontext() if part == _TEXT else fp8.adapters_in_bf16(module):
            # What widens the input layer goes first: all others are made to fit the wider one.
            for read in sorted(fitting.values(), key=lambda read: not read.fitting.widens):
                applied.original.keep(module, read.fitting.norms)
                _load(pipe, part, module, read)
        module.train(training)  # new layers start in training mode, where some have dropout
    except BaseException as error:
        remove(pipe)
        # Loading takes offloading hooks off for a while, and may have ended there.
        pipe.maybe_free_model_hooks()
        if isinstance(error, FluxdropError) or not isinstance(error, Exception):
            raise
        listed = " and ".join(_name(lora) for lora in loras)
        raise _translated(error, listed, "cannot be put on this model") from error
    return applied


def _read(pipe: Any, part: str, module: Any, number: int, lora: Lora) -> _Read:
    """One file, read by the pipeline's own loader and converters, and checked."""
    name, content = _name(lora), _content(*_stat(lora.path))
    if lora.sha256 and lora.sha256 != content:
        raise InputBad(f"{name} changed since this job was accepted: drop the spec again")
    try:
        tensors, *rest = pipe.lora_state_dict(
            str(lora.path.parent),
            weight_name=lora.path.name,
            local_files_only=True,
            use_safetensors=True,
            return_alphas=True,
            return_lora_metadata=True,
        )
    except Exception as error:  # converters fail in as many ways as there are file formats
        raise _translated(error, name, "cannot be read as a LoRA for this model") from error
    lora_layers.check_numbers(tensors, name)
    prefixes = tuple(f"{each}." for each in pipe._lora_loadable_modules)
    if not any(key.startswith(prefixes) for key in tensors):
        raise InputBad(f"{name} fits no layer of this model: it was made for another one")
    if any(".lokr_" in key and "_qkv." in key for key in tensors):
        raise InputBad(f"{name} joins layers that are apart here: convert it to a plain LoRA")
    if part == _TEXT:
        fitting = Fitting({k: tensor for k, tensor in tensors.items() if k.startswith(f"{_TEXT}.")})
    else:
        fitting = lora_layers.fitted(
            tensors, module, part, name, may_widen="Control" in type(pipe).__name__
        )
    return _Read(f"lora{number}_{content[:12]}", fitting, tuple(rest))


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


def _load(pipe: Any, part: str, module: Any, read: _Read) -> None:
    if part == _TEXT:
        alphas, metadata = read.rest
        pipe.load_lora_into_text_encoder(
            dict(read.fitting.tensors),
            network_alphas=alphas,
            text_encoder=module,
            adapter_name=read.adapter,
            metadata=metadata,
            _pipeline=pipe,
        )
        return
    # The loader would read the file again, and load what does not fit: so its reading is replaced.
    pipe.lora_state_dict = lambda *_, **options: (dict(read.fitting.tensors), *read.rest)
    try:
        with warnings.catch_warnings():
            # peft warns of a second adapter, which is no fault here.
            warnings.filterwarnings("ignore", module="peft")
            pipe.load_lora_weights({}, adapter_name=read.adapter)
    finally:
        del pipe.lora_state_dict


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
def _keys(path: Path, size: int, changed: int) -> tuple[str, ...]:
    """The names of the tensors in a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return tuple(file.keys())
    except SafetensorError as error:
        raise _translated(error, path.name, "cannot be read") from error
