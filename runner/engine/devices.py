"""The device and the number format: which there are, which to take, how they are called."""

from __future__ import annotations

import gc
import os
from functools import cache
from typing import Any

from runner.engine.models import Model

_SMALL = 100_000_000
_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def frameworks() -> Any:
    """diffusers, imported and quiet: no bars and no notices on the terminal of the runner."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return diffusers


def choose(wanted: str) -> Any:
    """The torch device for a setting: `auto` takes cuda, then mps, then cpu."""
    import torch

    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision_for(wanted: str, model: Model, device: Any) -> str:
    """The precision that is used: a model's own for `auto`, else what suits the device."""
    if wanted != "auto":
        return wanted
    if model.native:
        return model.native
    return "fp32" if device.type == "cpu" else "bf16"


def use_threads(device: Any, weights: int) -> None:
    """One CPU thread for a small model, all for a large one.

    Splitting tiny matrices over threads gains nothing on an idle machine and loses seconds on a
    busy one, where the threads wait for each other; and one thread adds up in one order, so the
    pictures do not depend on the number of cores.
    """
    import torch

    everything = _all_threads()
    if device.type == "cpu":
        torch.set_num_threads(1 if weights < _SMALL else everything)


@cache
def _all_threads() -> int:
    """What torch chose for itself, asked for before it is ever changed."""
    import torch

    return int(torch.get_num_threads())


def dtype_of(precision: str) -> Any:
    import torch

    return getattr(torch, _DTYPES[precision])


def describe(device: Any) -> str:
    """How a sidecar names a device: pictures are the same only on the same one."""
    import torch

    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return str(device)


def room(device: Any) -> int:
    """How many bytes of weights may lie on a device at once, the rest being for the work."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * 0.8)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 16 * 2**30
    return memory // 2


def free_caches() -> None:
    """Give back what is no longer used: Python's cycles first, then the allocator's blocks."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
