"""Draws what each kind learns from: a target picture, its condition, and ways to ask for it."""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.engine.tiny.captions import Sentence, describe, describe_thing
from runner.engine.tiny.edges import draw_edges
from runner.engine.tiny.edits import Edit, draw_edit, instruct
from runner.engine.tiny.render import arrange, masks_of, offsets, render
from runner.engine.tiny.world import PLACES, RADIUS, SIDE, SLOTS, Scene, draw_seen_scene

Ask = Callable[[random.Random], Sentence]
CONTROL_JITTER = 3.0
"""Outlines may lie further from their places than a prompt alone would put them."""


@dataclass
class Examples:
    """A batch before it is encoded; `hints` are conditions as pictures in -1..1."""

    targets: Tensor
    asks: list[Ask]
    hints: Tensor | None = None
    masks: Tensor | None = None
    weights: Tensor | None = None


def _describing(scene: Scene, rng: random.Random) -> Sentence:
    return describe(rng, scene)


def draw_text2img(rng: random.Random, many: int) -> Examples:
    """Scenes and their captions."""
    scenes = [draw_seen_scene(rng) for _ in range(many)]
    pictures = render(arrange(scenes, offsets(rng, scenes)))
    return Examples(pictures, [functools.partial(_describing, scene) for scene in scenes])


def draw_kontext(rng: random.Random, many: int) -> Examples:
    """Pictures before and after an edit; patches with things in them weigh more."""
    edits = [draw_edit(rng) for _ in range(many)]
    before = [edit.before for edit in edits]
    moved = offsets(rng, before)
    old = arrange(before, moved)
    new = arrange([edit.after for edit in edits], moved)
    sources, targets = render(old), render(new)
    busy = torch.cat([masks_of(old), masks_of(new)], 1).amax(1) > 0
    weights = 1 + 2 * busy.view(many, 4, 16, 4, 16).amax((2, 4)).view(many, 16).float()
    weights = weights / weights.mean(1, keepdim=True)

    def asking(edit: Edit, rng: random.Random) -> Sentence:
        return instruct(rng, edit)

    asks: list[Ask] = [functools.partial(asking, edit) for edit in edits]
    return Examples(targets, asks, hints=sources, weights=weights)


def draw_control(rng: random.Random, many: int) -> Examples:
    """Scenes with their edge maps; captions leave sizes, often also shapes, to the map."""
    scenes = [draw_seen_scene(rng) for _ in range(many)]
    drawing = arrange(scenes, offsets(rng, scenes, CONTROL_JITTER), rng.uniform(0.92, 1.08))

    def asking(scene: Scene, rng: random.Random) -> Sentence:
        return describe(rng, scene, size=rng.random() < 0.4, shape=rng.random() < 0.65)

    asks: list[Ask] = [functools.partial(asking, scene) for scene in scenes]
    pictures = render(drawing)
    hints = draw_edges(rng, masks_of(drawing), pictures)
    return Examples(pictures, asks, hints=hints)


def box(x: float, y: float, reach_x: float, reach_y: float) -> Tensor:
    """A mask of a rectangle around a point: (1, 64, 64)."""
    axis = torch.arange(SIDE) + 0.5
    inside_x, inside_y = (axis - x).abs() <= reach_x, (axis - y).abs() <= reach_y
    return (inside_y[:, None] & inside_x[None, :]).float()[None]


def disc(x: float, y: float, reach: float) -> Tensor:
    """A mask of a disc around a point: (1, 64, 64)."""
    axis = torch.arange(SIDE) + 0.5
    return (torch.hypot(axis[:, None] - y, axis[None, :] - x) <= reach).float()[None]


def half(scene: Scene, which: int) -> Tensor:
    """The mask of one thing's half of a two-thing picture."""
    x, y = (32.0, 32.0) if len(scene.things) == 1 else PLACES[scene.layout][which]
    along = {"row": (16.0, 64.0), "column": (64.0, 16.0), "single": (64.0, 64.0)}[scene.layout]
    x, y = round(x / 16) * 16.0, round(y / 16) * 16.0
    return box(x, y, *along)


def _draw_hole(rng: random.Random, scene: Scene) -> tuple[Tensor, Ask]:
    which = rng.randrange(len(scene.things))
    thing = scene.things[which]
    x, y = PLACES[scene.layout][which]
    slot = SLOTS[scene.layout][which]
    chance = rng.random()
    whole = functools.partial(_describing, scene)
    if chance < 0.6:
        reach = RADIUS[thing.size] * 1.3
        x, y = x + rng.uniform(-1.5, 1.5), y + rng.uniform(-1.5, 1.5)
        narrow = rng.random() < 0.4
        if rng.random() < 0.25:
            mask = disc(x, y, reach + rng.uniform(2.5, 6.0))
        else:
            spare = (2.5, 4.0) if narrow else (2.5, 8.0)
            mask = box(x, y, reach + rng.uniform(*spare), reach + rng.uniform(*spare))
        sized = not narrow or rng.random() < 0.5  # a narrow hole says by itself "small"
    elif chance < 0.8:
        mask, sized = half(scene, which), True
    elif chance < 0.88:  # outpaint: a middle is given
        mask, sized = 1 - box(32, 32, rng.uniform(14, 26), rng.uniform(14, 26)), True
        return mask, whole
    elif chance < 0.94:
        around = (rng.uniform(8, 56), rng.uniform(8, 56), rng.uniform(6, 28), rng.uniform(6, 28))
        return box(*around), whole
    else:
        return torch.ones(1, SIDE, SIDE), whole
    if rng.random() < 0.4:
        return mask, whole

    def asking(rng: random.Random) -> Sentence:
        return describe_thing(rng, thing, slot, size=sized)

    return mask, asking


def draw_fill(rng: random.Random, many: int) -> Examples:
    """Pictures with a grey hole; what lies outside it hardly matters, it is pasted back."""
    scenes = [draw_seen_scene(rng) for _ in range(many)]
    pictures = render(arrange(scenes, offsets(rng, scenes)))
    holes = [_draw_hole(rng, scene) for scene in scenes]
    masks = torch.stack([mask for mask, _ in holes])
    touched = masks.view(many, 4, 16, 4, 16).amax((2, 4)).view(many, 16)
    weights = 0.3 + 0.7 * touched
    asks = [ask for _, ask in holes]
    return Examples(pictures, asks, hints=pictures * (1 - masks), masks=masks, weights=weights)


DRAW: dict[str, Callable[[random.Random, int], Examples]] = {
    "text2img": draw_text2img,
    "kontext": draw_kontext,
    "control": draw_control,
    "fill": draw_fill,
}
