"""Weights held in 8 bits (float8 e4m3) and computed with in bf16: half the memory, little loss.

Only the matrices of the repeated blocks are cast; layers that run once a step (embedders, the last
layer) and all biases stay in bf16. diffusers' own layerwise casting leaves FLUX's modulation, a
quarter of all weights, in bf16, and casts the biases. diffusers takes a model's dtype from its
first weight, which lies outside of the blocks.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

_LARGEST = 448.0
_UNNAMED = {"ZImageControlNetModel": ["ZImageControlTransformerBlock"]}
"""The repeated blocks of classes for which diffusers does not say them."""


def matrices(model: Any) -> dict[str, Any]:
    """The `torch.nn.Linear` layers inside a model's repeated blocks, by name."""
    import torch

    repeated = model._repeated_blocks or _UNNAMED.get(type(model).__name__, ())
    blocks = tuple(
        f"{name}." for name, module in model.named_modules() if type(module).__name__ in repeated
    )
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(blocks)
    }


def cast(
    tensors: Iterable[tuple[str, Any]],
    names: Iterable[str],
    exact: Collection[str],
    rounded: Callable[[Any], Mapping[str, Any]],
) -> Iterator[tuple[str, Any]]:
    """These tensors, with the weights of the named layers as `rounded` makes them.

    Those of the names in `exact` are in float32. The others are in bfloat16, through which weights
    go before they are rounded: published in fp32 and in bf16 they give the same numbers. Integer
    tensors stay as they are.
    """
    import torch

    weights = {f"{name}.weight" for name in names}
    for name, tensor in tensors:
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32 if name in exact else torch.bfloat16)
        if name in weights:
            stem = name.removesuffix("weight")
            yield from ((f"{stem}{own}", each) for own, each in rounded(tensor).items())
        else:
            yield name, tensor


def rounded(weight: Any) -> dict[str, Any]:
    """A weight in float8_e4m3fn."""
    import torch

    # Beyond the largest number, fp8 is NaN in some versions of torch.
    return {"weight": weight.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)}


def compute_in_bf16(model: Any) -> None:
    """Make every layer of `matrices` cast its weight to bf16 for the time of its forward pass."""
    for module in matrices(model).values():
        module.__class__ = _casting()


@cache
def _casting() -> Any:
    """The class of such a layer: made on first use, because its base is torch's."""
    import torch

    class CastingLinear(torch.nn.Linear):
        """Computes with a bf16 copy of its weight; the fp8 weight never changes.

        So an exception in the middle leaves nothing to undo, and torch can compile it.
        """

        def forward(self, inputs: Any) -> Any:
            weight = self.weight.to(torch.bfloat16)
            return torch.nn.functional.linear(inputs.to(torch.bfloat16), weight, self.bias)

    return CastingLinear
