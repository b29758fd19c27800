"""The order of the trainings, their numbers of steps, and what each needs of the earlier ones.

A stage continues from its checkpoint and returns at once when its steps are done, so a later stage
gets what it needs by running the earlier ones again.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTokenizer, T5TokenizerFast

from runner.engine.tiny.folders import UPSCALER
from tests.engine.tiny import upscaling
from tests.engine.tiny.encoders import Reader, train_encoders
from tests.engine.tiny.export import export, halved
from tests.engine.tiny.redux import Eye, build_processor, train_eye
from tests.engine.tiny.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from tests.engine.tiny.training import Frozen, train_transformer
from tests.engine.tiny.transformer import build_transformer, widened
from tests.engine.tiny.vae import train_decoder, train_vae

STEPS = {
    "encoders": 1605,
    "vae": 2385,
    "decoder": 1276,
    "eye": 801,
    "text2img": 3041,
    "kontext": 4512,
    "control": 2621,
    "fill": 2000,
    "upscaler": upscaling.STEPS,
}
"""A step takes about half a second on one core with bfloat16 instructions."""

_BASE_RATE, _FURTHER_RATE = 2e-3, 1.5e-3


@dataclass
class Recipe:
    """One training of the whole model.

    `work` is the folder of the checkpoints, `out` that of the finished weights; `scale` multiplies
    every stage's number of steps.
    """

    work: Path
    out: Path
    device: torch.device
    scale: float
    seed: int

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)

    def _arguments(self, stage: str) -> tuple[Path, int, int]:
        """A stage's checkpoint, number of steps and seed."""
        return self.work / f"{stage}.pt", round(STEPS[stage] * self.scale), self.seed

    @functools.cached_property
    def tokenizers(self) -> tuple[T5TokenizerFast, CLIPTokenizer]:
        """T5's and CLIP's tokenizers."""
        return build_t5_tokenizer(), build_clip_tokenizer()

    @functools.cached_property
    def vae(self) -> AutoencoderKL:
        """The VAE, whose encoder is final; `decoder` trains its decoder further."""
        return train_vae(*self._arguments("vae"), self.device)

    @functools.cached_property
    def frozen(self) -> Frozen:
        """The components that all transformers share."""
        encoders = train_encoders(self.tokenizers, *self._arguments("encoders"), self.device)
        reader = Reader(*self.tokenizers)
        return Frozen(self.vae, encoders.t5, encoders.clip, reader).to(self.device)

    @functools.cached_property
    def base(self) -> FluxTransformer2DModel:
        """The text2img transformer, from which the others start."""
        torch.manual_seed(self.seed)
        model = build_transformer("text2img")
        arguments = self._arguments("text2img")
        return train_transformer("text2img", model, self.frozen, *arguments, _BASE_RATE)

    def transformer(self, kind: str) -> FluxTransformer2DModel:
        """The transformer of a kind."""
        if kind == "text2img":
            return self.base
        model = widened(self.base, kind)
        return train_transformer(kind, model, self.frozen, *self._arguments(kind), _FURTHER_RATE)

    def eye(self) -> Eye:
        """The image encoder of redux, with its embedder."""
        return train_eye(self.frozen, *self._arguments("eye"))

    def decoder(self) -> AutoencoderKL:
        """The VAE with its decoder trained further, in place."""
        return train_decoder(self.vae, *self._arguments("decoder"), self.device)

    def upscaler(self) -> None:
        """The net that enlarges pictures, written as it is shipped."""
        net = upscaling.train_upscaler(self.decoder(), *self._arguments("upscaler"), self.device)
        upscaling.save(net, self.out / UPSCALER)

    def export(self) -> None:
        """Train what is not trained yet, and write everything as it is shipped."""
        transformers = {
            kind: halved(self.transformer(kind))
            for kind in ("kontext", "fill", "control", "text2img")  # the base last: others copy it
        }
        eye = halved(self.eye())
        frozen = self.frozen
        self.decoder()
        for part in (frozen.vae, frozen.t5, frozen.clip):
            halved(part)
        self.out.mkdir(parents=True, exist_ok=True)
        export(self.out, self.tokenizers, frozen, transformers, eye, build_processor())


STAGES: dict[str, Callable[[Recipe], object]] = {
    "encoders": lambda recipe: recipe.frozen,
    "vae": lambda recipe: recipe.vae,
    "text2img": lambda recipe: recipe.base,
    "eye": lambda recipe: recipe.eye(),
    "kontext": lambda recipe: recipe.transformer("kontext"),
    "control": lambda recipe: recipe.transformer("control"),
    "fill": lambda recipe: recipe.transformer("fill"),
    "decoder": lambda recipe: recipe.decoder(),
    "upscaler": lambda recipe: recipe.upscaler(),
    "export": lambda recipe: recipe.export(),
}
"""The parts of the recipe that can be run alone, in the order in which all of them are run."""
