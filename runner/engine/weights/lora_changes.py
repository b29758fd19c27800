"""Reads a LoRA file for one part of a model and compares it with every layer, tensor by tensor.

    tensors ──names──► layers with their pieces ──sizes──► changes, a warning for what is left over

Nothing of the model is changed here. What no layer takes is an error or a warning, never silence;
a layer of another size means that the LoRA was made for another model.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from runner.engine.errors import translation
from runner.engine.weights import lora_layers
from runner.engine.weights.lora_layers import Form
from runner.engine.weights.lora_places import places
from runner.errors import InputBad
from runner.lora_names import piece_of

Named = Mapping[str, Any]

INPUT_LAYER = "x_embedder"
"""The one layer whose inputs may differ: pipelines with more channels share all other layers."""


_FLUX1_CHANNELS = 64
_PEFTS_FILE = "adapter_model.safetensors"
_CHOICE = re.compile(r"[*+?{|]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")


@dataclass(frozen=True)
class Fitting:
    """What a LoRA does to a module: changes of its layers, in turn, and weights that it sets.

    `width` is the number of inputs that its change of the input layer reads, or 0.
    """

    changes: Sequence[tuple[str, Any]] = ()
    values: Named = field(default_factory=dict)
    width: int = 0
    warnings: Sequence[str] = ()


def fitting(path: Path, name: str, part: str, module: Any, keys: Sequence[str]) -> Fitting:
    """What the tensors of these names do to a module.

    Raises InputBad where the LoRA was made for another model, or is damaged or incomplete.
    """
    layers = {own: m for own, m in module.named_modules() if hasattr(m, "weight")}
    table = places(layers)
    tensors, settings = _read(path, part, keys, name)
    found: dict[str, dict[str, Any]] = {}
    unknown: set[str] = set()
    for key, tensor in tensors.items():
        layer, piece = piece_of(key) or (key, "")
        stem, _, end = key.rpartition(".")
        if not piece and (piece_of(f"{stem}.alpha") or " ")[0] in table:
            unknown.add(end)
            continue
        if piece in found.get(layer, ()):
            layer = key  # a second one of its sort
        found.setdefault(layer, {})[piece] = tensor
    changes: list[tuple[str, Any]] = []
    values: dict[str, Any] = {}
    left_out = [layer for layer in found if layer not in table]
    if 2 * len(left_out) > len(found):
        raise InputBad(
            f"{name} was made for another model: {len(left_out)} of its {len(found)} layers do not"
            f" exist here, as {left_out[0]}"
        )
    taken: set[str] = set()
    # Layers alone go first: some tools write joined layers beside their parts.
    for layer in sorted(found.keys() & table, key=lambda each: (len(table[each][0]), each)):
        (names, swapped), pieces = table[layer], found[layer]
        if not taken.isdisjoint(names):
            left_out.append(layer)
            continue
        taken.update(names)
        own = {each: layers[each] for each in names}
        try:
            if pieces.keys() == {"value"}:
                values[names[0]] = pieces["value"].reshape(own[names[0]].weight.shape)
                continue
            scaled = _forms(pieces, _scale(settings, pieces.get("alpha"), names[0]))
            more = float(pieces.get("scalar", 1))
            forms = [(kron, factors, scale * more) for kron, factors, scale in scaled]
            with translation():
                changes += _changes(own, swapped, pieces, forms, name)
        except KeyError as error:
            raise InputBad(f"{name} is incomplete: {layer} has no `{error.args[0]}`") from None
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, ArithmeticError):
            raise InputBad(f"{name} is damaged: the tensors of {layer} do not agree") from None
    warnings = [
        f"{len(left_out)} of the {len(found)} layers of {name} are not in this model, or are there"
        f" twice, and were left out, as {layer}"
        for layer in left_out[:1]
    ]
    if unknown:
        warnings.append(f"{name} has unknown pieces of layers: {', '.join(sorted(unknown))}")
    if changes and not values and all(change.is_zero for _, change in changes):
        warnings.append(f"{name} changes nothing in the {part}: all its matrices are zero")
    has_alpha = "lora_alpha" in settings or any("alpha" in pieces for pieces in found.values())
    if path.name == _PEFTS_FILE and not has_alpha:
        warnings.append(
            f"{name} has no alpha: PEFT writes it into adapter_config.json, which is not read here;"
            " multiply `weight` by its lora_alpha / r"
        )
    widths = {change.inputs for layer, change in changes if layer == INPUT_LAYER}
    if widths:
        here, plain = layers[INPUT_LAYER].in_features, getattr(module, "out_channels", 0)
        control = 2 * plain if here == plain == _FLUX1_CHANNELS else here
        for wide in widths - {here, plain, control}:
            raise _for_another(name, INPUT_LAYER, wide, here)
    return Fitting(changes, values, max(widths, default=0), warnings)


def _read(path: Path, part: str, keys: Sequence[str], name: str) -> tuple[Named, Named]:
    """The tensors of these names, and peft's settings of this part in the file's header.

    Raises InputBad for NaN or infinity: one such number would spoil every pixel.
    """
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        try:
            header = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
            settings = {key.removeprefix(f"{part}."): value for key, value in header.items()}
            settings["alpha_pattern"] = _compiled(settings.get("alpha_pattern") or {})
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, re.error):
            raise InputBad(f"{name} is damaged: its settings cannot be read") from None
        tensors = {key: file.get_tensor(key) for key in keys}
    for key, tensor in tensors.items():
        piece = piece_of(key)
        is_number = tensor.is_floating_point() or tensor.is_complex()
        if not is_number and piece and piece[1] != "alpha":
            raise InputBad(f"{name} has whole numbers ({tensor.dtype}) in {key}: use it in bf16")
        real = tensor.float() if tensor.itemsize == 1 else tensor
        if real.is_complex() or not torch.isfinite(real).all():
            raise InputBad(f"{name} is damaged: {key} has numbers that are none (NaN)")
    return tensors, settings


def _compiled(patterns: Named) -> list[tuple[re.Pattern[str], Any]]:
    """The alphas of peft's settings by regular expressions for the ends of names, as peft has them.

    Raises ValueError for such as could take for ever to match (peft: utils/other.py).
    """
    choices = [len(_CHOICE.findall(pattern)) for pattern in patterns]
    repeats = any(map(_REPEATED_GROUP.search, patterns))
    if repeats or len(choices) > 2000 or max(choices, default=0) > 3 or sum(choices) > 100:
        raise ValueError(patterns)
    return [(re.compile(rf"(?:.*\.)?(?:{each})$"), alpha) for each, alpha in patterns.items()]


def _scale(settings: Named, alpha: Any, layer: str) -> Callable[[int], float]:
    """By what a change of this rank is multiplied; without an alpha of its own, by peft's settings.

    What is returned raises ValueError or ArithmeticError where it would be no number.
    """
    if alpha is None:
        found = (each for end, each in settings["alpha_pattern"] if end.match(layer))
        alpha = next(found, settings.get("lora_alpha"))
    power = 0.5 if settings.get("use_rslora") else 1

    def scale(rank: int) -> float:
        by = 1.0 if alpha is None else float(alpha) / float(rank**power)
        if not rank or not math.isfinite(by):
            raise ValueError(alpha)
        return by

    return scale


def _forms(pieces: Named, scale: Callable[[int], float]) -> Iterator[Form]:
    """The changes of a layer in the file.

    Raises KeyError with the name of a piece that is missing, ValueError for one too many.
    """

    def matrix(name: str) -> Any:
        tensor = pieces[name].flatten(1) if pieces[name].ndim > 2 else pieces[name]
        return tensor.float() if tensor.itemsize == 1 else tensor

    for names in (("down", "up"), ("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a")):
        if not pieces.keys().isdisjoint(names):
            factors = [matrix(name) for name in names]
            yield False, factors, scale(len(factors[0]))
    if any(name.startswith("lokr_") for name in pieces):
        sides, rank = [], 0
        for side in ("lokr_w1", "lokr_w2"):
            if side in pieces and {f"{side}_a", f"{side}_b"} & pieces.keys():
                raise ValueError(side)
            if f"{side}_a" in pieces or f"{side}_b" in pieces:
                sides.append(matrix(f"{side}_a").float() @ matrix(f"{side}_b").float())
                rank = len(pieces[f"{side}_b"])
            else:
                sides.append(matrix(side))
        # With both sides whole there is no rank, and LyCORIS does not scale.
        yield True, sides, scale(rank) if rank else 1.0
    if "diff" in pieces:
        diff = matrix("diff")
        yield True, [diff.new_ones(1, 1), diff], 1.0


def _changes(
    own: Named, swapped: bool, pieces: Named, forms: list[Form], name: str
) -> Iterator[tuple[str, Any]]:
    """The layers that lie one after the other in a layer of the file, with their changes."""
    import torch

    make, _ = lora_layers.classes()
    first = next(iter(own))
    if not hasattr(own[first], "in_features"):
        raise InputBad(f"{name} trains the norm {first}, which cannot act: use a plain LoRA")
    sizes = [layer.out_features for layer in own.values()]
    outputs, inputs = sum(sizes), own[first].in_features
    # Where the halves are swapped, the same order leads to the file's rows and back.
    order = torch.arange(outputs).roll(outputs // 2) if swapped else slice(None)
    parts = [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
    vectors = {}
    if "diff_b" in pieces:
        vectors["bias"] = pieces["diff_b"].float()
    if "bias" in pieces:
        vectors["bias"] = vectors.get("bias", 0) + pieces["bias"].float() * forms[0][2]
    if any(each.shape != (outputs,) for each in vectors.values()):
        raise ValueError(vectors)
    if "dora" in pieces:
        vectors |= _lengths(pieces["dora"].float(), forms, list(own.values()), order)
    if not forms and not vectors:
        raise KeyError("change")
    for kron, factors, scale in forms or [(False, [], 1.0)]:
        high, wide = outputs, inputs
        if factors:
            # Only for its shape, and for an error where the sizes do not go together.
            blank = [torch.empty(each.shape, device="meta") for each in factors]
            high, wide = lora_layers.whole(kron, blank).shape
        for wants, has in ((high, outputs), (inputs if first == INPUT_LAYER else wide, inputs)):
            if wants != has:
                raise _for_another(name, first, wants, has)
        for (own_name, layer), rows in zip(own.items(), [order] if swapped else parts, strict=True):
            dtype = lora_layers.dtype_of(layer.weight)
            cut = [f[rows] if n % 2 and not kron else f for n, f in enumerate(factors)]
            here = {key: each if key == "reach" else each[rows] for key, each in vectors.items()}
            if "gain" in here and layer.bias is not None:  # it is no part of the weight
                own_bias = layer.bias.detach().float().cpu()
                here["bias"] = here.get("bias", 0) - here["gain"] * own_bias
            # Copies, because each is streamed on its own: of a tensor that several changes hold,
            # only the first would be brought.
            cut = [factor.to(dtype, copy=True) for factor in cut]
            here = {key: each.clone() for key, each in here.items()}
            yield own_name, make((kron, cut, scale), wide, rows, **here)
        vectors = {}  # they are of the layer, not of each of its changes


def _for_another(name: str, layer: str, wants: int, has: int) -> InputBad:
    return InputBad(
        f"{name} was made for another model: its layer {layer} is {wants} wide, and {has} here"
    )


def _lengths(lengths: Any, forms: Sequence[Form], own: Sequence[Any], order: Any) -> dict[str, Any]:
    """DoRA's factors for a layer's outputs (`gain`) or inputs (`reach`), less 1, in float32."""
    import torch

    ((kron, factors, scale),) = forms
    before = torch.cat([lora_layers.weight_of(layer) for layer in own])[order]
    change = lora_layers.whole(kron, [each.to(before.device).float() for each in factors]) * scale
    wide = max(before.shape[1], change.shape[1])
    pad = torch.nn.functional.pad
    after = sum(pad(each, (0, wide - each.shape[1])) for each in (before, change))
    # LyCORIS and OneTrainer have a length for each input unless they are told otherwise.
    by_output = lengths.ndim == 1 or len(lengths) == len(before)
    norms = after.norm(dim=1 if by_output else 0).clamp_min(1e-8).cpu()
    return {"gain" if by_output else "reach": lengths.flatten() / norms - 1}
