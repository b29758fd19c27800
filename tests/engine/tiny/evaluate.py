"""Measures how often the shipped pipelines are right, on held-out prompts with fixed seeds.

Figures are fractions of pictures, 0 to 1, except for times and errors. Pipelines are called as the
program calls them, for one picture at a time; every picture counts, as `classifier` judges it.
"""

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxImg2ImgPipeline
from PIL import Image, ImageChops, ImageStat
from torch import Tensor

from runner.engine.entries import MODEL_REGISTRY, TINY_UPSCALER
from runner.engine.pictures.upscaling import Net, of, upscaled
from runner.engine.tiny.folders import UPSCALER, WEIGHTS, folder
from tests.engine.tiny.captions import describe
from tests.engine.tiny.classifier import Verdict, in_order, judge, read
from tests.engine.tiny.edits import EDIT_KINDS, Edit, draw_edit, instruct
from tests.engine.tiny.export import PIPELINES
from tests.engine.tiny.render import arrange, as_image, as_levels, offsets, render
from tests.engine.tiny.world import PALETTE, SIDE, Scene, draw_scene, draw_unseen_scene

_MODEL = MODEL_REGISTRY["tiny"]
STEPS = {kind: serving.steps for kind, serving in _MODEL.serves.items()}
GUIDANCE = {kind: serving.guidance for kind, serving in _MODEL.serves.items()}
TRUE_CFG = _MODEL.serves["text2img"].true_cfg
STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
_WORDS = {"max_sequence_length": _MODEL.max_sequence_length}


@dataclass
class Figures:
    """Figures of many pictures by name, and the seconds that the pictures took."""

    seconds: float = 0.0
    pictures: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, **values: float) -> None:
        """Add one picture's figures."""
        for name, value in values.items():
            self.values[name].append(float(value))

    def means(self) -> dict[str, float]:
        """The mean of each figure; the number of timed pictures, and the seconds for each."""
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        if self.pictures:
            means["pictures"] = self.pictures
            means["seconds"] = self.seconds / self.pictures
        return means


class Pipelines:
    """The shipped pipelines, each loaded from its folder on first use.

    `data` is the folder in which those folders are made, `weights` None for the shipped weights.
    """

    def __init__(self, data: Path, weights: Path | None = None) -> None:
        self._data, self._weights = data, weights or WEIGHTS
        self._loaded: dict[str, Any] = {}

    def load(self, part: str) -> Any:
        """The pipeline of a part, in float32."""
        if part not in self._loaded:
            pipeline = PIPELINES[part].from_pretrained(
                folder(part, self._data, self._weights), dtype=torch.float32, local_files_only=True
            )
            pipeline.set_progress_bar_config(disable=True)
            self._loaded[part] = pipeline
        return self._loaded[part]

    def upscaler(self) -> Net:
        """The net that enlarges pictures by 2."""
        return of(TINY_UPSCALER, self._weights / UPSCALER)

    def call(self, kind: str, seed: int, **arguments: Any) -> Image.Image:
        """One picture of a kind, with the program's steps and guidance unless given."""
        picture: Image.Image = self.load(_MODEL.serves[kind].part)(
            height=SIDE,
            width=SIDE,
            generator=torch.Generator().manual_seed(seed),
            **{"guidance_scale": GUIDANCE[kind], "num_inference_steps": STEPS[kind], **arguments},
        ).images[0]
        return picture

    def text2img(self, prompt: str, seed: int, negative: str | None = None) -> Image.Image:
        """A picture of a prompt, led away from a negative prompt."""
        asked: dict[str, Any] = {"prompt": prompt, **_WORDS}
        if negative is not None:
            asked |= {"negative_prompt": negative, "true_cfg_scale": TRUE_CFG}
        return self.call("text2img", seed, **asked)

    def img2img(self, prompt: str, seed: int, image: Image.Image, strength: float) -> Image.Image:
        """A picture of a prompt that starts from another picture."""
        if "img2img" not in self._loaded:
            pipeline = FluxImg2ImgPipeline(**self.load("text2img").components)
            pipeline.set_progress_bar_config(disable=True)
            self._loaded["img2img"] = pipeline
        made: Image.Image = self._loaded["img2img"](
            prompt=prompt,
            image=image,
            strength=strength,
            height=SIDE,
            width=SIDE,
            guidance_scale=GUIDANCE["text2img"],
            num_inference_steps=STEPS["text2img"],
            generator=torch.Generator().manual_seed(seed),
            **_WORDS,
        ).images[0]
        return made

    def kontext(self, prompt: str, seed: int, image: Image.Image) -> Image.Image:
        """A picture edited by an instruction."""
        fixed = {"max_area": SIDE * SIDE, "_auto_resize": False}
        return self.call("kontext", seed, prompt=prompt, image=image, **fixed, **_WORDS)

    def fill(
        self, prompt: str, seed: int, image: Image.Image, mask: Image.Image, strength: float = 1.0
    ) -> Image.Image:
        """A picture repainted where the mask is white."""
        asked = {"prompt": prompt, "image": image, "mask_image": mask, "strength": strength}
        return self.call("fill", seed, **asked, **_WORDS)

    def control(self, prompt: str, seed: int, edges: Image.Image) -> Image.Image:
        """A picture that follows an edge map."""
        return self.call("control", seed, prompt=prompt, control_image=edges, **_WORDS)

    def redux(self, images: list[Image.Image], weights: list[float], seed: int) -> Image.Image:
        """A picture that resembles other ones, mixed by weight."""
        prior = self.load("redux-prior")(
            image=images,
            prompt=[""] * len(images),
            prompt_embeds_scale=weights,
            pooled_prompt_embeds_scale=weights,
        )
        return self.call(
            "redux",
            seed,
            prompt_embeds=prior.prompt_embeds,
            pooled_prompt_embeds=prior.pooled_prompt_embeds,
        )


