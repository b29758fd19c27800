"""Defers the import of a package that other packages import but rarely use, until its first use.

importlib's own LazyLoader does not serve here: it loads when a `__spec__` is read, as every check
for a package does, lets a second thread use a half-loaded module, and leaves the module half-loaded
after a failure.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any


def defer_import(name: str) -> None:
    """Load a package when an attribute of it is first used.

    Does nothing where the package is missing or in `sys.modules` already.
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
