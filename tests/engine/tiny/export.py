"""Writes the trained components as they are shipped: each once, in float16, as standard files."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTokenizer, SiglipImageProcessor, T5TokenizerFast

from runner.engine.tiny.folders import UPSCALER, stored_as
from tests.engine.tiny.redux import Eye
from tests.engine.tiny.training import Frozen

Part = TypeVar("Part", bound=torch.nn.Module)

PIPELINES: dict[str, type[DiffusionPipeline]] = {
    "text2img": FluxPipeline,
    "kontext": FluxKontextPipeline,
    "fill": FluxFillPipeline,
    "control": FluxControlPipeline,
    "redux-prior": FluxPriorReduxPipeline,
}


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX's scheduler with FLUX's settings."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
    )


def export(
    out: Path,
    tokenizers: tuple[T5TokenizerFast, CLIPTokenizer],
    frozen: Frozen,
    transformers: dict[str, FluxTransformer2DModel],
    eye: Eye,
    processor: SiglipImageProcessor,
) -> None:
    """Replace the components in the folder of weights; other files, such as its README, remain."""
    t5_tokenizer, clip_tokenizer = tokenizers
    shared = {
        "scheduler": build_scheduler(),
        "text_encoder": frozen.clip,
        "text_encoder_2": frozen.t5,
        "tokenizer": clip_tokenizer,
        "tokenizer_2": t5_tokenizer,
    }
    with tempfile.TemporaryDirectory() as scratch:
        for part, pipeline_class in PIPELINES.items():
            if part == "redux-prior":
                pipeline = pipeline_class(
                    **{key: shared[key] for key in shared if key != "scheduler"},
                    image_encoder=eye.encoder,
                    image_embedder=eye.embedder,
                    feature_extractor=processor,
                )
            else:
                pipeline = pipeline_class(**shared, vae=frozen.vae, transformer=transformers[part])
            saved = Path(scratch) / part
            pipeline.save_pretrained(saved)
            _store_components(saved, part, out)
    _write_fingerprint(out)


def _store_components(saved: Path, part: str, out: Path) -> None:
    """Copy a saved pipeline's components to the folders in which each is stored once."""
    index = out / "model_index"
    index.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(saved / "model_index.json", index / f"{part}.json")
    for component in sorted(path for path in saved.iterdir() if path.is_dir()):
        stored = out / stored_as(component.name, part)
        shutil.rmtree(stored, ignore_errors=True)
        shutil.copytree(component, stored)
        for config in stored.glob("*.json"):
            _remove_path(config)


def _remove_path(config: Path) -> None:
    """Remove the local path that a config may contain."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(settings, dict) and settings.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_fingerprint(out: Path) -> None:
    digest = hashlib.sha256()
    for file in sorted(out.rglob("*")):
        # The folders that it names are without the upscaler.
        other = (out / "FINGERPRINT", out / "README.md", out / UPSCALER)
        if file.is_file() and file not in other:
            digest.update(file.relative_to(out).as_posix().encode("utf-8"))
            digest.update(file.read_bytes())
    (out / "FINGERPRINT").write_text(digest.hexdigest()[:16] + "\n", encoding="ascii")


def halved(module: Part) -> Part:
    """The module with its weights in float16, in place.

    T5's `wo` too, which transformers keeps in float32.
    """
    for weight in module.parameters():
        weight.data = weight.data.half()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.half()
    return module
