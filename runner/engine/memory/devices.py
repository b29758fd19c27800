"""The torch device and dtype of a setting, threads, caches, and the import of the frameworks."""

import gc
import importlib.util
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from runner.engine.weights import loading


def frameworks() -> Any:
    """Import diffusers and transformers, without progress bars and notices; returns diffusers."""
    first = "diffusers" not in sys.modules
    # diffusers imports bitsandbytes in any case, which takes a second of every start, and only
    # 4-bit weights and LoRAs use it.
    defer_import("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with collecting_nothing():
        import diffusers
        import transformers
    if first:
        # The modules stay as long as the process: later collections need not traverse them.
        gc.freeze()

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    _count_by_bars(diffusers, transformers)
    return diffusers


@cache
def _count_by_bars(diffusers: Any, transformers: Any) -> None:
    """Tell of what their progress bars count, though these are not shown."""
    transformers.utils.logging.set_tqdm_hook(loading.bar)
    make = diffusers.utils.logging.tqdm
    diffusers.utils.logging.tqdm = lambda *given, **named: loading.bar(make, given, named)


def defer_import(name: str) -> None:
    """Load a package when an attribute of it is first used.

    Does nothing where the package is missing or in `sys.modules` already. importlib's own
    LazyLoader does not serve here: it loads when a `__spec__` is read, as every check for a package
    does, lets a second thread use a half-loaded module, and leaves it so after a failure.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _DeferredModule
    vars(module)["__loading"] = threading.RLock(), []
    sys.modules[name] = module


class _DeferredModule(ModuleType):
    """A module that loads itself for any attribute but its dunder names; other threads wait."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        lock, loading = vars(self)["__loading"]
        with lock:
            if type(self) is _DeferredModule and not loading:
                loading.append(True)
                try:
                    loader = self.__spec__.loader if self.__spec__ else None
                    assert loader is not None
                    loader.exec_module(self)
                    self.__class__ = ModuleType  # type: ignore[assignment]
                finally:
                    loading.clear()
        # While it loads, its own code asks here for names that it does not have yet.
        return ModuleType.__getattribute__(self, name)


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """Pause garbage collection, for imports: none of their objects is garbage, and it takes 1 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def choose(wanted: str) -> Any:
    """The torch.device of a setting: `auto` takes cuda, then mps, then cpu."""
    import torch

    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def use_threads(device: Any, weights: int) -> None:
    """On the CPU, set one thread for a model of less than 100 MB of weights, else torch's default.

    Splitting small matrices over threads gains nothing on an idle machine and loses seconds on a
    busy one, where the threads wait for each other; and one thread sums in one order, so that the
    pictures do not depend on the number of cores.
    """
    import torch

    default = _default_threads()
    if device.type == "cpu":
        torch.set_num_threads(1 if weights < 100_000_000 else default)


@cache
def _default_threads() -> int:
    """The number of threads that torch chose itself; cached before it is ever changed."""
    import torch

    return int(torch.get_num_threads())


def dtype_of(precision: str) -> Any:
    """The torch.dtype that a precision computes in; quantised weights compute in bfloat16."""
    import torch

    return getattr(torch, dtype_name(precision))


def dtype_name(precision: str) -> str:
    """The name of that dtype, as a sidecar records it."""
    return "float32" if precision == "fp32" else "bfloat16"


def describe(device: Any) -> str:
    """The name of a device in a sidecar; the same pixels are only promised on the same device."""
    import torch

    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return str(device)


def reserved() -> int | None:
    """The bytes of a CUDA device that this process has reserved; None without one in use."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return int(cuda.memory_reserved()) if cuda is not None and cuda.is_initialized() else None


def free_caches() -> None:
    """Free unused memory of the device: Python's reference cycles, then the allocator's blocks."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
