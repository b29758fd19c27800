"""What a registry entry is, and the entries: data, so that a new model is a few lines here.

A kind says what a job needs; an entry says which repository and which pipeline class serve it,
with which defaults, and what the model cannot do. No torch, no diffusers, no Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STEP = 16
"""Sizes are multiples of this: the VAE shrinks by 8, and the transformer reads 2×2 patches."""


@dataclass(frozen=True)
class Sizes:
    """The sizes a model can make: a range, or `only` a fixed list.

    `pixels` bounds what may be asked for; `follow` bounds the size that is taken from an input
    picture, because beyond it the model's pictures fall apart.
    """

    default: tuple[int, int] = (1024, 1024)
    only: tuple[tuple[int, int], ...] = ()
    smallest: int = 64
    largest: int = 4096
    pixels: int = 4_194_304
    follow: int = 2_097_152

    def problem(self, width: int, height: int) -> str | None:
        """Why this size cannot be made, and what can; None where it can."""
        if self.only:
            if (width, height) in self.only:
                return None
            return "makes only " + ", ".join(f"{w}×{h}" for w, h in self.only)
        for side in (width, height):
            if side % STEP or not self.smallest <= side <= self.largest:
                return f"makes sides of {self.smallest} to {self.largest}, in multiples of {STEP}"
        if width * height > self.pixels:
            return f"makes at most {self.pixels:,} pixels; {width}×{height} are {width * height:,}"
        return None

    def following(self, width: int, height: int) -> tuple[int, int]:
        """The size for a picture of this size: the same, floored to multiples of 16, in bounds."""
        if self.only:
            return min(self.only, key=lambda size: abs(size[0] / size[1] - width / height))
        scale = min(1.0, (self.follow / (width * height)) ** 0.5)
        return self._side(width * scale), self._side(height * scale)

    def _side(self, side: float) -> int:
        return max(self.smallest, min(self.largest, int(side) // STEP * STEP))


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
class Serving:
    """How a model serves one kind.

    `part` is the folder of the built-in model, `fixed` are keywords that belong to the model
    rather than to the kind, `references` bounds the number of input pictures.
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
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One name that a spec's `model` may give. `repo` may also be an absolute folder."""

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
    bytes: int = 0
    precisions: tuple[str, ...] = ("auto", "fp32", "bf16")
    native: str = ""
    """The precision that `auto` means on every device; empty where the device decides."""
    loras: bool = False


NON_COMMERCIAL = "FLUX.1-dev-Non-Commercial"
_ENCODERS_AND_VAE = 4_762_310_656 + 123_060_480 + 83_819_683


def _flux1(
    name: str,
    repo: str,
    transformer: int,
    serves: Mapping[str, Serving],
    *,
    licence: str = NON_COMMERCIAL,
    max_sequence_length: int = 512,
    sizes: Sizes | None = None,
) -> Model:
    """A FLUX.1 repository: bfloat16 weights, so two bytes for each parameter."""
    return Model(
        name=name,
        repo=f"black-forest-labs/{repo}",
        licence=licence,
        gated=True,  # schnell too: its licence is free, its repository asks for an account
        serves=serves,
        sizes=sizes or Sizes(),
        max_sequence_length=max_sequence_length,
        bytes=2 * (transformer + _ENCODERS_AND_VAE),
    )


_REDUX = Prior(
    "FluxPriorReduxPipeline",
    "black-forest-labs/FLUX.1-Redux-dev",
    bytes=2 * (428_225_600 + 64_503_808),
)
_TINY_REDUX = Prior("FluxPriorReduxPipeline", "", part="redux-prior")

_ENTRIES = (
    Model(
        name="tiny",
        repo="",
        licence="Apache-2.0",
        builtin=True,
        sizes=Sizes(default=(64, 64), only=((64, 64),)),
        max_sequence_length=64,
        bytes=25_000_000,
        native="fp32",
        serves={
            "text2img": Serving("FluxPipeline", 8, 3.5, part="text2img"),
            "kontext": Serving(
                "FluxKontextPipeline", 8, 2.5, part="kontext", fixed={"_auto_resize": False}
            ),
            "fill": Serving("FluxFillPipeline", 8, 30.0, part="fill"),
            "control": Serving("FluxControlPipeline", 8, 10.0, part="control", controls=("canny",)),
            "redux": Serving(
                "FluxPipeline",
                4,  # as true as 8, and half the time
                2.5,
                part="text2img",
                prior=_TINY_REDUX,
                references=4,
                weighted=True,
            ),
        },
    ),
    _flux1(
        "schnell",
        "FLUX.1-schnell",
        11_891_178_560,
        {"text2img": Serving("FluxPipeline", 4, 0.0, guided=False)},
        licence="Apache-2.0",
        max_sequence_length=256,
    ),
    _flux1(
        "dev",
        "FLUX.1-dev",
        11_901_408_320,
        {
            "text2img": Serving("FluxPipeline", 28, 3.5),
            "redux": Serving("FluxPipeline", 50, 2.5, prior=_REDUX, references=8, weighted=True),
        },
    ),
    _flux1(
        "krea",
        "FLUX.1-Krea-dev",
        11_901_408_320,
        {"text2img": Serving("FluxPipeline", 28, 4.5)},
    ),
    _flux1(
        "kontext-dev",
        "FLUX.1-Kontext-dev",
        11_901_408_320,
        {"kontext": Serving("FluxKontextPipeline", 28, 2.5)},
        sizes=Sizes(follow=1_048_576),  # the area it was trained at
    ),
    _flux1(
        "fill-dev",
        "FLUX.1-Fill-dev",
        11_902_391_360,
        {"fill": Serving("FluxFillPipeline", 50, 30.0)},
    ),
    _flux1(
        "canny",
        "FLUX.1-Canny-dev",
        11_901_604_928,
        {"control": Serving("FluxControlPipeline", 50, 30.0, controls=("canny",))},
    ),
    _flux1(
        "depth",
        "FLUX.1-Depth-dev",
        11_901_604_928,
        {"control": Serving("FluxControlPipeline", 30, 10.0, controls=("depth",))},
    ),
)

MODEL_REGISTRY: Mapping[str, Model] = {model.name: model for model in _ENTRIES}

DEFAULTS: Mapping[str, str] = {
    "text2img": "schnell",
    "kontext": "kontext-dev",
    "fill": "fill-dev",
    "control": "canny",
    "redux": "dev",
}
"""The model of each kind where neither the spec nor the settings name one."""

CONTROL_DEFAULTS: Mapping[str, str] = {"canny": "canny", "depth": "depth"}
