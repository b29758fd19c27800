"""Linear layers with changes added to their outputs: all that a LoRA file can say of a layer.

    y = W x + b + strength * change(x) + …, for each LoRA

A change is computed beside the layer, from the small matrices that the file has, so the layer's own
weights may be held in any way (fp8, nf4, GGUF, streamed from RAM) and are never touched. Strength 0
is the plain layer, to the bit. peft's layers are not used: they cannot take a part of a Kronecker
product, weaken a DoRA by other means, and wrap each other where a file mixes the sorts.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any


@cache
def classes() -> tuple[Any, Any]:
    """`Change` and `Changed`: made on first use, because their base is torch's."""
    import torch

    class Change(torch.nn.Module):
        """One change of a layer's weight (out, in) by factors, which are matrices:

            low rank    0 (rank, in), 1 (out, rank)    1 @ 0
            hadamard    0, 2 (out, rank), 1, 3         (0 @ 1) * (2 @ 3)
            kronecker   0, 1                           kron(0, 1), of it `rows`
            full        0 (out, in)                    0
            bias        none                           none

        times `scale`; `bias` (out) is added to the output. DoRA gives the changed weight lengths of
        its own: it is multiplied by `gain` (out) for each output or by `reach` (in) for each input.
        """

        def __init__(
            self, form: str, factors: list[Any], scale: float, inputs: int, **vectors: Any
        ):
            super().__init__()
            self.form, self.scale, self.inputs, self.strength = form, scale, inputs, 1.0
            self.factors = torch.nn.ModuleList()
            for factor in factors:
                layer = torch.nn.Linear(*factor.shape[::-1], bias=False, device="meta")
                layer.weight = torch.nn.Parameter(factor, requires_grad=False)
                self.factors.append(layer)
            for name in ("rows", "bias", "gain", "reach"):
                self.register_buffer(name, vectors.get(name))

        def forward(self, x: Any, y: Any, layer: Any) -> Any:
            """What is added to the output y of a layer with the input x."""
            if not self.factors:
                return self.bias.to(y.dtype)
            own = x.to(self.factors[0].weight.dtype)
            if self.reach is not None:
                own = own * self.reach
            added = self._product(own)
            if self.reach is not None:
                added = added + layer(own[..., : layer.in_features].to(x.dtype)) - y
            if self.gain is not None:
                plain = y if layer.bias is None else y - layer.bias
                added = added * self.gain + plain * (self.gain - 1)
            return (added if self.bias is None else added + self.bias).to(y.dtype)

        def _product(self, x: Any) -> Any:
            x = x[..., : self.inputs]  # a model with more channels shares all other layers
            match self.form, list(self.factors):
                case "low rank", [down, up]:
                    y = up(down(x))
                case "hadamard", factors:
                    matrix = whole(self.form, [each.weight for each in factors])
                    y = torch.nn.functional.linear(x, matrix)
                case "kronecker", [left, right]:
                    # kron(A, B) @ x is B @ X @ A.T for an x that is the rows of a matrix X.
                    y = right(x.unflatten(-1, (left.in_features, right.in_features)))
                    y = left(y.transpose(-1, -2)).transpose(-1, -2).flatten(-2)
                    y = y if self.rows is None else y[..., self.rows]
                case _, [full]:
                    y = full(x)
            return y * self.scale

    class Changed(torch.nn.Module):
        """A linear layer with its changes."""

        def __init__(self, layer: Any):
            super().__init__()
            self.base_layer, self.changes = layer, torch.nn.ModuleList()

        @property
        def weight(self) -> Any:
            """The layer's own; T5 reads its dtype."""
            return self.base_layer.weight

        def forward(self, x: Any) -> Any:
            """(…, in) to (…, out); what an `x` of a control model has more, only changes read."""
            layer = self.base_layer
            y = total = layer(x[..., : layer.in_features])
            for change in self.changes:
                if change.strength:
                    total = total + change.strength * change(x, y, layer)
            return total

    return Change, Changed


def whole(form: str, factors: Sequence[Any]) -> Any:
    """The change of a weight (out, in) by factors of this form, without scale and rows."""
    import torch

    match form, list(factors):
        case "low rank", [down, up]:
            return up @ down
        case "hadamard", [one, two, three, four]:
            return (one @ two) * (three @ four)
        case "kronecker", [left, right]:
            return torch.kron(left, right)
        case _, [full]:
            return full


def shape(form: str, factors: Sequence[Any]) -> tuple[int, int]:
    """The shape (out, in) of that change."""
    high, wide = whole(form, [factor.to("meta") for factor in factors]).shape
    return high, wide


def put(module: Any, name: str, change: Any) -> None:
    """Add a change to the layer of this name, on its device and in the dtype it computes in."""
    _, changed = classes()
    layer = module.get_submodule(name)
    if not isinstance(layer, changed):
        holder, _, leaf = name.rpartition(".")
        layer = changed(layer)
        setattr(module.get_submodule(holder), leaf, layer)
    layer.changes.append(change.to(layer.weight.device, dtype_of(layer.weight)))


def dtype_of(weight: Any) -> Any:
    """The dtype in which a layer with this weight computes: bfloat16 for one of few bits."""
    import torch

    plain = (torch.float32, torch.float16, torch.bfloat16)
    return weight.dtype if weight.dtype in plain else torch.bfloat16


def weight_of(layer: Any) -> Any:
    """The weight (out, in) of a linear layer in float32, in whatever way it is held."""
    import torch

    weight, shape = layer.weight.detach(), (layer.out_features, layer.in_features)
    if weight.is_floating_point() and weight.shape == shape:
        return weight.float()
    # Only the layer knows how its bits are packed: its outputs for each input alone.
    one = torch.eye(layer.in_features, dtype=dtype_of(weight), device=weight.device)
    bias, layer.bias = layer.bias, None
    try:
        with torch.no_grad():
            return layer(one).T.float()
    finally:
        layer.bias = bias
