"""Models with random weights, small enough to build in a moment: same classes, same folders.

Every part is a standard diffusers folder that the true pipeline class loads. The parts of a family
are those of its module in `tests/twins`, which bears its name: `CLASSES` says which pipeline
classes load a part, and the first of them is named in its index. The weights depend on nothing but
the component's name, so components that parts share are the same bytes.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.engine.families import FAMILIES
from runner.engine.weights.assembly import class_of
from tests.twins.pieces import HIDDEN

__all__ = ["HIDDEN", "PARTS", "build", "folder", "part_of"]

_TWINS = {name: importlib.import_module(f"tests.twins.{name}") for name in FAMILIES}

PARTS: Mapping[str, str] = {
    part: names[0] for twin in _TWINS.values() for part, names in twin.CLASSES.items()
}
"""The parts, and the class that each one's index names."""


def part_of(pipeline: str, *, guided: bool = True) -> str:
    """The part that a pipeline class loads; FLUX.1's and FLUX.3's are there distilled, too."""
    if pipeline == "FluxPipeline" and not guided:
        return "schnell"
    if pipeline == "Flux3KleinPipeline" and guided:
        return "flux3-base"
    classes = (each for twin in _TWINS.values() for each in twin.CLASSES.items())
    return next(part for part, names in classes if pipeline in names)


def folder(part: str, data: Path) -> Path:
    """The folder of a part below `data`, built on first use; it appears there whole."""
    target = data / "random-twin" / part
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
        try:
            pipe = build(part)
            save = getattr(_twin(part), "save", type(pipe).save_pretrained)
            save(pipe, aside)
            os.replace(aside, target)
        except OSError:
            # Another process may have been faster; its folder is as good.
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return target


def build(part: str) -> Any:
    """The pipeline of a part, in memory."""
    return class_of("diffusers", PARTS[part])(**_twin(part).parts(part))


def _twin(part: str) -> Any:
    return next(twin for twin in _TWINS.values() if part in twin.CLASSES)
