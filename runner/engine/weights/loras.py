"""LoRAs on a pipeline: loaded once, weighted anew for each image, removed without a trace.

    file ──hash──► names ──checked against every layer──► changes beside the layers
    same files as before: only the weights are set       other files, or none: all removed first

The layers of before the first LoRA are put back as they were, so that the next plain image is as if
there had never been one. Everything is checked before anything is changed, and a LoRA that does
not fit fails the job with a sentence. Reads safetensors only, from this machine only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.engine.errors import translation
from runner.engine.weights import lora_changes, lora_layers
from runner.errors import InputBad, ModelMissing
from runner.files import sha256_of
from runner.lora_names import PARTS, TRANSFORMER, check, part_of
from runner.task import Lora

_ATTRIBUTE = "_fluxdrop_loras"
"""Under this name a module holds its `_Applied`."""

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Applied:
    """The LoRAs that a transformer or text encoder has now, each with what it does.

    `values` are the weights of before of those layers whose weights a LoRA has set.
    """

    key: Key
    fittings: Sequence[lora_changes.Fitting]
    channels: int
    values: dict[str, Any] = field(default_factory=dict)


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
    key = tuple((str(lora.path), lora.sha256 or _content(lora)) for lora in loras)
    messages: list[str] = []
    for part, module in _modules(pipe):
        applied = getattr(module, _ATTRIBUTE, None)
        if applied is None or applied.key != key:
            _remove_from(module)
            with translation():
                applied = _apply_to(pipe, part, module, loras, key)
        for lora, fitting in zip(loras, applied.fittings, strict=True):
            for _, change in fitting.changes:
                change.strength = lora.weight
            messages += fitting.warnings
        _set_values(module, applied, loras)
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
        f"{_content(lora)}*{lora.weight!r}"
        for lora in loras
        if any(part_of(key) != TRANSFORMER for key in _keys(lora.path, _content(lora)))
    ]
    return " ".join(marks)


def _modules(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The names and modules of a pipeline that LoRAs can be loaded into."""
    for part in PARTS:
        module = getattr(pipe, part, None)
        if hasattr(module, "named_modules"):
            yield part, module


def _apply_to(pipe: Any, part: str, module: Any, loras: Sequence[Lora], key: Key) -> _Applied:
    fittings = [_fitting(pipe, part, module, lora) for lora in loras]
    applied = _Applied(key, fittings, getattr(module.config, "in_channels", 0))
    setattr(module, _ATTRIBUTE, applied)
    try:
        for fitting in fittings:
            for name in fitting.values:
                weight = module.get_submodule(name).weight
                applied.values[name] = weight.detach().clone().cpu()
            for name, change in fitting.changes:
                lora_layers.put(module, name, change)
            if fitting.width > applied.channels:
                module.config.in_channels = fitting.width
        _follow(module)
    except BaseException:
        remove(pipe)
        raise
    return applied


def _set_values(module: Any, applied: _Applied, loras: Sequence[Lora]) -> None:
    """Set the weights that LoRAs have values for, each by its weight: at 1 to the value itself."""
    import torch

    with torch.no_grad():
        for name, own in applied.values.items():
            changes = [
                lora.weight * (fitting.values[name].double() - own.double())
                for lora, fitting in zip(loras, applied.fittings, strict=True)
                if name in fitting.values
            ]
            module.get_submodule(name).weight.copy_(sum(changes, start=own.double()))


def _fitting(pipe: Any, part: str, module: Any, lora: Lora) -> lora_changes.Fitting:
    """What one file does to a part of the pipeline, checked."""
    name, content = lora.name or lora.path.name, _content(lora)
    if lora.sha256 and lora.sha256 != content:
        raise InputBad(f"{name} changed since this job was accepted: drop the spec again")
    keys = _keys(lora.path, content)
    check(keys, name)
    # The transformer answers for the parts that this model does not have.
    parts = {each: each if hasattr(pipe, each) else TRANSFORMER for each in PARTS}
    own = [key for key in keys if parts[part_of(key)] == part]
    if not own:
        return lora_changes.Fitting()
    with _reading(lora.path):
        fitting = lora_changes.fitting(lora.path, name, part, module, own)
    more = fitting.width - getattr(module.config, "in_channels", 0)
    if fitting.width and fitting.values and more == 0:
        already = f"{name} makes a control model of a plain one, and this model is one already"
        return replace(fitting, warnings=[*fitting.warnings, f"{already}: both act together"])
    if more > 0 and "Control" not in type(pipe).__name__:
        raise InputBad(
            f"{name} reads a control picture beside the prompt: use it with `kind: control`"
        )
    return fitting


def _follow(module: Any) -> None:
    """Where layers are streamed from RAM, make the hooks those of the layers of now."""
    from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading

    _maybe_remove_and_reapply_group_offloading(module)


def _remove_from(module: Any) -> None:
    """Put a module's own layers, weights and channels back, also after half of a LoRA."""
    import torch

    applied = getattr(module, _ATTRIBUTE, None)
    if applied is None:
        return
    lora_layers.take_off(module)
    with torch.no_grad():
        for name, value in applied.values.items():
            module.get_submodule(name).weight.copy_(value)
    if applied.channels:
        module.config.in_channels = applied.channels
    _follow(module)
    delattr(module, _ATTRIBUTE)


def _content(lora: Lora) -> str:
    """The SHA-256 of a LoRA's file. Raises ModelMissing where there is none."""
    with _reading(lora.path):
        return sha256_of(lora.path)


@lru_cache(maxsize=256)
def _keys(path: Path, content: str) -> tuple[str, ...]:
    """The names of the tensors in a file that has this content."""
    from safetensors import safe_open

    with _reading(path), safe_open(path, framework="pt") as file:
        return tuple(file.keys())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises ModelMissing or InputBad where a file is gone, cannot be read or is damaged."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError:
        raise ModelMissing(
            f"the LoRA {path.name} is not on this machine any more: put it back, or run"
            " `fluxdrop models pull` with its repository"
        ) from None
    except OSError as error:
        raise InputBad(f"{path.name} cannot be read: {error.strerror}") from None
    except SafetensorError:
        raise InputBad(f"{path.name} is damaged or no safetensors file: fetch it again") from None
