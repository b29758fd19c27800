"""Weights held in 8-bit integers and multiplied as such: half the memory of bf16, quicker products.

    output = (round(input / a) · weight) * a * weight_scale + bias

A scale `a` belongs to one row of the input, which is rounded while it computes, and a
`weight_scale` to one output. Sums of integers are exact, so a row gives the same bits in any
company. Layers that see one row an image, a product too small to gain, have only their weights in
8 bits. Which those are is decided by the layer and never by the call, or a batch would change
pixels. The layers are those of `fp8.matrices`.
"""

from functools import cache
from typing import Any

from runner.engine.errors import attempted
from runner.engine.memory.footprint import ROWS
from runner.engine.weights import fp8

_LARGEST = 127
_LEAST = 1e-30
"""The least scale, so that a row of zeros is not divided by zero."""
_FEWEST_ROWS = 32
"""CUDA refuses a product of 16 rows or fewer, and sides that are no multiples of 8."""
_SIDES = 8


def rounded(weight: Any) -> dict[str, Any]:
    """A weight in int8 beside its scales."""
    whole, scale = _rounded(weight)
    return {"weight": whole, "weight_scale": scale.flatten()}


def multiply_in_int8(model: Any) -> None:
    """Make every layer of `matrices` one that holds its weight in int8, to be loaded into it."""
    import torch

    held, multiplied = _classes()
    for name, layer in fp8.matrices(model).items():
        fits = layer.in_features % _SIDES == layer.out_features % _SIDES == 0
        layer.__class__ = held if _sees_one_row(name) or not fits else multiplied
        scale = torch.empty(layer.out_features, dtype=torch.float32, device="meta")
        layer.register_buffer("weight_scale", scale)
    model.requires_grad_(False)  # integers have no gradients, and loading keeps what is set here


def settle(model: Any, device: Any) -> bool:
    """Whether the products run on the device; where they do not, only the weights are in 8 bits."""
    held, multiplied = _classes()
    layers = [layer for layer in model.modules() if type(layer) is multiplied]
    works = not layers or _multiplies(device)
    for layer in layers if not works else ():
        layer.__class__ = held
    return works


def _multiplies(device: Any) -> bool:
    """Whether a small product of integers comes out right on a device."""
    import torch

    def comes_out_right() -> bool:
        ones = torch.ones(_FEWEST_ROWS, _FEWEST_ROWS, dtype=torch.int8, device=device)
        return bool((torch._int_mm(ones, ones.t()) == _FEWEST_ROWS).all())

    return bool(attempted(comes_out_right))


def _sees_one_row(name: str) -> bool:
    """Whether a layer computes from one vector an image, for a norm to be scaled and shifted by."""
    return any(part.startswith(("norm", "adaLN")) for part in name.split("."))


def _rounded(rows: Any) -> tuple[Any, Any]:
    """A matrix in int8, and the scale of each of its rows: (rows, 1) in float32."""
    import torch

    scale = (rows.abs().amax(1, keepdim=True).float() / _LARGEST).clamp_min(_LEAST)
    return (rows / scale).round_().to(torch.int8), scale


@cache
def _classes() -> tuple[Any, Any]:
    """`Held` and `Multiplied`: made on first use, because their base is torch's."""
    import torch
    from torch.nn.functional import linear, pad

    class Held(torch.nn.Linear):
        """Computes with a bf16 copy of its int8 weight; vectors of several images one by one."""

        def forward(self, inputs: Any) -> Any:
            inputs = inputs.to(torch.bfloat16)
            rows = inputs.reshape(-1, self.in_features)
            outputs = rows.new_empty(len(rows), self.out_features)
            weight = self._weight()
            # In parts, because sums are as large as two outputs.
            count = 1 if inputs.ndim == 2 else ROWS
            for part, into in zip(rows.split(count), outputs.split(count), strict=True):
                sums = self._sums(part, weight).mul_(self.weight_scale)
                into.copy_(sums if self.bias is None else sums.add_(self.bias))
            return outputs.reshape(*inputs.shape[:-1], self.out_features)

        def _weight(self) -> Any:
            return self.weight.to(torch.bfloat16)

        def _sums(self, rows: Any, weight: Any) -> Any:
            """What the rows give in float32, before the scales of the weight."""
            return linear(rows, weight).float()

    class Multiplied(Held):
        """Multiplies its int8 weight with rows that are rounded to int8 too."""

        def _weight(self) -> Any:
            return self.weight.t()

        def _sums(self, rows: Any, weight: Any) -> Any:
            whole, scale = _rounded(rows)
            if len(rows) < _FEWEST_ROWS:
                whole = pad(whole, (0, 0, 0, _FEWEST_ROWS - len(rows)))
            return torch._int_mm(whole, weight)[: len(rows)] * scale

    return Held, Multiplied
