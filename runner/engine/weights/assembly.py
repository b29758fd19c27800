"""Pipelines put together from a folder as a plan says: which parts, how precise, placed where.

A text stage has only the text encoders and their tokenizers, a paint stage everything else. Only
local files are read. Never decides what is loaded or for how long: that is the shelf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.engine.errors import Bug
from runner.engine.hub.sources import INDEX
from runner.engine.memory import devices, footprint
from runner.engine.weights import quantise

if TYPE_CHECKING:
    from runner.engine.memory.plans import Machine
    from runner.engine.resolved_task import ResolvedTask
    from runner.engine.speed import Speed

_SCHEDULER = "scheduler"
_CONFIG = "config.json"


@dataclass(frozen=True)
class EncodedElsewhere:
    """Stands for the text encoder of a prior that is only given embeddings.

    Without one, the prior would replace the embeddings that it is given by zeros.
    """

    dtype: Any


def pipeline_class(name: str) -> Any:
    """The pipeline class of this name."""
    library = devices.frameworks()
    with devices.collecting_nothing():
        found = getattr(library, name, None)
    if found is None:
        raise Bug(f"diffusers has no {name}")
    return found


def text_stage(resolved: ResolvedTask, device: Any, store: Path, shared: Mapping[str, Any]) -> Any:
    """A pipeline that can only encode prompts, on the device or the CPU as the plan says."""
    plan, parts = resolved.plan, resolved.family.text_parts
    given: dict[str, Any] = {
        part: None for part in _index(resolved.folder) if part not in (*parts, _SCHEDULER)
    }
    given |= shared
    if plan.text_precision in quantise.QUANTISED:
        for part, (library, name) in _index(resolved.folder).items():
            # Only what has weights has a plain config.json; tokenizers have none.
            if part in parts and part not in given and (resolved.folder / part / _CONFIG).is_file():
                given[part] = quantise.load_text_encoder(
                    _class(library, name),
                    resolved.folder / part,
                    plan.text_precision,
                    device,
                    store,
                )
    pipe = _load(resolved.serving.pipeline, resolved.folder, plan.text_precision, given)
    _place(pipe, "cpu" if plan.text == "cpu" else device)
    return pipe


def paint_stage(
    resolved: ResolvedTask, device: Any, store: Path, shared: Mapping[str, Any], speed: Speed
) -> Any:
    """A pipeline without text encoders, placed on the device as the plan says."""
    plan, family = resolved.plan, resolved.family
    index = _index(resolved.folder)
    given: dict[str, Any] = {part: None for part in family.text_parts if part in index}
    given |= shared
    if family.heavy not in given:
        heavy = _heavy(resolved, device, store)
        given |= {family.heavy: heavy} if heavy is not None else {}
    pipe = _load(resolved.serving.pipeline, resolved.folder, plan.precision, given)
    _tile(pipe.vae, plan.tiling)
    if plan.placement == "offload":
        pipe.enable_model_cpu_offload(device=device)
    elif plan.placement == "stream":
        getattr(pipe, family.heavy).enable_group_offload(
            onload_device=device,
            offload_type="leaf_level",
            use_stream=device.type == "cuda",
            low_cpu_mem_usage=True,  # pinned as a whole, it would take twice its size
        )
        _place(pipe, device, skip=family.heavy)
    else:
        _place(pipe, device)
    speed.apply(pipe)
    return pipe


def _heavy(resolved: ResolvedTask, device: Any, store: Path) -> Any:
    """The transformer, where diffusers would not load it by itself as the plan says; else None."""
    precision, folder = resolved.plan.precision, resolved.folder / resolved.family.heavy
    library, name = _index(resolved.folder)[resolved.family.heavy]
    if precision in quantise.QUANTISED:
        if resolved.plan.placement == "stream":
            device = "cpu"  # the whole of it is what does not fit
        return quantise.load_transformer(
            _class(library, name), folder, precision, device, store, resolved.single
        )
    if resolved.single is None:
        return None
    return _class(library, name).from_single_file(
        str(resolved.single),
        config=str(folder),
        dtype=devices.dtype_of(precision),
        local_files_only=True,
    )


def prior_stage(resolved: ResolvedTask, device: Any) -> Any:
    """The pipeline that turns pictures into embeddings; prompts come to it encoded."""
    prior = resolved.serving.prior
    assert prior is not None
    assert resolved.prior_folder is not None
    parts = {
        part: None for part in _index(resolved.prior_folder) if part in resolved.family.text_parts
    }
    pipe = _load(prior.pipeline, resolved.prior_folder, resolved.plan.text_precision, parts)
    _place(pipe, device)
    pipe.text_encoder = EncodedElsewhere(devices.dtype_of(resolved.plan.text_precision))
    return pipe


def text_bytes(resolved: ResolvedTask) -> int:
    """What a text stage takes of the device."""
    plan = resolved.plan
    return 0 if plan.text == "cpu" else footprint.text(resolved.model, plan.text_precision)


def paint_bytes(resolved: ResolvedTask) -> int:
    """What the weights of a paint stage take of the device, the prior's left out."""
    if resolved.plan.placement == "stream":
        return 0
    vae = resolved.model.weights.vae * (4 if resolved.plan.precision == "fp32" else 2)
    return footprint.transformer(resolved.model, resolved.plan.precision) + vae


def prior_bytes(resolved: ResolvedTask) -> int:
    """What the weights of a prior take of the device."""
    return resolved.model.weights.prior * (4 if resolved.plan.precision == "fp32" else 2)


def room(resolved: ResolvedTask, machine: Machine) -> int:
    """What weights may take of the device while these needs are worked on."""
    return machine.room - max(resolved.plan.bytes - _weights(resolved), 0)


def _weights(resolved: ResolvedTask) -> int:
    """The weights that the plan's peak counts in."""
    text = text_bytes(resolved) if resolved.plan.text == "stays" else 0
    return text + paint_bytes(resolved) + (prior_bytes(resolved) if resolved.serving.prior else 0)


def _tile(vae: Any, tiling: bool) -> None:
    """Decode in tiles or not; left to itself, the VAE tiles only above 1024 pixels."""
    if not tiling:
        vae.disable_tiling()
        return
    vae.enable_tiling()
    vae.tile_sample_min_size = footprint.TILE
    vae.tile_latent_min_size = footprint.TILE // 8


def _load(name: str, folder: Path, precision: str, given: Mapping[str, Any]) -> Any:
    pipe = pipeline_class(name).from_pretrained(
        folder, dtype=devices.dtype_of(precision), local_files_only=True, **given
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _place(pipe: Any, device: Any, skip: str = "") -> None:
    """Move a pipeline's modules one by one: quantised ones are where they were loaded to."""
    import torch

    for name, part in pipe.components.items():
        if name != skip and isinstance(part, torch.nn.Module):
            if not getattr(part, "is_quantized", False):
                part.to(device)


def _index(folder: Path) -> dict[str, tuple[str, str]]:
    """The parts of a pipeline folder that are there: name → library and class."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        if not name.startswith("_") and isinstance(value, list) and value and value[0]
    }


def _class(library: str, name: str) -> Any:
    import importlib

    return getattr(importlib.import_module(library), name)
