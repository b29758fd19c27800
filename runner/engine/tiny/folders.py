"""Makes the folders that `from_pretrained` loads from the shipped components.

    weights/vae, weights/transformer-fill, …   stored once each in the package
    data/tiny/<fingerprint>/fill/vae, …        linked (or copied) into a standard folder

A folder is made aside and renamed, so that it is never incomplete, also when several processes
make it at once. Must not import torch, numpy or diffusers.
"""

import os
import shutil
import uuid
from pathlib import Path

from runner.engine.hub.sources import INDEX, components, read_index

WEIGHTS = Path(__file__).parent / "weights"
UPSCALER = "upscaler/upscaler.safetensors"
"""The file in `weights` of the net that enlarges pictures by 2."""


def stored_as(component: str, part: str) -> str:
    """The folder in `weights` of a component: only the transformers differ between the parts."""
    return f"transformer-{part}" if component == "transformer" else component


def fingerprint(weights: Path = WEIGHTS) -> str:
    """The name of the weights, which `export` wrote: 16 hex digits of the files' hash."""
    return (weights / "FINGERPRINT").read_text(encoding="ascii").strip()


def folder(part: str, data: Path, weights: Path = WEIGHTS) -> Path:
    """The folder of a part below the data folder, made if it is missing.

    Raises OSError if there is no such part, or the folder cannot be made.
    """
    parent = data / "tiny" / fingerprint(weights)
    ready = parent / part
    if ready.is_dir():
        return ready
    parent.mkdir(parents=True, exist_ok=True)
    aside = parent / f".{part}.{uuid.uuid4().hex}"
    try:
        aside.mkdir()
        _place(weights / "model_index" / f"{part}.json", aside / INDEX)
        for component in components(read_index(aside)):
            (aside / component).mkdir()
            for file in sorted((weights / stored_as(component, part)).iterdir()):
                _place(file, aside / component / file.name)
        aside.rename(ready)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not ready.is_dir():  # otherwise another process has just made it
            raise
    return ready


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another drive, or a file system without links
        shutil.copyfile(source, target)
