"""Models with random weights, small enough to build in a moment: same classes, same folders.

Every part is a standard diffusers folder that the true pipeline class loads. The weights depend
on nothing but the component's name, so components that parts share are the same bytes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.twins import flux1, flux2, zimage
from tests.twins.pieces import HIDDEN

__all__ = ["HIDDEN", "PARTS", "build", "folder", "part_of"]

PARTS: Mapping[str, str] = {
    "text2img": "FluxPipeline",
    "schnell": "FluxPipeline",
    "kontext": "FluxKontextPipeline",
    "fill": "FluxFillPipeline",
    "control": "FluxControlPipeline",
    "redux-prior": "FluxPriorReduxPipeline",
    "flux2": "Flux2KleinPipeline",
    "zimage": "ZImagePipeline",
}
"""The parts, and the class that each one's index names."""

_ALSO = {"Flux2KleinInpaintPipeline": "flux2", "ZImageInpaintPipeline": "zimage"}
"""Classes that load a folder whose index names another one, as with the real repositories."""


def part_of(pipeline: str, *, guided: bool = True) -> str:
    """The part that a pipeline class loads; FLUX.1's own text2img is there distilled, too."""
    if pipeline == "FluxPipeline" and not guided:
        return "schnell"
    named = (part for part, name in PARTS.items() if name == pipeline)
    return _ALSO[pipeline] if pipeline in _ALSO else next(named)


def folder(part: str, data: Path) -> Path:
    """The folder of a part below `data`, built on first use; it appears there whole."""
    target = data / "random-twin" / part
    if not (target / "model_index.json").is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
        try:
            build(part).save_pretrained(aside)
            os.replace(aside, target)
        except OSError:
            # Another process may have been faster; its folder is as good.
            if not (target / "model_index.json").is_file():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def build(part: str) -> Any:
    """The pipeline of a part, in memory."""
    from runner.engine.memory import devices

    family = {"flux2": flux2, "zimage": zimage}.get(part, flux1)
    return getattr(devices.frameworks(), PARTS[part])(**family.parts(part))
