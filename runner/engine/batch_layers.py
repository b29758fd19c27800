"""Layers that take one vector an image, computed image by image also when several are in one call.

A matrix times one vector is another routine than a matrix times four, and adds up in another order;
these layers (time, guidance, modulation) are the only ones of a transformer where that shows in
the last bits. Done one by one they cost next to nothing. Undone completely at the end of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def row_by_row(model: Any) -> Iterator[None]:
    """Let the plain linear layers of a model take the rows of a (batch, width) input singly."""
    from torch.nn import Linear

    # A layer with a forward of its own belongs to a hook, a LoRA, a quantiser.
    layers = [m for m in model.modules() if type(m) is Linear and "forward" not in vars(m)]
    try:
        for layer in layers:
            layer.forward = _each_row(layer.forward)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _each_row(forward: Callable[[Any], Any]) -> Callable[[Any], Any]:
    import torch

    def each(given: Any) -> Any:
        if given.dim() != 2 or given.shape[0] == 1:
            return forward(given)
        return torch.cat([forward(row) for row in given.split(1)])

    return each
