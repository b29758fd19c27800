"""Packages that others import and hardly anybody uses: loaded when they are first asked for a name.

importlib's own LazyLoader loads at the first look at a `__spec__`, which every check for a package
takes, shows a second thread a half-loaded module, and stays half-loaded after a failure.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any


def put_off(name: str) -> None:
    """Have a package loaded when it is first used; nothing where it is missing or there already."""
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _PutOff
    vars(module)["__loading"] = threading.RLock(), []
    sys.modules[name] = module


class _PutOff(ModuleType):
    """A module that has its dunder names, and loads itself for any other; several threads wait."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        lock, under_way = vars(self)["__loading"]
        with lock:
            if type(self) is _PutOff and not under_way:
                under_way.append(True)
                try:
                    loader = self.__spec__.loader if self.__spec__ else None
                    assert loader is not None
                    loader.exec_module(self)
                    self.__class__ = ModuleType  # type: ignore[assignment]
                finally:
                    under_way.clear()
        # The module itself looks here for names that it has not got yet.
        return ModuleType.__getattribute__(self, name)
