"""The classes of a registry entry, which describes one model; the entries are in `entries.py`.

A kind says what a job needs. An entry says which repository and pipeline class serve it, with which
defaults, and what the model cannot do. Imports neither torch nor diffusers nor Pillow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from specs.rules import LARGEST_SIDE, SIZE_STEP, SMALLEST_SIDE


@dataclass(frozen=True)
class Sizes:
    """The sizes that a model can make, and the input images that it can read, in pixels.

    A size is one of `only`, or else has at most `pixels` pixels. `follow` is the most pixels of a
    size that follows an input image: above it the model's pictures are no longer coherent. An input
    image has sides of at least `shortest`, and its longer side is at most `longest` times the
    shorter.
    """

    default: tuple[int, int] = (1024, 1024)
    only: tuple[tuple[int, int], ...] = ()
    pixels: int = 4_194_304
    follow: int = 2_097_152
    shortest: int = 1
    longest: float = float("inf")

    def problem(self, width: int, height: int) -> str | None:
        """Why this size cannot be made, and which can; None where it can."""
        if self.only:
            if (width, height) in self.only:
                return None
            return "makes only " + ", ".join(f"{w}×{h}" for w, h in self.only)
        for side in (width, height):
            if side % SIZE_STEP or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                return (
                    f"makes sides of {SMALLEST_SIDE} to {LARGEST_SIDE}, in multiples of {SIZE_STEP}"
                )
        if width * height > self.pixels:
            return f"makes at most {self.pixels:,} pixels; {width}×{height} are {width * height:,}"
        return None

    def side_problem(self, side: int) -> str | None:
        """Why no picture can have this side, whatever the other is; None where one can."""
        known = (size for size in self.only if side in size)
        return self.problem(*next(known, (side, SMALLEST_SIDE)))

    def reading_problem(self, width: int, height: int) -> str | None:
        """Why an input image of this size cannot be read; None where it can."""
        short, long = sorted((width, height))
        if short < self.shortest:
            return f"reads no picture with a side below {self.shortest} pixels"
        if long > short * self.longest:
            return f"reads no picture that is more than {self.longest:g} times as long as wide"
        return None

    def following(self, width: int, height: int) -> tuple[int, int]:
        """The size that follows an input image of this size.

        It is the one of `only` with the nearest aspect, or the image's own, scaled down to `follow`
        pixels, with each side floored to a multiple of 16 within the bounds.
        """
        if self.only:
            return min(self.only, key=lambda size: abs(size[0] / size[1] - width / height))
        scale = min(1.0, (self.follow / (width * height)) ** 0.5)
        return self.side(width * scale), self.side(height * scale)

    def side(self, length: float) -> int:
        """A length in pixels as a side: floored to a multiple of 16, within the bounds."""
        # 1e-6 is added because a scaled length may fall short of its multiple by the last bit.
        return max(SMALLEST_SIDE, min(LARGEST_SIDE, int(length + 1e-6) // SIZE_STEP * SIZE_STEP))


@dataclass(frozen=True)
class Prior:
    """A pipeline that runs before the main one and has no denoising loop."""

    pipeline: str
    repo: str
    part: str = ""
    bytes: int = 0
    max_sequence_length: int = 512


@dataclass(frozen=True)
class Estimator:
    """A model that computes the depth map of an image; it is pulled by name, but serves no kind.

    It is no pipeline: its folder has a `config.json` and no index.
    """

    name: str
    repo: str
    licence: str
    bytes: int = 0


@dataclass(frozen=True)
class ControlNet:
    """A model that reads a map beside the transformer, and works with some of its layers.

    Its weights are `file` in `repo`, its configuration is our own: `config` names a folder of
    `engine/controlnets`. `scale` is how much a map counts where a spec does not say it.
    """

    repo: str
    file: str
    config: str
    licence: str
    scale: float
    bytes: int = 0


@dataclass(frozen=True)
class Upscaler:
    """A net that enlarges finished pictures; it is pulled by name, but serves no kind.

    `file` is a path in `repo`, which is on the hub or an absolute folder. `scale` is what its net
    enlarges by, 0 where only the file tells it. `sha256` is the file's, where it is published.
    """

    name: str
    repo: str
    file: str
    licence: str
    scale: int = 0
    bytes: int = 0
    sha256: str = ""


Aid = Estimator | Upscaler
"""What is pulled by name and serves no kind."""


def upscaling_problem(sides: Sequence[int], times: int) -> str | None:
    """Why a picture of these sides cannot be made so many times as large; None where it can."""
    longest = max(sides, default=0)
    if times == 1 or times * longest <= LARGEST_SIDE:
        return None
    fits = "`upscale: 2` fits" if 2 * longest <= LARGEST_SIDE else "leave `upscale` out"
    size, large = ("×".join(str(side * each) for side in sides) for each in (1, times))
    return f"{size} would become {large}, and a side has at most {LARGEST_SIDE} pixels: {fits}"


@dataclass(frozen=True)
class Serving:
    """How a model serves one kind.

    `steps` and `guidance` are defaults; without `guided` the guidance cannot be changed. `part` is
    the folder of the built-in model, and `references` is the most input images. `weighted` says
    that they may have weights, `controls` lists the maps that are followed. `sizes` are set where
    they differ from the model's, `words` is the prompt of a job without one where the model needs
    one, and `estimator` computes the map from an image. `negative` says what weighs a negative
    prompt: "true_cfg", by default as strong as the field here, or "guidance"; empty, the model
    takes none. `img2img` is the pipeline class that starts from an image, where the kind can do
    without one. `caches` says that the pipeline computes its references once and keeps that from
    step to step; such a class changes the transformer, and has no keyword for a guidance.
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
    controlnet: ControlNet | None = None
    caches: bool = False
    sizes: Sizes | None = None
    words: str = ""
    negative: str = ""
    # With a distilled guidance beside it: modelscope/DiffSynth-Studio's examples of FLUX.1 have 2.
    true_cfg: float = 2.0
    img2img: str = ""

    @property
    def guided_by(self) -> str:
        """What the guidance is, as sidecars record it: none, distilled, or cfg, a true one."""
        return "none" if not self.guided else "cfg" if self.negative == "guidance" else "distilled"

    def starting_from(self, inputs: Mapping[str, Any]) -> Self:
        """The serving of a task with these input images."""
        starts = self.img2img and "image" in inputs
        return replace(self, pipeline=self.img2img) if starts else self


