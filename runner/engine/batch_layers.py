"""Computes the layers that take one vector per image row by row, whatever the size of the batch.

The product of a matrix with one vector runs in another kernel than its product with four, and sums
in another order. Only the layers that take one vector per image (time, guidance, modulation) show
this in the last bits of a transformer's output. Computed row by row they give the same bits as for
one image alone, and cost next to nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def row_by_row(model: Any) -> Iterator[None]:
    """Make the plain linear layers of a module compute a (batch, width) input one row at a time.

    Inputs of any other shape are computed as before; on leaving, the layers are as they were.
    """
    from torch.nn import Linear

    # A layer with a forward of its own belongs to a hook, a LoRA or a quantiser.
    layers = [m for m in model.modules() if type(m) is Linear and "forward" not in vars(m)]
    try:
        for layer in layers:
            layer.forward = partial(_by_row, layer.forward)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _by_row(forward: Callable[[Any], Any], tensor: Any) -> Any:
    import torch

    if tensor.dim() != 2 or tensor.shape[0] == 1:
        return forward(tensor)
    return torch.cat([forward(row) for row in tensor.split(1)])
