"""Linear layers with changes added to their outputs: all that a LoRA file can say of one layer.

    y = W x + b + strength * change(x) + …, for each LoRA

A change is computed beside the layer, from the small matrices that the file has, so the layer's own
weights may be held in any way (fp8, nf4, GGUF, streamed from RAM) and are never touched. Strength 0
is the plain layer, to the bit. peft's layers are not used: they cannot take a part of a Kronecker
product, weaken a DoRA by other means, and wrap each other where a file mixes the sorts.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

Form = tuple[bool, list[Any], float]
"""A change of a weight: the arguments of `whole`, and by what their result is multiplied."""


@cache
def classes() -> tuple[Any, Any]:
    """`Change` and `Changed`: made on first use, because their base is torch's."""
    import torch
    from torch.nn.functional import linear

    class Change(torch.nn.Module):
        """A change of a layer's weight, which reads so many of its inputs.

        Of a Kronecker product only `rows` are used. `bias` (out) is added to the output. DoRA gives
        the changed weight other lengths: times 1 + `gain` (out) by output or 1 + `reach` (in) by
        input; in few bits a factor near 1 would be 1.
        """

        def __init__(self, form: Form, inputs: int, rows: Any, **vectors: Any):
            super().__init__()
            (self.kron, factors, self.scale), self.inputs, self.rows = form, inputs, rows
            self.strength, self.count = 1.0, len(factors)
            # In this module itself: where layers are streamed, what they hold is there only then.
            for n, factor in enumerate(factors):
                self.register_buffer(f"factor{n}", factor)
            for name in ("bias", "gain", "reach"):
                self.register_buffer(name, vectors.get(name))

        @property
        def is_zero(self) -> bool:
            """Whether it has no vectors, and a factor is zero."""
            held = list(self.buffers())
            return len(held) == self.count and not all(each.any() for each in held)

        def forward(self, x: Any, y: Any, layer: Any) -> Any:
            """What is added to the output y of a layer with the input x."""
            factors = [getattr(self, f"factor{n}") for n in range(self.count)]
            if not factors:
                return self.bias.to(y.dtype)
            own = x.to(factors[0].dtype)
            if self.reach is not None:  # what the layer gives is rounded, so it is given much
                most = self.reach.abs().max().clamp_min(1e-8)
                more = own * (self.reach / most)
                own = own + more * most
            added = self._product(own[..., : self.inputs], factors) * self.scale
            if self.reach is not None:  # less the bias, which is there only while the layer runs
                more = more[..., : layer.in_features].to(x.dtype)
                added = added + (layer(more) - layer(torch.zeros_like(more[..., :1, :]))) * most
            if self.gain is not None:
                added = added + (added + y) * self.gain
            return (added if self.bias is None else added + self.bias).to(y.dtype)

        def _product(self, x: Any, factors: list[Any]) -> Any:
            if self.kron:
                left, right = factors
                # kron(A, B) @ x is B @ X @ A.T for an x that is the rows of a matrix X.
                y = linear(x.unflatten(-1, (left.shape[1], right.shape[1])), right)
                y = linear(y.transpose(-1, -2), left).transpose(-1, -2)
                return y.flatten(-2)[..., self.rows]
            if len(factors) == 2:
                return linear(linear(x, factors[0]), factors[1])
            return linear(x, whole(False, factors))

    class Changed(torch.nn.Module):
        """A linear layer with its changes, which may read more inputs than the layer itself."""

        def __init__(self, layer: Any):
            super().__init__()
            self.base_layer, self.changes = layer, torch.nn.ModuleList()

        @property
        def weight(self) -> Any:
            """The layer's own; T5 reads its dtype."""
            return self.base_layer.weight

        def forward(self, x: Any) -> Any:
            layer = self.base_layer
            y = total = layer(x[..., : layer.in_features])
            for change in self.changes:
                if change.strength:
                    total = total + change.strength * change(x, y, layer)
            return total

    return Change, Changed


def whole(kron: bool, factors: Sequence[Any]) -> Any:
    """The change of a weight (out, in): a Kronecker product of two matrices, or of low rank.

    Two factors are (rank, in) and (out, rank) of a LoRA; of a LoHa two more give a second such
    matrix, and each number is the product of both.
    """
    import torch

    if kron:
        return torch.kron(*factors)
    change = factors[1] @ factors[0]
    return change * (factors[3] @ factors[2]) if len(factors) > 2 else change


def put(module: Any, name: str, change: Any) -> None:
    """Add a change to the layer of this name, on its device and in the dtype it computes in."""
    _, changed = classes()
    layer = module.get_submodule(name)
    if not isinstance(layer, changed):
        layer = changed(layer)
        module.set_submodule(name, layer)
    layer.changes.append(change.to(layer.weight.device, dtype_of(layer.weight)))


def take_off(module: Any) -> None:
    """Put the layers of before the first change back: the same objects, in the same order."""
    _, changed = classes()
    for name, layer in list(module.named_modules()):
        if isinstance(layer, changed):
            module.set_submodule(name, layer.base_layer)


def dtype_of(weight: Any) -> Any:
    """The dtype in which a layer with this weight computes: bfloat16 for one of few bits."""
    import torch

    is_plain = weight.is_floating_point() and weight.itemsize > 1
    return weight.dtype if is_plain else torch.bfloat16


def weight_of(layer: Any) -> Any:
    """The weight (out, in) of a linear layer in float32, in whatever way it is held."""
    import torch

    weight = layer.weight.detach()
    if weight.is_floating_point() and not hasattr(layer, "weight_scale"):
        return weight.float()
    # Only the layer knows how its bits are packed: its output for each input alone.
    one = torch.eye(layer.in_features, dtype=torch.bfloat16, device=weight.device)
    bias, layer.bias = layer.bias, None
    try:
        with torch.no_grad():
            return layer(one[None])[0].T.float()
    finally:
        layer.bias = bias
