"""Puts the shipped components together as the folders that `from_pretrained` loads.

    weights/vae, weights/transformer-fill, …   each stored once in the package
    data/tiny/<fingerprint>/fill/vae, …        linked (or copied) into a standard folder

A folder is built aside and renamed, so it is either whole or not there, however many processes ask
at once. No torch, numpy or diffusers here.
"""

import os
import shutil
import uuid
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"

_DRAWING = {
    name: name
    for name in ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae")
}
PARTS: dict[str, dict[str, str]] = {
    **{
        kind: {**_DRAWING, "transformer": f"transformer-{kind}"}
        for kind in ("text2img", "kontext", "fill", "control")
    },
    "redux-prior": {
        name: name
        for name in (
            *("feature_extractor", "image_embedder", "image_encoder"),
            *("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
        )
    },
}
"""For each part: its pipeline's components and the stored folders they come from."""


def fingerprint(weights: Path = WEIGHTS) -> str:
    """Names the shipped weights; written beside them when they are made."""
    return (weights / "FINGERPRINT").read_text(encoding="ascii").strip()


def folder(part: str, data: Path, weights: Path = WEIGHTS) -> Path:
    """The ready folder of a part under the data folder, put together if it is not there yet."""
    components = PARTS[part]
    home = data / "tiny" / fingerprint(weights)
    ready = home / part
    if ready.is_dir():
        return ready
    home.mkdir(parents=True, exist_ok=True)
    aside = home / f".{part}.{uuid.uuid4().hex}"
    try:
        aside.mkdir()
        _place(weights / "model_index" / f"{part}.json", aside / "model_index.json")
        for component, stored in components.items():
            (aside / component).mkdir()
            for file in sorted((weights / stored).iterdir()):
                _place(file, aside / component / file.name)
        aside.rename(ready)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not ready.is_dir():  # otherwise another process was quicker, which is as good
            raise
    return ready


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another drive, or a file system without links
        shutil.copyfile(source, target)
