"""Reads a LoRA file for one part of a model and compares it with every layer, tensor by tensor.

    tensors ──names──► layers with their pieces ──sizes──► changes, warnings for what is left over

Nothing of the model is changed here. What no layer takes is an error or a warning, never silence;
a layer of another size means that the LoRA was made for another model.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import lora_names
from runner.engine.weights import lora_layers, lora_places
from runner.engine.weights.lora_places import Place
from runner.errors import InputBad

INPUT_LAYER = "x_embedder"
"""The one layer whose inputs may differ: pipelines with more channels share all other layers."""

_WITH_ROWS = {"low rank": (1,), "hadamard": (0, 2), "kronecker": (), "full": (0,), "bias": ()}
"""Which factors of a form have a row for each output."""


@dataclass(frozen=True)
class Fitting:
    """What a LoRA does to a module: changes of its layers, in turn, and weights that it sets.

    `width` is the number of inputs that its change of the input layer reads, or 0.
    """

    changes: Sequence[tuple[str, Any]] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    width: int = 0
    warnings: tuple[str, ...] = ()


def fitting(path: Path, name: str, part: str, module: Any, keys: Sequence[str]) -> Fitting:
    """What the tensors of these names do to a module.

    Raises InputBad where the LoRA was made for another model, or is damaged or incomplete.
    """
    layers = {
        own: layer
        for own, layer in module.named_modules()
        if hasattr(layer, "in_features") or getattr(layer, "weight", None) is not None
    }
    table = lora_places.places(layers)
    tensors, settings = _read(path, part, keys, name)
    found, strange = _by_layer(tensors)
    absent = [layer for layer in found if layer not in table]
    if len(absent) == len(found):
        raise InputBad(f"{name} fits no layer of this model: it was made for another one")
    if 2 * len(absent) > len(found):
        raise InputBad(
            f"{name} was made for another model: {len(absent)} of its {len(found)} layers do not"
            f" exist here, as {absent[0]}"
        )
    changes: list[tuple[str, Any]] = []
    values: dict[str, Any] = {}
    twice: list[str] = []
    taken: set[str] = set()
    # Layers alone go first: some tools write joined layers beside their parts.
    for layer in sorted(found.keys() - absent, key=lambda each: (len(table[each].layers), each)):
        place, pieces = table[layer], found[layer]
        if taken & set(place.layers):
            twice.append(layer)
            continue
        taken.update(place.layers)
        own = [layers[each] for each in place.layers]
        try:
            if "value" in pieces and pieces.keys() == {"value"}:
                values[place.layers[0]] = pieces["value"].reshape(own[0].weight.shape)
            else:
                scale = _scale(settings, pieces.get("alpha"), place.layers[0])
                changes += _changes(place, own, pieces, scale, name)
        except KeyError as error:
            raise InputBad(f"{name} is incomplete: {layer} has no {error.args[0]}") from None
        except (RuntimeError, ValueError, IndexError, TypeError):
            raise InputBad(f"{name} is damaged: the tensors of {layer} do not agree") from None
    problems = (
        (absent, f"of the {len(found)} layers of {name} do not exist in this model"),
        (twice, f"of the {len(found)} layers of {name} are there by another name too"),
        (strange, f"of the {len(keys)} tensors of {name} are of no known sort"),
    )
    warnings = tuple(
        f"{len(which)} {what} and were left out, as {which[0]}" for which, what in problems if which
    )
    width = max([change.inputs for own_name, change in changes if own_name == INPUT_LAYER] or [0])
    return Fitting(changes, values, width, warnings)


def _read(
    path: Path, part: str, keys: Sequence[str], name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of these names, and peft's settings of this part in the file's header.

    Raises InputBad for NaN or infinity: one such number would spoil every pixel.
    """
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        try:
            header = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
            settings = {key.removeprefix(f"{part}."): value for key, value in header.items()}
        except (ValueError, AttributeError, RecursionError):
            raise InputBad(f"{name} is damaged: its settings cannot be read") from None
        tensors = {key: file.get_tensor(key) for key in keys}
    for key, tensor in tensors.items():
        values = tensor.float() if tensor.itemsize == 1 else tensor
        if not torch.isfinite(values).all():
            raise InputBad(f"{name} is damaged: {key} has numbers that are none (NaN)")
    return tensors, settings


