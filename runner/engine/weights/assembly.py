"""Builds diffusers pipelines from a folder as a MemoryPlan says: parts, precision, placement.

A text stage has only the text encoders and their tokenizers, a paint stage everything else. Only
local files are read. Never decides what is loaded or for how long: PipelineCache does.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runner.engine.errors import Bug
from runner.engine.hub.sources import HEAVY, INDEX, components, read_index
from runner.engine.memory import devices, footprint
from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights import checkpoints, quantise
from runner.errors import ModelMissing

_LIBRARIES = ("diffusers", "transformers")


def pipeline_class(name: str) -> Any:
    """The pipeline class of this name in diffusers. Raises Bug where there is none."""
    library = devices.frameworks()
    with devices.collecting_nothing():
        cls = getattr(library, name, None)
    if cls is None:
        raise Bug(f"diffusers has no {name}")
    return cls


def text_stage(resolved: ResolvedTask, device: Any, store: Path, shared: Mapping[str, Any]) -> Any:
    """A pipeline that can only encode prompts, on the device or the CPU as the plan says.

    `store` is the folder of quantised weights, `shared` are components loaded already, by name.
    """
    plan, parts = resolved.plan, resolved.family.text_parts
    index = components(read_index(resolved.folder))
    passed: dict[str, Any] = {part: None for part in index if part not in (*parts, "scheduler")}
    passed |= shared
    device = "cpu" if plan.text == "cpu" else device
    for part, (library, name) in index.items():
        folder = resolved.folder / part
        if part in parts and part not in passed and _has_weights(folder):
            passed[part] = quantise.load_text_encoder(
                _class(library, name),
                folder,
                plan.text_precision,
                device,
                store,
                resolved.marks[part],
                resolved.model.text_layers,
            )
    pipe = _load(resolved.serving.pipeline, resolved.folder, plan.text_precision, passed)
    _place(pipe, device)
    return pipe


def paint_stage(resolved: ResolvedTask, device: Any, store: Path, shared: Mapping[str, Any]) -> Any:
    """A pipeline without text encoders, placed on the device as the plan says.

    `store` is the folder of quantised weights, `shared` are components loaded already, by name.
    """
    plan, family = resolved.plan, resolved.family
    index = components(read_index(resolved.folder))
    passed: dict[str, Any] = {part: None for part in family.text_parts if part in index}
    passed |= shared
    if HEAVY not in passed:
        heavy = _heavy(resolved, index[HEAVY], device, store)
        if heavy is not None:
            passed[HEAVY] = heavy
    if "is_distilled" in read_index(resolved.folder):  # a single file may be another than its base
        passed["is_distilled"] = not resolved.serving.guided
    pipe = _load(resolved.serving.pipeline, resolved.folder, plan.precision, passed)
    _tile(pipe.vae, plan.tiling)
    if plan.placement == "offload":
        pipe.enable_model_cpu_offload(device=device)
    elif plan.placement == "stream":
        pipe.transformer.enable_group_offload(
            onload_device=device,
            offload_type="leaf_level",
            use_stream=device.type == "cuda",
            low_cpu_mem_usage=True,  # pinned as a whole, it would take twice its size
        )
        _place(pipe, device, skip=HEAVY)
    else:
        _place(pipe, device)
    return pipe


def _heavy(resolved: ResolvedTask, component: tuple[str, str], device: Any, store: Path) -> Any:
    """The transformer, where diffusers would not load it by itself as the plan says; else None.

    `component` is its library and class, as the index of the pipeline's folder names them.
    """
    precision, folder = resolved.plan.precision, resolved.folder / HEAVY
    if precision in quantise.QUANTISED:
        if resolved.plan.placement == "stream":
            device = "cpu"  # all of it at once does not fit the device
        return quantise.load_transformer(
            _class(*component),
            folder,
            precision,
            device,
            store,
            resolved.marks[HEAVY],
            resolved.single,
        )
    if resolved.single is None:
        return None
    return checkpoints.from_single(
        _class(*component), folder, resolved.single, devices.dtype_of(precision)
    )


def prior_stage(resolved: ResolvedTask, device: Any) -> Any:
    """The pipeline that turns pictures into embeddings; prompts come to it encoded."""
    prior, folder = resolved.serving.prior, resolved.prior_folder
    assert prior is not None
    assert folder is not None
    index = components(read_index(folder))
    left_out = {part: None for part in index if part in resolved.family.text_parts}
    pipe = _load(prior.pipeline, folder, resolved.plan.text_precision, left_out)
    _place(pipe, device)
    # A prior without a text encoder replaces the embeddings that it is given by zeros.
    pipe.text_encoder = SimpleNamespace(dtype=devices.dtype_of(resolved.plan.text_precision))
    return pipe


def _tile(vae: Any, tiling: bool) -> None:
    """Decode in tiles or not; left to itself, the VAE tiles only above 1024 pixels."""
    if not tiling:
        vae.disable_tiling()
        return
    vae.enable_tiling()
    vae.tile_sample_min_size = footprint.TILE
    vae.tile_latent_min_size = footprint.TILE // 8


def _load(name: str, folder: Path, precision: str, passed: Mapping[str, Any]) -> Any:
    """A pipeline; `passed` are components to take as they are, None for those to leave out.

    The others are loaded here, because a pipeline does not say which weights it had no use for.
    """
    dtype = devices.dtype_of(precision)
    parts = {
        part: checkpoints.from_folder(_class(library, cls), folder / part, dtype=dtype)
        for part, (library, cls) in components(read_index(folder)).items()
        if part not in passed and library in _LIBRARIES and _has_weights(folder / part)
    }
    pipe = pipeline_class(name).from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, **passed, **parts
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _has_weights(folder: Path) -> bool:
    """Whether a component has weights; only then has it a plain config.json."""
    return (folder / "config.json").is_file()


def _place(pipe: Any, device: Any, skip: str = "") -> None:
    """Move a pipeline's modules one by one: quantised ones stay where they were loaded."""
    import torch

    for name, part in pipe.components.items():
        if name != skip and isinstance(part, torch.nn.Module):
            if not getattr(part, "is_quantized", False):
                part.to(device)


def _class(library: str, name: str) -> Any:
    """A class that an index names: a file of the makers of the weights, which may name anything.

    Raises ModelMissing for one of another library: importing it would run code.
    """
    cls = None
    if library in _LIBRARIES:
        devices.frameworks()
        cls = getattr(importlib.import_module(library), name, None)
    if not isinstance(cls, type):
        raise ModelMissing(
            f"the model's {INDEX} names {library}.{name}, which is no part of diffusers or"
            " transformers: pull the model again, or use another"
        )
    return cls
