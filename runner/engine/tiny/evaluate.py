"""Measures what the shipped pipelines get right, over unseen prompts with fixed seeds.

Every figure is a part of pictures, 0 to 1. Pipelines are called one picture at a time, just as the
program calls them; nothing is picked. `classifier` is the judge.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.tiny.captions import describe
from runner.engine.tiny.classifier import Verdict, in_order, judge, read
from runner.engine.tiny.edits import EDIT_KINDS, Edit, draw_edit, instruct
from runner.engine.tiny.export import PIPELINES
from runner.engine.tiny.folders import folder
from runner.engine.tiny.pictures import as_image, as_levels
from runner.engine.tiny.render import arrange, offsets, render
from runner.engine.tiny.world import SIDE, Scene, draw_scene, draw_unseen_scene

_MODEL = MODEL_REGISTRY["tiny"]
STEPS = {kind: serving.steps for kind, serving in _MODEL.serves.items()}
GUIDANCE = {kind: serving.guidance for kind, serving in _MODEL.serves.items()}
_WORDS = {"max_sequence_length": _MODEL.max_sequence_length}


@dataclass
class Figures:
    """Counts of what was right, by name, and the seconds the pictures took."""

    seconds: float = 0.0
    pictures: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, **values: float) -> None:
        """Note one picture's figures."""
        for name, value in values.items():
            self.values[name].append(float(value))

    def means(self) -> dict[str, float]:
        """The mean of each figure, with the number of pictures and the seconds for each."""
        found = {name: sum(each) / len(each) for name, each in self.values.items()}
        if self.pictures:
            found["pictures"] = self.pictures
            found["seconds"] = self.seconds / self.pictures
        return found


class Pipelines:
    """The real pipelines, loaded from their folders when first asked for."""

    def __init__(self, data: Path, weights: Path | None = None) -> None:
        self._data, self._weights = data, weights
        self._loaded: dict[str, Any] = {}

    def load(self, part: str) -> Any:
        """The pipeline of a part, in full precision."""
        if part not in self._loaded:
            place = {} if self._weights is None else {"weights": self._weights}
            where = folder(part, self._data, **place)
            pipeline = PIPELINES[part].from_pretrained(
                where, dtype=torch.float32, local_files_only=True
            )
            pipeline.set_progress_bar_config(disable=True)
            self._loaded[part] = pipeline
        return self._loaded[part]

    def call(self, kind: str, seed: int, **arguments: Any) -> Image.Image:
        """One picture of a kind, with the steps and the guidance that the program gives it."""
        made: Image.Image = self.load(_MODEL.serves[kind].part)(
            height=SIDE,
            width=SIDE,
            generator=torch.Generator().manual_seed(seed),
            **{"guidance_scale": GUIDANCE[kind], "num_inference_steps": STEPS[kind], **arguments},
        ).images[0]
        return made

    def text2img(self, prompt: str, seed: int, **more: Any) -> Image.Image:
        """A picture of a prompt."""
        return self.call("text2img", seed, prompt=prompt, **_WORDS, **more)

    def kontext(self, prompt: str, seed: int, image: Image.Image, **more: Any) -> Image.Image:
        """A picture changed as told."""
        fixed = {"max_area": SIDE * SIDE, "_auto_resize": False}
        return self.call("kontext", seed, prompt=prompt, image=image, **fixed, **_WORDS, **more)

    def fill(
        self, prompt: str, seed: int, image: Image.Image, mask: Image.Image, **more: Any
    ) -> Image.Image:
        """A picture with its hole repainted; white in the mask is the hole."""
        hole = {"image": image, "mask_image": mask}
        return self.call("fill", seed, prompt=prompt, **hole, **_WORDS, **more)

    def control(self, prompt: str, seed: int, edges: Image.Image, **more: Any) -> Image.Image:
        """A picture that follows an edge map."""
        return self.call("control", seed, prompt=prompt, control_image=edges, **_WORDS, **more)

    def redux(
        self, images: list[Image.Image], weights: list[float], seed: int, **more: Any
    ) -> Image.Image:
        """A picture that keeps the look of others, mixed by weight."""
        prior = self.load("redux-prior")
        look = prior(
            image=images,
            prompt=[""] * len(images),
            prompt_embeds_scale=weights,
            pooled_prompt_embeds_scale=weights,
        )
        embeds = {
            "prompt_embeds": look.prompt_embeds,
            "pooled_prompt_embeds": look.pooled_prompt_embeds,
        }
        return self.call("redux", seed, **embeds, **more)