@dataclass(frozen=True)
class Weights:
    """The parameter counts of a model's parts, from which memory is planned.

    `text` counts all text encoders together, `prior` what a prior stage adds to them, `controlnet`
    its own layers. `unread` is what lies in the files of the text encoders and is not loaded.
    `outside` is all of the transformer but the matrices of its repeated blocks, which alone are
    quantised; `widest` are the most inputs of one of these, and the outputs of the largest. `kept`
    are bytes: what a step in bf16 holds of each token beside what every model does.
    """

    transformer: int
    text: int
    vae: int
    prior: int = 0
    unread: int = 0
    controlnet: int = 0
    kept: int = 0
    outside: int = 0
    widest: tuple[int, int] = (0, 0)

    @property
    def others(self) -> int:
        """All in the repository but the transformer; a prior has its own."""
        return self.text + self.unread + self.vae

    @property
    def total(self) -> int:
        """All in the repository."""
        return self.transformer + self.others


@dataclass(frozen=True)
class SingleFile:
    """Transformer weights in one file (GGUF or safetensors).

    `repo` is a repository on the hub or an absolute folder, `file` a path inside it; without
    `repo`, `file` is an absolute path.
    """

    file: str
    repo: str = ""
    revision: str = "main"


@dataclass(frozen=True)
class Model:
    """One model that a spec may name. `repo` is on the hub, or an absolute folder.

    `bytes` is the size of the download without priors, ControlNets and estimators. `conditions` say
    in one sentence what the licence asks of a user, where its name does not. A prompt of fewer than
    `fewest_words` words is warned of: the model was trained on longer ones.
    """

    name: str
    repo: str
    licence: str
    serves: Mapping[str, Serving]
    family: str = "flux1"
    revision: str = "main"
    conditions: str = ""
    gated: bool = False
    builtin: bool = False
    sizes: Sizes = Sizes()
    max_sequence_length: int = 512
    fewest_words: int = 0
    text_layers: int = 0
    """How many layers of the text encoder are read, where not all are."""
    weights: Weights = Weights(0, 0, 0)
    width: int = 0
    """Of a token in the transformer, by which those of one family are told apart."""
    bytes: int = 0
    precisions: tuple[str, ...] = ("auto", "fp32", "bf16", "fp8", "int8", "nf4")
    native: str = ""
    """The precision that `auto` means on every device; empty where the device decides."""
    loras: bool = True
    single: SingleFile | None = None
    """The file of the transformer's weights, where they do not come from `repo`."""

    def sizes_for(self, kind: str) -> Sizes:
        """The sizes that this model can make for a kind."""
        return self.serves[kind].sizes or self.sizes
