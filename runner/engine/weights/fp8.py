"""Weights held in 8 bits (float8 e4m3) and computed with in bf16: half the memory, few pixels less.

Only the matrices of the repeated blocks are cast; what is read once a step (embedders, the last
layer) and every bias stays as it is. diffusers' own layerwise casting leaves FLUX's modulation, a
quarter of all weights, in bf16, and casts the biases; its hook is used here, and its name kept, so
that all else in diffusers that asks for it finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_LARGEST = 448.0


def matrices(model: Any) -> dict[str, Any]:
    """The linear layers inside the repeated blocks, by name."""
    import torch

    blocks = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if type(module).__name__ in model._repeated_blocks
    )
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(blocks)
    }


def cast(tensors: Iterable[tuple[str, Any]], names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """These tensors with the weights of the named layers in fp8 and all others in bf16.

    By way of bf16, so that weights published in either format give the same numbers.
    """
    import torch

    weights = {f"{name}.weight" for name in names}
    for name, tensor in tensors:
        if not tensor.is_floating_point():
            yield name, tensor
            continue
        held = tensor.to(torch.bfloat16)
        if name in weights:  # beyond the largest number, fp8 is NaN in some versions of torch
            held = held.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
        yield name, held


def compute_in_bf16(model: Any) -> None:
    """Have every fp8 layer brought to bf16 for its turn."""
    from diffusers.hooks import HookRegistry

    for module in matrices(model).values():
        registry = HookRegistry.check_if_exists_or_initialize(module)
        registry.register_hook(_hook()(), "layerwise_casting")


@contextmanager
def adapters_in_bf16(model: Any) -> Iterator[None]:
    """While LoRA layers are put into a model: peft gives them the format of the weight they join.

    In fp8 they would be rounded, and could not be computed with. So each fp8 weight is hidden
    behind one number in bf16 of the same shape. Does nothing to a model without fp8.
    """
    import torch

    held = [
        (module, module.weight.data)
        for module in matrices(model).values()
        if module.weight.dtype == torch.float8_e4m3fn
    ]
    try:
        for module, weight in held:
            blank = torch.zeros(1, dtype=torch.bfloat16, device=weight.device)
            module.weight.data = blank.expand(weight.shape)
        yield
    finally:
        for module, weight in held:
            module.weight.data = weight


@cache
def _hook() -> Any:
    """The hook's class: made on first use, because its base is diffusers'."""
    import torch
    from diffusers.hooks.layerwise_casting import LayerwiseCastingHook

    class WeightCasting(LayerwiseCastingHook):
        """Computes a linear layer with its weight brought to bf16; what is held is never touched.

        So an exception in the middle leaves nothing behind, and torch can compile it.
        """

        def __init__(self) -> None:
            super().__init__(torch.float8_e4m3fn, torch.bfloat16, False)

        def initialize_hook(self, module: Any) -> Any:
            return module

        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

        def post_forward(self, module: Any, output: Any) -> Any:
            return output

        def new_forward(self, module: Any, given: Any) -> Any:
            weight = module.weight.to(self.compute_dtype)
            return torch.nn.functional.linear(given.to(self.compute_dtype), weight, module.bias)

    return WeightCasting
