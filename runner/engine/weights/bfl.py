"""Files in the layouts of BFL's quantiser, `fp8r` and `nvfp4`: computed with as they are held.

Where the GPU multiplies in few bits, diffusers rounds the inputs of a layer too and multiplies so;
elsewhere, and where that is tried once and fails, the weight of a layer is unpacked to bf16 while
it computes. Never unpacks a whole model, and never changes what is held.
"""

from functools import cache
from typing import Any

from runner.engine.errors import attempted
from runner.engine.memory.footprint import ROWS


def settle(model: Any) -> bool:
    """Choose how every layer of a loaded model computes; whether it rounds its inputs too."""
    import torch
    from diffusers.quantizers.bfl import utils

    kinds = (utils.BFLFP8RLinear, utils.BFLNVFP4Linear)
    layers = [layer for layer in model.modules() if type(layer) in kinds]
    tried = {type(layer): layer for layer in layers}
    rounds = {kind: _multiplies(kind, layer, torch, utils) for kind, layer in tried.items()}
    for layer in layers:
        if not rounds[type(layer)]:
            layer.__class__ = _unpacking(type(layer) is utils.BFLNVFP4Linear)
    return any(rounds.values())


def _multiplies(kind: Any, layer: Any, torch: Any, utils: Any) -> bool:
    """Whether diffusers multiplies in few bits on the device of a layer, and it works."""
    device = layer.weight.device
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if kind is utils.BFLNVFP4Linear:
        may = capability >= (10, 0) and utils.is_flashinfer_available()
    else:
        may = capability >= (8, 9)

    def gives_numbers() -> bool:
        rows = torch.ones(32, layer.in_features, dtype=torch.bfloat16, device=device)
        with torch.no_grad():
            return bool(layer(rows).isfinite().all())

    return may and bool(attempted(gives_numbers))  # it may start a compiler, which fails


@cache
def _unpacking(is_four_bits: bool) -> Any:
    """The class of a layer in nvfp4, or else in fp8r, that unpacks its weight."""
    import torch
    from diffusers.quantizers.bfl import utils

    kind: Any = utils.BFLNVFP4Linear if is_four_bits else utils.BFLFP8RLinear

    class Unpacking(kind):
        """Computes with a bf16 copy of its weight, made in parts: its numbers are first floats."""

        def forward(self, inputs: Any) -> Any:
            own = self.weight
            weight = own.new_empty(len(own), self.in_features, dtype=torch.bfloat16)
            scales = self.weight_scale.split(ROWS)
            for part, scale, into in zip(own.split(ROWS), scales, weight.split(ROWS), strict=True):
                if is_four_bits:
                    into.copy_(utils.dequantize_nvfp4(part, scale, self.weight_scale_2))
                else:
                    into.copy_(utils.dequantize_fp8r(part, scale))
            return torch.nn.functional.linear(inputs.to(torch.bfloat16), weight, self.bias)

    return Unpacking
