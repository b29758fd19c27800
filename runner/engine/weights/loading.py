"""How far weights are read while they load, which takes minutes for large ones.

transformers counts tensors, diffusers the shards of a model, our own loops tensors or files. Must
never change what is loaded, nor slow it down.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from runner.clock import monotonic

OnLoading = Callable[[int, int], object]
"""Called with how many of how many are read; (0, 0) where that is not known."""

_APART_SECONDS = 0.2
# As transformers and diffusers call these bars; others count components, or what is downloaded.
_OF_WEIGHTS = ("Loading weights", "Loading checkpoint shards")
_T = TypeVar("_T")
_told: ContextVar[OnLoading | None] = ContextVar("told", default=None)


@contextmanager
def telling(on_loading: OnLoading) -> Iterator[None]:
    """Have what this thread loads meanwhile be told."""
    before = _told.set(on_loading)
    try:
        yield
    finally:
        _told.reset(before)


def counted(items: Iterable[_T], total: int) -> Iterator[_T]:
    """The items, telling how many of them are done, a few times a second at the most."""
    on_loading = _told.get()
    if on_loading is None:
        yield from items
        return
    on_loading(0, total)
    at = monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if monotonic() - at >= _APART_SECONDS:
            at = monotonic()
            on_loading(number, total)


def bar(make: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A library's progress bar as `make` makes it, over items that are counted.

    It has the shape of a hook for transformers' `set_tqdm_hook`.
    """
    # A bar of shards that are read at once has no items.
    if given and named.get("desc") in _OF_WEIGHTS and hasattr(given[0], "__len__"):
        given = (counted(given[0], len(given[0])), *given[1:])
    return make(*given, **named)