def _by_layer(tensors: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The pieces of each layer in the file, and the names that say no piece, or one again."""
    found: dict[str, dict[str, Any]] = {}
    strange = []
    for key, tensor in tensors.items():
        named = lora_names.piece_of(key)
        pieces = found.setdefault(named.layer, {}) if named else {}
        if named and named.piece not in pieces:
            pieces[named.piece] = tensor
        else:
            strange.append(key)
    return found, strange


def _scale(settings: Mapping[str, Any], alpha: Any, layer: str) -> Callable[[int], float]:
    """By what the change of a layer is multiplied, for its rank.

    Without an alpha of its own a layer has that of peft's settings, whose patterns are taken as
    ends of names.
    """
    if alpha is None:
        patterns = dict(settings.get("alpha_pattern") or {})
        ends = [end for end in patterns if f".{layer}".endswith(f".{end.lstrip('^')}")]
        alpha = patterns[ends[0]] if ends else settings.get("lora_alpha")
    power = 0.5 if settings.get("use_rslora") else 1
    return lambda rank: 1.0 if alpha is None else float(alpha) / float(rank**power)


def _forms(
    pieces: Mapping[str, Any], scale: Callable[[int], float]
) -> Iterator[tuple[str, list[Any], float]]:
    """The changes of a layer in the file: form, factors in float32, and what multiplies them.

    Raises KeyError with the name of a piece that is missing, ValueError for one too many.
    """

    def matrix(name: str) -> Any:
        tensor = pieces[name].float()
        return tensor.flatten(1) if tensor.ndim > 2 else tensor

    if {"down", "up"} & pieces.keys():
        down, up = matrix("down"), matrix("up")
        yield "low rank", [down, up], scale(len(down))
    if any(name.startswith("hada_") for name in pieces):
        factors = [matrix(f"hada_{name}") for name in ("w1_a", "w1_b", "w2_a", "w2_b")]
        yield "hadamard", factors, scale(len(factors[1]))
    if any(name.startswith("lokr_") for name in pieces):
        sides, rank = [], 0
        for side in ("lokr_w1", "lokr_w2"):
            own = {name for name in pieces if name.startswith(side)}
            if side in own and len(own) > 1:
                raise ValueError(own)
            if side in own or not own:
                sides.append(matrix(side))
            else:
                sides.append(matrix(f"{side}_a") @ matrix(f"{side}_b"))
                rank = len(pieces[f"{side}_b"])
        # With both sides whole there is no rank, and LyCORIS does not scale.
        yield "kronecker", sides, scale(rank) if rank else 1.0
    if "diff" in pieces:
        yield "full", [matrix("diff")], 1.0


def _changes(
    place: Place,
    own: Sequence[Any],
    pieces: Mapping[str, Any],
    scale: Callable[[int], float],
    name: str,
) -> Iterator[tuple[str, Any]]:
    """The layers of a place with their changes."""
    import torch

    make, _ = lora_layers.classes()
    first = place.layers[0]
    if not all(hasattr(layer, "in_features") for layer in own):
        raise InputBad(f"{name} changes {first}, which cannot act here: convert it to a plain LoRA")
    forms = list(_forms(pieces, scale))
    outputs, inputs = sum(layer.out_features for layer in own), own[0].in_features
    shapes = [lora_layers.shape(form, factors) for form, factors, _ in forms]
    for high, wide in shapes:
        for wants, has in ((high, outputs), (inputs if first == INPUT_LAYER else wide, inputs)):
            if wants != has:
                raise InputBad(
                    f"{name} was made for another model: its layer {first} is {wants} wide, and"
                    f" {has} here"
                )
    # Where the halves are swapped, the same order leads to the file's rows and back.
    order = torch.arange(outputs).roll(outputs // 2 if place.swapped else 0)
    vectors = _lengths(pieces, forms, own, order)
    if "diff_b" in pieces or "bias" in pieces:
        bias = pieces["bias"].float() * forms[0][2] if "bias" in pieces else torch.zeros(outputs)
        vectors["bias"] = bias + pieces["diff_b"].float() if "diff_b" in pieces else bias
        if vectors["bias"].shape != (outputs,):
            raise ValueError(bias)
    if not forms:
        if not vectors:
            raise KeyError("change")
        forms, shapes = [("bias", [], 1.0)], [(outputs, inputs)]
    split = order.split([layer.out_features for layer in own])
    for (form, factors, multiplier), (_, wide) in zip(forms, shapes, strict=True):
        for layer_name, layer, rows in zip(place.layers, own, split, strict=True):
            dtype = lora_layers.dtype_of(layer.weight)
            cut = [
                (factor[rows] if number in _WITH_ROWS[form] else factor).to(dtype)
                for number, factor in enumerate(factors)
            ]
            here = {key: each if key == "reach" else each[rows] for key, each in vectors.items()}
            if form == "kronecker" and (len(own) > 1 or place.swapped):
                here["rows"] = rows
            yield layer_name, make(form, cut, multiplier, wide, **here)
        vectors = {}  # they are of the layer, not of each of its changes


def _lengths(
    pieces: Mapping[str, Any],
    forms: Sequence[tuple[str, list[Any], float]],
    own: Sequence[Any],
    order: Any,
) -> dict[str, Any]:
    """DoRA's factors for the outputs (`gain`) or the inputs (`reach`) of a layer in the file."""
    import torch

    if "dora" not in pieces:
        return {}
    ((form, factors, multiplier),) = forms
    before = torch.cat([lora_layers.weight_of(layer) for layer in own])
    before = before[order.to(before.device)]
    change = lora_layers.whole(form, [each.to(before.device) for each in factors]) * multiplier
    wide = max(before.shape[1], change.shape[1])
    pad = torch.nn.functional.pad
    after = sum(pad(each, (0, wide - each.shape[1])) for each in (before, change))
    lengths = pieces["dora"].float()
    # LyCORIS and OneTrainer have a length for each input unless they are told otherwise.
    by_output = lengths.ndim == 1 or len(lengths) == len(before)
    norms = after.norm(dim=1 if by_output else 0).clamp_min(1e-8).cpu()
    return {"gain" if by_output else "reach": lengths.flatten() / norms}
