"""Builds diffusers pipelines from a folder as a MemoryPlan says: parts, precision, placement.

A text stage has only the text encoders and their tokenizers, a paint stage everything else. Only
local files are read. Never decides what is loaded or for how long: PipelineCache does.
"""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runner.engine import flux3_pipeline
from runner.engine.hub.sources import HEAVY, INDEX, components, read_index, read_json
from runner.engine.memory import devices, footprint
from runner.engine.resolved_task import CONTROLNET, ResolvedTask
from runner.engine.weights import checkpoints, quantise
from runner.errors import ModelMissing

_LIBRARIES = ("diffusers", "transformers")


def text_stage(resolved: ResolvedTask, device: Any, store: Path, shared: Mapping[str, Any]) -> Any:
    """A pipeline that can only encode prompts, on the device or the CPU as the plan says.

    `store` is the folder of quantised weights, `shared` are components loaded already, by name.
    """
    plan, parts = resolved.plan, resolved.family.text_parts
    index = components(read_index(resolved.folder))
    passed = {part: None for part in index if part not in (*parts, "scheduler")} | {**shared}
    device = "cpu" if plan.text == "cpu" else device

    def encoder(cls: Any, folder: Path) -> Any:
        mark, layers = resolved.marks[folder.name], resolved.model.text_layers
        return quantise.load_text_encoder(
            cls, folder, plan.text_precision, device, store, mark, layers
        )

    own = dict.fromkeys(parts, encoder)
    name = resolved.family.text_pipeline or resolved.serving.pipeline
    pipe = _load(name, resolved.folder, plan.text_precision, passed, own)
    _place(pipe, device)
    return pipe


def paint_stage(resolved: ResolvedTask, device: Any, store: Path, shared: Mapping[str, Any]) -> Any:
    """A pipeline without text encoders, placed on the device as the plan says.

    `store` is the folder of quantised weights, `shared` are components loaded already, by name.
    """
    plan, family = resolved.plan, resolved.family
    index = components(read_index(resolved.folder))
    passed = {part: None for part in family.text_parts if part in index} | {**shared}
    if "is_distilled" in read_index(resolved.folder):  # a single file may be another than its base
        passed["is_distilled"] = not resolved.serving.guided

    if resolved.controlnet:
        config, file = resolved.controlnet
        cls = class_of("diffusers", read_json(config / "config.json")["_class_name"])
        precision, mark = footprint.beside(plan.precision), resolved.marks[CONTROLNET]
        # Never a shared one, for it takes layers of this transformer.
        passed[CONTROLNET] = quantise.load_transformer(
            cls, config, precision, device, store, mark, file
        )

    def transformer(cls: Any, folder: Path) -> Any:
        # Streamed, all of it at once does not fit the device.
        on = "cpu" if plan.placement == "stream" else device
        mark, single = resolved.marks[HEAVY], resolved.single
        return quantise.load_transformer(
            cls, folder, plan.precision, on, store, mark, single, device
        )

    own = {HEAVY: transformer}
    pipe = _load(resolved.serving.pipeline, resolved.folder, plan.precision, passed, own)
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


def _load(
    name: str,
    folder: Path,
    precision: str,
    passed: Mapping[str, Any],
    own: Mapping[str, Callable[[Any, Path], Any]] | None = None,
) -> Any:
    """A pipeline; `passed` are components to take as they are, None for those to leave out.

    The others are loaded here, because a pipeline does not say which weights it had no use for:
    those in `own` by their function of a class and a folder.
    """
    dtype = devices.dtype_of(precision)
    plain: Callable[[Any, Path], Any] = partial(checkpoints.from_folder, dtype=dtype)
    own = own or {}
    parts = {
        part: own.get(part, plain)(class_of(library, cls), folder / part)
        for part, (library, cls) in components(read_index(folder)).items()
        # Only what has weights has a plain config.json.
        if part not in passed and (folder / part / "config.json").is_file()
        if library in _LIBRARIES or part in own
    }
    pipe = class_of("diffusers", name).from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, **passed, **parts
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _place(pipe: Any, device: Any, skip: str = "") -> None:
    """Move a pipeline's modules one by one: quantised ones stay where they were loaded."""
    import torch

    for name, part in pipe.components.items():
        if name != skip and isinstance(part, torch.nn.Module):
            if not getattr(part, "is_quantized", False):
                part.to(device)


def class_of(library: str, name: str) -> Any:
    """A class that an index names: a file of the makers of the weights, which may name anything.

    Raises ModelMissing for one of another library: importing it would run code. A pipeline class of
    ours counts as one of diffusers.
    """
    cls = None
    if library in _LIBRARIES:
        devices.frameworks()
        with devices.collecting_nothing():
            if name == flux3_pipeline.NAME:
                return flux3_pipeline.pipeline()
            cls = getattr(importlib.import_module(library), name, None)
    if not isinstance(cls, type):
        raise ModelMissing(
            f"the model's {INDEX} names {library}.{name}, which is no part of diffusers or"
            " transformers: pull the model again, or use another"
        )
    return cls