def picture_of(rng: random.Random, scene: Scene) -> Image.Image:
    """A true picture of a scene."""
    return as_image(render(arrange([scene], offsets(rng, [scene])))[0])


def rates(verdict: Verdict) -> dict[str, float]:
    """A verdict as figures."""
    return {
        "all": verdict.all,
        "background": verdict.background,
        "colour": verdict.colour,
        "shape": verdict.shape,
        "size": verdict.size,
        "place": verdict.place,
    }


def timed(figures: Figures, make: Callable[..., Image.Image], *given: Any, **more: Any) -> Tensor:
    """Make a picture, note the seconds, and give it as the classifier reads it."""
    began = time.perf_counter()
    made = make(*given, **more)
    figures.seconds += time.perf_counter() - began
    figures.pictures += 1
    return as_levels(made)


def measure_ceiling(pipelines: Pipelines, many: int, seed: int) -> dict[str, dict[str, float]]:
    """The judge's own score on true pictures and on what the codec makes of them."""
    rng = random.Random(f"ceiling {seed}")
    vae = pipelines.load("text2img").vae
    true, coded = Figures(), Figures()
    for _ in range(many):
        scene = draw_scene(rng)
        picture = render(arrange([scene], offsets(rng, [scene])))
        true.add(**rates(judge(read(as_levels(as_image(picture[0]))), scene)))
        with torch.no_grad():
            back = vae.decode(vae.encode(picture).latent_dist.mode()).sample
        coded.add(**rates(judge(read(as_levels(as_image(back[0]))), scene)))
        coded.add(error=float((back - picture).abs().mean() * 127.5))
    return {"true pictures": true.means(), "codec round trip": coded.means()}


def measure_text2img(
    pipelines: Pipelines, many: int, seed: int, **more: Any
) -> dict[str, dict[str, float]]:
    """Unseen two-thing scenes, and one-thing scenes (of which training saw all)."""
    rng = random.Random(f"text2img {seed}")
    two, one = Figures(), Figures()
    for number in range(many + many // 2):
        pair = number < many
        scene = draw_unseen_scene(rng) if pair else draw_scene(rng, two=0.0)
        prompt = describe(rng, scene).text()
        figures = two if pair else one
        made = timed(figures, pipelines.text2img, prompt, number, **more)
        figures.add(**rates(judge(read(made), scene)))
    return {"text2img": two.means(), "text2img, one thing (seen)": one.means()}


def measure_kontext(
    pipelines: Pipelines, many: int, seed: int, **more: Any
) -> dict[str, dict[str, float]]:
    """Edits of unseen two-thing scenes, and of one-thing scenes."""
    rng = random.Random(f"kontext {seed}")
    two, one = Figures(), Figures()
    for number in range(many + many // 2):
        pair = number < many
        kind = EDIT_KINDS[number % len(EDIT_KINDS)]
        edit = draw_edit(rng, unseen=pair, kind=kind)
        while not pair and len(edit.before.things) == 2:
            edit = draw_edit(rng, kind=kind)
        prompt = instruct(rng, edit).text()
        image = picture_of(rng, edit.before)
        figures = two if pair else one
        made = timed(figures, pipelines.kontext, prompt, number, image, **more)
        done, kept = judge_edit(made, edit)
        figures.add(edited=done, kept=kept, all=done and kept, **{f"{edit.kind} edited": done})
    return {"kontext": two.means(), "kontext, one thing (seen)": one.means()}


def judge_edit(made: Tensor, edit: Edit) -> tuple[bool, bool]:
    """Whether the edit was made and whether all the rest was kept."""
    reading = read(made)
    layout, things = in_order(reading.things)
    wanted = edit.after
    if edit.which is None:
        done = reading.background == wanted.background
        kept = layout == wanted.layout and len(things) == len(wanted.things)
        kept = kept and all(
            (seen.colour, seen.shape, seen.size) == (asked.colour, asked.shape, asked.size)
            for seen, asked in zip(things, wanted.things, strict=True)
        )
        return done, kept
    if layout != wanted.layout or len(things) != len(wanted.things):
        return False, False
    seen, asked = things[edit.which], wanted.things[edit.which]
    done = getattr(seen, edit.kind) == getattr(asked, edit.kind)
    kept = reading.background == wanted.background
    for number, (found, named) in enumerate(zip(things, wanted.things, strict=True)):
        for attribute in ("colour", "shape", "size"):
            if not (number == edit.which and attribute == edit.kind):
                kept = kept and getattr(found, attribute) == getattr(named, attribute)
    return done, kept