def picture_of(rng: random.Random, scene: Scene) -> Image.Image:
    """An exact picture of a scene, its things moved by up to the usual jitter."""
    return as_image(render(arrange([scene], offsets(rng, [scene])))[0])


def rates(verdict: Verdict) -> dict[str, float]:
    """A verdict as figures."""
    return {"all": verdict.all, **asdict(verdict)}


def timed(figures: Figures, make: Callable[..., Image.Image], *arguments: Any) -> Tensor:
    """Make a picture, add its seconds to the figures, and return it as (3, 64, 64) in 0..255."""
    began = time.perf_counter()
    made = make(*arguments)
    figures.seconds += time.perf_counter() - began
    figures.pictures += 1
    return as_levels(made)


def measure_ceiling(pipelines: Pipelines, many: int, seed: int) -> dict[str, dict[str, float]]:
    """The best possible scores: of exact pictures, and of those encoded and decoded by the VAE."""
    rng = random.Random(f"ceiling {seed}")
    vae = pipelines.load("text2img").vae
    true, coded = Figures(), Figures()
    for _ in range(many):
        scene = draw_scene(rng)
        picture = render(arrange([scene], offsets(rng, [scene])))
        true.add(**rates(judge(read(as_levels(as_image(picture[0]))), scene)))
        with torch.no_grad():
            decoded = vae.decode(vae.encode(picture).latent_dist.mode()).sample
        coded.add(**rates(judge(read(as_levels(as_image(decoded[0]))), scene)))
        coded.add(error=float((decoded - picture).abs().mean() * 127.5))
    return {"true pictures": true.means(), "codec round trip": coded.means()}


def measure_upscale(pipelines: Pipelines, many: int, seed: int) -> dict[str, dict[str, float]]:
    """Held-out scenes enlarged, exact ones and those that went through the codec: decibels of peak
    signal to noise against the same scene drawn at that size, and those of Lanczos."""
    vae, net = pipelines.load("text2img").vae, pipelines.upscaler()
    found: dict[str, dict[str, float]] = {}
    for times in (2, 4):
        for source in ("true pictures", "codec round trip"):
            rng = random.Random(f"upscale {seed}")
            figures = Figures()
            for _ in range(many):
                scene = draw_unseen_scene(rng)
                drawing = arrange([scene], offsets(rng, [scene]))
                exact = render(drawing)
                if source != "true pictures":
                    with torch.no_grad():
                        exact = vae.decode(vae.encode(exact).latent_dist.mode()).sample
                small, wanted = as_image(exact[0]), as_image(render(drawing, times)[0])
                began = time.perf_counter()
                made = upscaled(small, net, times, "cpu", lambda *_: None)
                figures.seconds += time.perf_counter() - began
                figures.pictures += 1
                plain = small.resize(wanted.size, Image.Resampling.LANCZOS)
                gained, usual = decibels(made, wanted), decibels(plain, wanted)
                figures.add(
                    net_decibels=gained, lanczos_decibels=usual, better=float(gained > usual)
                )
            found[f"upscale {times}, {source}"] = figures.means()
    return found


