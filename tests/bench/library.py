"""A library of stand-ins: registry entries as they ship, with random weights in their place.

For processes that measure. Counts are those of the folders, so that memory is planned for what is
really there. Nothing is looked for in the hub's cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.models import Model, Weights

MODELS: Mapping[str, str] = {
    "text2img": "dev", "kontext": "kontext-dev", "fill": "fill-dev", "control": "canny",
    "redux": "dev",
}  # fmt: skip
"""The model that serves each kind here; each of another transformer."""

PARTS: Mapping[str, str] = {kind: "text2img" if kind == "redux" else kind for kind in MODELS}
"""The part of a foundry that each kind paints with."""

PRIOR = "redux-prior"


class StandIns:
    """Folders by part, as the entries of the models that they stand for.

    `length` bounds the tokens of a prompt. Models whose `dtype` is fp32 are small ones: they have
    one thread, and no picture of theirs is made larger than asked.
    """

    def __init__(
        self, data: Path, folders: Mapping[str, Path], *, length: int = 512, dtype: str = "fp32"
    ) -> None:
        self.data = data
        self._folders = folders
        self.models = {
            name: self._entry(MODEL_REGISTRY[name], length, dtype)
            for kind, name in MODELS.items()
            if PARTS[kind] in folders
        }

    def main(self, model: Model, kind: str) -> Path:
        """The folder that paints this kind."""
        return self._folders[PARTS[kind]]

    def prior(self, model: Model, kind: str) -> Path:
        """The folder of the prior, of which there is one."""
        return self._folders[PRIOR]

    def single(self, model: Model) -> Path | None:
        """No stand-in is a single file."""
        return None

    def _entry(self, model: Model, length: int, dtype: str) -> Model:
        serves = dict(model.serves)
        if PRIOR not in self._folders:
            serves.pop("redux", None)
        if "redux" in serves and serves["redux"].prior:
            prior = replace(serves["redux"].prior, max_sequence_length=length)
            serves["redux"] = replace(serves["redux"], prior=prior)
        part = PARTS[next(iter(serves))]
        return replace(
            model,
            serves=serves,
            weights=self._weights(part),
            bytes=1 if dtype == "fp32" else model.bytes,
            native="fp32" if dtype == "fp32" else "",
            max_sequence_length=min(length, model.max_sequence_length),
        )

    def _weights(self, part: str) -> Weights:
        main = self._folders[part]
        prior = self._folders.get(PRIOR)
        text = sum(_parameters(main / name) for name in ("text_encoder", "text_encoder_2"))
        return Weights(
            transformer=_parameters(main / "transformer"),
            text=text,
            vae=_parameters(main / "vae"),
            prior=sum(map(_parameters, prior.iterdir())) if prior and part == "text2img" else 0,
        )


def _parameters(component: Path) -> int:
    """How many numbers a component's shards hold."""
    return sum(
        int(json.loads(index.read_bytes())["metadata"]["total_parameters"])
        for index in component.glob("*.index.json")
    )
