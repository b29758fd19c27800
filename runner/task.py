"""The values that travel between daemon and engine: one image to be made, and what it reads.

Frozen, and can be pickled. Nothing here reads a file, and nothing here knows diffusers. Commands
that only read statuses do without this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class InputImage:
    """One image that a task reads: the job's own copy, with its weight."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Lora:
    """One LoRA file with its strength, and the hash it had when the job was accepted."""

    path: Path
    weight: float = 1.0
    name: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class ImageTask:
    """All that an executor needs to make one image; every default is filled in.

    `width` and `height` are in pixels, and None where the size follows the input image. `timeout`
    is in seconds. `inputs` maps the spec's image fields (`image`, `mask`) to the files; `options`
    holds the other fields of the kind. In these, a `negative_prompt` is what the model gets, and
    `true_cfg` how strongly it acts. The finished picture is made `upscale` times as wide and high;
    `keep_original` keeps it as it was before, too. With `preview` its progress shows what it will
    be like. `suspect` says that a process ended during this image.
    """

    job: str
    index: int
    kind: str
    model: str
    prompt: str
    seed: int
    steps: int
    guidance: float
    width: int | None = None
    height: int | None = None
    precision: str = "auto"
    timeout: float | None = None
    inputs: Mapping[str, tuple[InputImage, ...]] = field(default_factory=dict)
    loras: tuple[Lora, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    upscale: int = 1
    keep_original: bool = False
    preview: bool = False
    suspect: bool = False

    @property
    def steps_made(self) -> int:
        """The last of the steps, where one starts from an image (diffusers' `get_timesteps`)."""
        starts = "image" in self.inputs and self.kind != "control"
        strength = self.options.get("strength", 1.0) if starts else 1.0
        return self.steps - int(self.steps - self.steps * strength)

    def is_like(self, other: ImageTask) -> bool:
        """Whether the two differ at most in index, prompt and seed."""
        same = replace(other, index=self.index, prompt=self.prompt, seed=self.seed)
        return self == same