def decibels(made: Image.Image, wanted: Image.Image) -> float:
    """The peak signal-to-noise ratio of a picture."""
    squares = ImageStat.Stat(ImageChops.difference(made, wanted)).sum2
    return 10 * math.log10(255**2 * 3 * math.prod(made.size) / max(sum(squares), 1e-9))


def measure_text2img(pipelines: Pipelines, many: int, seed: int) -> dict[str, dict[str, float]]:
    """Held-out scenes with two things, and scenes with one thing (training uses all of those)."""
    rng = random.Random(f"text2img {seed}")
    two, one = Figures(), Figures()
    for number in range(many + many // 2):
        pair = number < many
        scene = draw_unseen_scene(rng) if pair else draw_scene(rng, two=0.0)
        prompt = describe(rng, scene).text()
        figures = two if pair else one
        made = timed(figures, pipelines.text2img, prompt, number)
        figures.add(**rates(judge(read(made), scene)))
    return {"text2img": two.means(), "text2img, one thing (seen)": one.means()}


def measure_negative(pipelines: Pipelines, many: int, seed: int) -> dict[str, dict[str, float]]:
    """Scenes with one thing, led away from the same scene with the thing in another colour.

    `farther` says that a picture is farther from that one than it is without a negative prompt.
    """
    rng = random.Random(f"negative {seed}")
    figures = Figures()
    for number in range(many // 2):
        scene = draw_scene(rng, two=0.0)
        unwanted = in_another_colour(rng, scene)
        prompt, negative = describe(rng, scene).text(), describe(rng, unwanted).text()
        plain = as_levels(pipelines.text2img(prompt, number))
        made = timed(figures, pipelines.text2img, prompt, number, negative)
        shown = as_levels(picture_of(rng, unwanted))
        figures.add(
            **rates(judge(read(made), scene)), farther=apart(made, shown) > apart(plain, shown)
        )
    return {"text2img, negative prompt": figures.means()}


def measure_strength(pipelines: Pipelines, many: int, seed: int) -> dict[str, dict[str, float]]:
    """Pictures of one thing that start from those of another: what is left of it, what is new."""
    table: dict[str, dict[str, float]] = {}
    for strength in STRENGTHS:
        rng = random.Random(f"strength {seed}")
        figures = Figures()
        for number in range(many // 5):
            before, scene = draw_scene(rng, two=0.0), draw_scene(rng, two=0.0)
            image, prompt = picture_of(rng, before), describe(rng, scene).text()
            made = timed(figures, pipelines.img2img, prompt, number, image, strength)
            reading = read(made)
            kept, done = judge(reading, before).all, judge(reading, scene).all
            figures.add(source=kept, prompt=done, from_source_error=apart(made, as_levels(image)))
        table[f"text2img, strength {strength:g}"] = figures.means()
    return table


def in_another_colour(rng: random.Random, scene: Scene) -> Scene:
    """A scene of one thing with that in a colour that the scene does not have."""
    (thing,) = scene.things
    others = sorted(set(PALETTE) - {thing.colour, scene.background})
    return replace(scene, things=(replace(thing, colour=rng.choice(others)),))


def apart(one: Tensor, other: Tensor) -> float:
    """The mean difference of two pictures' levels."""
    return float((one.float() - other.float()).abs().mean())


def measure_kontext(pipelines: Pipelines, many: int, seed: int) -> dict[str, dict[str, float]]:
    """Edits of held-out scenes with two things, and of scenes with one thing."""
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
        made = timed(figures, pipelines.kontext, prompt, number, image)
        done, kept = judge_edit(made, edit)
        figures.add(edited=done, kept=kept, all=done and kept, **{f"{edit.kind} edited": done})
    return {"kontext": two.means(), "kontext, one thing (seen)": one.means()}


def judge_edit(made: Tensor, edit: Edit) -> tuple[bool, bool]:
    """Whether the edit was made, and whether everything else was kept.

    `made` is the edited picture, (3, 64, 64) in 0..255.
    """
    reading = read(made)
    layout, things = in_order(reading.things)
    wanted = edit.after
    background = reading.background == wanted.background
    same_layout = layout == wanted.layout and len(things) == len(wanted.things)
    if edit.which is None:
        pairs = zip(things, wanted.things, strict=True)
        return background, same_layout and all(thing.matches(asked) for thing, asked in pairs)
    if not same_layout:
        return False, False
    correct = {
        (number, attribute): getattr(thing, attribute) == getattr(asked, attribute)
        for number, (thing, asked) in enumerate(zip(things, wanted.things, strict=True))
        for attribute in ("colour", "shape", "size")
    }
    done = correct.pop((edit.which, edit.kind))
    return done, background and all(correct.values())
