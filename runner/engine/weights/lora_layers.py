"""Whether a LoRA fits a model, layer by layer, before anything of the model is touched.

Takes tensors under the names that diffusers' converters give them, whatever tool wrote the file.
A layer that the model lacks is left out and said; a layer of another size means that the LoRA was
made for another model, which diffusers would find out in the middle, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import InputBad

_DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight")
_UP = (".lora_B.weight", ".lora.up.weight", ".lora_up.weight")
_NORMS = (".norm_q.", ".norm_k.", ".norm_added_q.", ".norm_added_k.")
_INPUT = "x_embedder"
"""The one layer whose inputs may differ: pipelines with more channels share all other layers."""


@dataclass(frozen=True)
class Fitting:
    """The tensors of a LoRA that a module takes, by the names they came with.

    `norms` are the parameters that it writes over, `widens` says that it gives the input layer
    more channels.
    """

    tensors: Mapping[str, Any]
    norms: tuple[str, ...] = ()
    widens: bool = False
    warnings: tuple[str, ...] = ()


def check_numbers(tensors: Mapping[str, Any], name: str) -> None:
    """Refuse a LoRA without tensors, or with numbers that are none: every pixel would be lost."""
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
    """What of a LoRA goes into a module, whose tensors begin with `prefix` and a dot.

    `may_widen` is for control pipelines, whose input layer takes a second picture.
    """
    layers = dict(module.named_modules())
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}
    taken: dict[str, Any] = {}
    norms: list[str] = []
    unknown: set[str] = set()
    found: set[str] = set()
    widens = False
    for key, tensor in own.items():
        plain = key.removeprefix(f"{prefix}.")
        if any(part in plain for part in _NORMS) and "lora" not in plain:
            if _same_shape(module, plain, tensor):
                norms.append(plain)
                taken[key] = tensor
            else:
                unknown.add(plain)
            continue
        place = plain.partition(".lora")[0].partition(".lokr_")[0]
        if place not in layers:
            unknown.add(place)
            continue
        found.add(place)
        taken[key] = tensor
        if key.endswith(_DOWN):
            widens |= _check_inputs(layers[place], place, tensor, name, may_widen)
        elif key.endswith(_UP):
            _check_outputs(layers[place], place, tensor, name)
    _check_halves(taken, name)
    if own and not taken:
        raise InputBad(f"{name} fits no layer of this model: it was made for another one")
    lost = (
        f"{len(unknown)} of the {len(unknown) + len(found) + len(norms)} layers of {name} do not"
        " exist in this model and were left out"
    )
    return Fitting(taken, tuple(norms), widens, (lost,) if unknown else ())


def _same_shape(module: Any, name: str, tensor: Any) -> bool:
    try:
        return bool(module.get_parameter(name).shape == tensor.shape)
    except AttributeError:
        return False


def _check_inputs(layer: Any, place: str, down: Any, name: str, may_widen: bool) -> bool:
    """Whether the layer has to be widened for this half of a LoRA."""
    has, wants = getattr(layer, "in_features", None), down.shape[-1]
    if has is None or has == wants or (place == _INPUT and wants < has):
        return False
    if place != _INPUT:
        raise _other_model(name, place, wants, has)
    if not may_widen:
        raise InputBad(
            f"{name} reads a control picture beside the prompt: use it with `kind: control`"
        )
    return True


def _check_outputs(layer: Any, place: str, up: Any, name: str) -> None:
    has, wants = getattr(layer, "out_features", None), up.shape[0]
    if has is not None and has != wants:
        raise _other_model(name, place, wants, has)


def _other_model(name: str, place: str, wants: int, has: int) -> InputBad:
    return InputBad(
        f"{name} was made for another model: its layer {place} is {wants} wide, and {has} here"
    )


def _check_halves(tensors: Mapping[str, Any], name: str) -> None:
    """Both halves of every layer have to be there: their product is what acts."""
    for own, other in ((_DOWN, _UP), (_UP, _DOWN)):
        for key in tensors:
            for mine, its in zip(own, other, strict=True):
                if key.endswith(mine) and key.removesuffix(mine) + its not in tensors:
                    raise InputBad(f"{name} is incomplete: {key} has no other half")
