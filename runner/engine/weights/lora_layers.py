"""Compares a LoRA with a model, layer by layer, before anything of the model is changed.

Takes tensors under the names that diffusers' converters give them, whatever tool wrote the file.
A layer that the model lacks is left out, with a warning; a layer of another size means that the
LoRA was made for another model, which diffusers notices halfway through loading, or not at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import InputBad

_DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight")
_UP = (".lora_B.weight", ".lora.up.weight", ".lora_up.weight")
_NORMS = (".norm_q.", ".norm_k.", ".norm_added_q.", ".norm_added_k.")
_INPUT_LAYER = "x_embedder"
"""The one layer whose inputs may differ: pipelines with more channels share all other layers."""


@dataclass(frozen=True)
class Fitting:
    """The tensors of a LoRA that fit a module, by their names in the LoRA.

    `norms` are the parameters of the module that the LoRA overwrites; `widens` is true where it
    gives the input layer more channels.
    """

    tensors: Mapping[str, Any]
    norms: tuple[str, ...] = ()
    widens: bool = False
    warnings: tuple[str, ...] = ()


def check_numbers(tensors: Mapping[str, Any], name: str) -> None:
    """Raises InputBad for a LoRA without tensors, or with NaN or infinity in one of them.

    One such number would spoil every pixel.
    """
    import torch

    if not tensors:
        raise InputBad(f"{name} holds no LoRA: choose another file")
    for key, tensor in tensors.items():
        if torch.is_tensor(tensor) and tensor.is_floating_point():
            values = tensor.float() if tensor.itemsize == 1 else tensor
            if not torch.isfinite(values).all():
                raise InputBad(f"{name} is damaged: {key} has numbers that are none (NaN)")


def fitted(
    tensors: Mapping[str, Any], module: Any, prefix: str, name: str, *, may_widen: bool
) -> Fitting:
    """The part of a LoRA that fits a module: of the tensors whose names begin with `prefix.`.

    The down half of a layer has the shape (rank, inputs), the up half (outputs, rank); neither
    shapes nor dtypes are changed. `may_widen` is for control pipelines, whose input layer takes a
    second picture. Raises InputBad where the LoRA was made for another model or is incomplete.
    """
    layers, parameters = dict(module.named_modules()), dict(module.named_parameters())
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}
    fitting: dict[str, Any] = {}
    norms: list[str] = []
    unknown: set[str] = set()
    known: set[str] = set()
    widens = False
    for key, tensor in own.items():
        parameter = key.removeprefix(f"{prefix}.")
        if any(part in parameter for part in _NORMS) and "lora" not in parameter:
            if parameter in parameters and parameters[parameter].shape == tensor.shape:
                norms.append(parameter)
                fitting[key] = tensor
            else:
                unknown.add(parameter)
            continue
        layer = parameter.partition(".lora")[0].partition(".lokr_")[0]
        if layer not in layers:
            unknown.add(layer)
            continue
        known.add(layer)
        fitting[key] = tensor
        if key.endswith(_DOWN):
            widens |= _check_inputs(layers[layer], layer, tensor, name, may_widen)
        elif key.endswith(_UP):
            has, wants = getattr(layers[layer], "out_features", None), tensor.shape[0]
            if has not in (None, wants):
                raise _other_model(name, layer, wants, has)
    _check_halves(fitting, name)
    if own and not fitting:
        raise InputBad(f"{name} fits no layer of this model: it was made for another one")
    left_out = (
        f"{len(unknown)} of the {len(unknown) + len(known) + len(norms)} layers of {name} do not"
        " exist in this model and were left out"
    )
    return Fitting(fitting, tuple(norms), widens, (left_out,) if unknown else ())


def _check_inputs(module: Any, layer: str, down: Any, name: str, may_widen: bool) -> bool:
    """Whether the layer has to be widened for this half of a LoRA."""
    has, wants = getattr(module, "in_features", None), down.shape[-1]
    if has is None or has == wants or (layer == _INPUT_LAYER and wants < has):
        return False
    if layer != _INPUT_LAYER:
        raise _other_model(name, layer, wants, has)
    if not may_widen:
        raise InputBad(
            f"{name} reads a control picture beside the prompt: use it with `kind: control`"
        )
    return True


def _other_model(name: str, layer: str, wants: int, has: int) -> InputBad:
    return InputBad(
        f"{name} was made for another model: its layer {layer} is {wants} wide, and {has} here"
    )


def _check_halves(tensors: Mapping[str, Any], name: str) -> None:
    """Raises InputBad where a half of a layer is missing: the update is the product of both."""
    for halves, others in ((_DOWN, _UP), (_UP, _DOWN)):
        for key in tensors:
            for half, other in zip(halves, others, strict=True):
                if key.endswith(half) and key.removesuffix(half) + other not in tensors:
                    raise InputBad(f"{name} is incomplete: {key} has no other half")
