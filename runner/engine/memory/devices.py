"""The device and the number format: which there are, which to take, how they are called."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from runner.engine.lazy_imports import put_off

_SMALL = 100_000_000


def frameworks() -> Any:
    """diffusers, imported and quiet: no bars and no notices on the terminal of the runner."""
    first = "diffusers" not in sys.modules
    # diffusers imports it in any case. It takes a second of every start, and only 4-bit weights
    # and LoRAs use it.
    put_off("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with collecting_nothing():
        import diffusers
        import transformers
    if first:
        # It stays as long as the process: later collections need not look through it again.
        gc.freeze()

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return diffusers


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """For imports: of so many new objects none is garbage, and looking takes a second."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def choose(wanted: str) -> Any:
    """The torch device for a setting: `auto` takes cuda, then mps, then cpu."""
    import torch

    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


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
    """The number format that a precision computes in; quantised weights compute in bfloat16."""
    import torch

    return getattr(torch, dtype_name(precision))


def dtype_name(precision: str) -> str:
    """The same by name, as a sidecar records it."""
    return "float32" if precision == "fp32" else "bfloat16"


def describe(device: Any) -> str:
    """How a sidecar names a device: pictures are the same only on the same one."""
    import torch

    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return str(device)


def free_caches() -> None:
    """Give back what is no longer used: Python's cycles first, then the allocator's blocks."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
