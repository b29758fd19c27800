"""Draws training examples for each kind: target pictures, their conditions, and random prompts."""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.engine.tiny.captions import Sentence, describe, describe_thing
from tests.engine.tiny.edges import draw_edges
from tests.engine.tiny.edits import draw_edit, instruct
from tests.engine.tiny.render import arrange, masks_of, offsets, render
from tests.engine.tiny.world import PLACES, RADIUS, SIDE, SLOTS, Scene, draw_seen_scene

Ask = Callable[[random.Random], Sentence]
"""Draws one of the prompts for a picture."""

CONTROL_JITTER = 3.0
"""Pixels; more than JITTER, because an outline shows where a thing is."""


@dataclass
class Examples:
    """A batch of n examples before it is encoded.

    `targets` and `hints` (the conditions) are pictures, (n, 3, 64, 64) in -1..1; `masks` are
    (n, 1, 64, 64), 1 where fill repaints; `weights` of the loss are (n, 16), one for each token.
    """

    targets: Tensor
    asks: list[Ask]
    hints: Tensor | None = None
    masks: Tensor | None = None
    weights: Tensor | None = None


def draw_text2img(rng: random.Random, many: int) -> Examples:
    """Scenes and their captions."""
    scenes = [draw_seen_scene(rng) for _ in range(many)]
    pictures = render(arrange(scenes, offsets(rng, scenes)))
    return Examples(pictures, [functools.partial(describe, scene=scene) for scene in scenes])


def draw_kontext(rng: random.Random, many: int) -> Examples:
    """Pictures before and after an edit; patches with things in them have more weight."""
    edits = [draw_edit(rng) for _ in range(many)]
    before = [edit.before for edit in edits]
    moved = offsets(rng, before)
    old = arrange(before, moved)
    new = arrange([edit.after for edit in edits], moved)
    sources, targets = render(old), render(new)
    busy = torch.cat([masks_of(old), masks_of(new)], 1).amax(1) > 0
    weights = 1 + 2 * busy.view(many, 4, 16, 4, 16).amax((2, 4)).view(many, 16).float()
    weights = weights / weights.mean(1, keepdim=True)
    asks: list[Ask] = [functools.partial(instruct, edit=edit) for edit in edits]
    return Examples(targets, asks, hints=sources, weights=weights)


def draw_control(rng: random.Random, many: int) -> Examples:
    """Scenes with edge maps; captions often leave out sizes or shapes, which the map shows."""
    scenes = [draw_seen_scene(rng) for _ in range(many)]
    drawing = arrange(scenes, offsets(rng, scenes, CONTROL_JITTER), rng.uniform(0.92, 1.08))

    def ask(scene: Scene, rng: random.Random) -> Sentence:
        return describe(rng, scene, size=rng.random() < 0.4, shape=rng.random() < 0.65)

    asks: list[Ask] = [functools.partial(ask, scene) for scene in scenes]
    pictures = render(drawing)
    hints = draw_edges(rng, masks_of(drawing), pictures)
    return Examples(pictures, asks, hints=hints)


def box(x: float, y: float, reach_x: float, reach_y: float) -> Tensor:
    """The mask of a rectangle around a point: float (1, 64, 64), 0 or 1; lengths in pixels."""
    axis = torch.arange(SIDE) + 0.5
    inside_x, inside_y = (axis - x).abs() <= reach_x, (axis - y).abs() <= reach_y
    return (inside_y[:, None] & inside_x[None, :]).float()[None]


def disc(x: float, y: float, reach: float) -> Tensor:
    """The mask of a disc around a point: float (1, 64, 64), 0 or 1; lengths in pixels."""
    axis = torch.arange(SIDE) + 0.5
    return (torch.hypot(axis[:, None] - y, axis[None, :] - x) <= reach).float()[None]


def half(scene: Scene, which: int) -> Tensor:
    """The mask of one thing's half of a picture, or of all of it: (1, 64, 64)."""
    x, y = PLACES[scene.layout][which]
    along = {"row": (16.0, 64.0), "column": (64.0, 16.0), "single": (64.0, 64.0)}[scene.layout]
    x, y = round(x / 16) * 16.0, round(y / 16) * 16.0
    return box(x, y, *along)


def _draw_hole(rng: random.Random, scene: Scene) -> tuple[Tensor, Ask]:
    """A random mask for `fill` and the prompts that fit it: of one thing, or of the scene."""
    which = rng.randrange(len(scene.things))
    thing = scene.things[which]
    x, y = PLACES[scene.layout][which]
    slot = SLOTS[scene.layout][which]
    chance = rng.random()
    ask_for_scene = functools.partial(describe, scene=scene)
    if chance < 0.6:
        reach = RADIUS[thing.size] * 1.3
        x, y = x + rng.uniform(-1.5, 1.5), y + rng.uniform(-1.5, 1.5)
        narrow = rng.random() < 0.4
        if rng.random() < 0.25:
            mask = disc(x, y, reach + rng.uniform(2.5, 6.0))
        else:
            spare = (2.5, 4.0) if narrow else (2.5, 8.0)
            mask = box(x, y, reach + rng.uniform(*spare), reach + rng.uniform(*spare))
        sized = not narrow or rng.random() < 0.5  # the size of a narrow hole implies "small"
    elif chance < 0.8:
        mask, sized = half(scene, which), True
    elif chance < 0.88:  # outpainting: only the middle is kept
        mask, sized = 1 - box(32, 32, rng.uniform(14, 26), rng.uniform(14, 26)), True
        return mask, ask_for_scene
    elif chance < 0.94:
        anywhere = (rng.uniform(8, 56), rng.uniform(8, 56), rng.uniform(6, 28), rng.uniform(6, 28))
        return box(*anywhere), ask_for_scene
    else:
        return torch.ones(1, SIDE, SIDE), ask_for_scene
    if rng.random() < 0.4:
        return mask, ask_for_scene
    return mask, functools.partial(describe_thing, thing=thing, slot=slot, size=sized)


def draw_fill(rng: random.Random, many: int) -> Examples:
    """Pictures with a grey hole; the rest has less weight, because it is pasted back."""
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
