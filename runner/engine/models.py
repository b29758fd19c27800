"""What a registry entry is: the values that describe a model, none of them about one model.

A kind says what a job needs; an entry says which repository and which pipeline class serve it,
with which defaults, and what the model cannot do. The entries are in `entries.py`. No torch, no
diffusers, no Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specs.rules import SIZE_STEP

"""Sizes are multiples of this: the VAE shrinks by 8, and the transformer reads 2×2 patches."""


@dataclass(frozen=True)
class Sizes:
    """The sizes a model can make: a range, or `only` a fixed list; and the pictures it reads.

    `pixels` bounds what may be asked for; `follow` bounds the size that is taken from an input
    picture, because beyond it the model's pictures fall apart. `shortest` and `longest` are the
    least side of an input picture and how many times the other side may be as long.
    """

    default: tuple[int, int] = (1024, 1024)
    only: tuple[tuple[int, int], ...] = ()
    smallest: int = 64
    largest: int = 4096
    pixels: int = 4_194_304
    follow: int = 2_097_152
    shortest: int = 1
    longest: float = float("inf")

    def problem(self, width: int, height: int) -> str | None:
        """Why this size cannot be made, and what can; None where it can."""
        if self.only:
            if (width, height) in self.only:
                return None
            return "makes only " + ", ".join(f"{w}×{h}" for w, h in self.only)
        for side in (width, height):
            if side % SIZE_STEP or not self.smallest <= side <= self.largest:
                return (
                    f"makes sides of {self.smallest} to {self.largest}, in multiples of {SIZE_STEP}"
                )
        if width * height > self.pixels:
            return f"makes at most {self.pixels:,} pixels; {width}×{height} are {width * height:,}"
        return None

    def side_problem(self, side: int) -> str | None:
        """Why no picture can have this side, where the other one is not known yet."""
        known = (size for size in self.only if side in size)
        return self.problem(*next(known, (side, self.smallest)))

    def reading_problem(self, width: int, height: int) -> str | None:
        """Why a picture of this size cannot be read; None where it can."""
        short, long = sorted((width, height))
        if short < self.shortest:
            return f"reads no picture with a side below {self.shortest} pixels"
        if long > short * self.longest:
            return f"reads no picture that is more than {self.longest:g} times as long as wide"
        return None

    def following(self, width: int, height: int) -> tuple[int, int]:
        """The size for a picture of this size: the same, floored to multiples of 16, in bounds."""
        if self.only:
            return min(self.only, key=lambda size: abs(size[0] / size[1] - width / height))
        scale = min(1.0, (self.follow / (width * height)) ** 0.5)
        return self.side(width * scale), self.side(height * scale)

    def side(self, length: float) -> int:
        """A length as a side: floored to a multiple of 16, in bounds."""
        # A hair is added because a scaled length may miss its multiple by the last bit.
        return max(self.smallest, min(self.largest, int(length + 1e-6) // SIZE_STEP * SIZE_STEP))


@dataclass(frozen=True)
class Prior:
    """A pipeline that runs before the main one and has no denoising loop."""

    pipeline: str
    repo: str
    revision: str = "main"
    part: str = ""
    bytes: int = 0
    max_sequence_length: int = 512


@dataclass(frozen=True)
class Estimator:
    """A model that reads a map out of a picture: it has a name to be pulled by, and serves no kind.

    It is no pipeline: its folder has a `config.json` and no index.
    """

    name: str
    repo: str
    licence: str
    revision: str = "main"
    bytes: int = 0


@dataclass(frozen=True)
class Serving:
    """How a model serves one kind.

    `part` is the folder of the built-in model, `fixed` are keywords that belong to the model
    rather than to the kind, `references` bounds the number of input pictures. `sizes` are given
    where they differ from the model's, `words` where a job may have no prompt and the model needs
    one, `estimator` where the kind's map can be made from a picture.
    """

    pipeline: str
    steps: int
    guidance: float
    guided: bool = True
    prior: Prior | None = None
    part: str = ""
    references: int = 1
    weighted: bool = False
    controls: tuple[str, ...] = ()
    estimator: Estimator | None = None
    sizes: Sizes | None = None
    words: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """How many parameters each part of a model has, from which memory is planned.

    `text` is all text encoders together, `prior` what a prior stage adds to them.
    """

    transformer: int
    text: int
    vae: int
    prior: int = 0

    @property
    def total(self) -> int:
        """All but the prior, which is a repository of its own."""
        return self.transformer + self.text + self.vae


@dataclass(frozen=True)
class SingleFile:
    """Transformer weights in one file (GGUF or safetensors): of a repository, or a path.

    `repo` is a repository on the hub or an absolute folder, `file` a path inside it; without
    `repo`, `file` is an absolute path.
    """

    file: str
    repo: str = ""
    revision: str = "main"


@dataclass(frozen=True)
class Model:
    """One name that a spec's `model` may give. `repo` may also be an absolute folder.

    `bytes` is what has to be downloaded, priors and estimators not counted.
    """

    name: str
    repo: str
    licence: str
    serves: Mapping[str, Serving]
    family: str = "flux1"
    revision: str = "main"
    gated: bool = False
    builtin: bool = False
    sizes: Sizes = Sizes()
    max_sequence_length: int = 512
    weights: Weights = Weights(0, 0, 0)
    bytes: int = 0
    precisions: tuple[str, ...] = ("auto", "fp32", "bf16")
    native: str = ""
    """The precision that `auto` means on every device; empty where the device decides."""
    loras: bool = False
    single: SingleFile | None = None
    """Where the transformer's weights come from, if not from `repo` like all other parts."""

    def sizes_for(self, kind: str) -> Sizes:
        """The sizes that this model can do for a kind."""
        return self.serves[kind].sizes or self.sizes
