"""Measures the kinds that follow a second picture: fill, control and redux.

The rules are `evaluate`'s: unseen scenes, fixed seeds, one picture a call, nothing picked.
"""

import random
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from runner.engine.tiny.captions import describe, describe_thing
from runner.engine.tiny.classifier import in_order, judge, read, silhouette
from runner.engine.tiny.edges import canny_of, drawn, outlines
from runner.engine.tiny.evaluate import (
    Figures,
    Pipelines,
    picture_of,
    rates,
    timed,
)
from runner.engine.tiny.examples import CONTROL_JITTER, box
from runner.engine.tiny.pictures import as_image, as_levels
from runner.engine.tiny.render import arrange, masks_of, offsets, render
from runner.engine.tiny.world import PLACES, RADIUS, SLOTS, Scene, draw_unseen_scene

Table = dict[str, dict[str, float]]


def hole_of(scene: Scene, which: int, spare: float = 4.0) -> Tensor:
    """The mask around one thing: (1, 64, 64), 1 is repainted."""
    x, y = PLACES[scene.layout][which]
    reach = RADIUS[scene.things[which].size] * 1.3 + spare
    return box(x, y, reach, reach)


def measure_fill(pipelines: Pipelines, many: int, seed: int, **more: Any) -> Table:
    """One thing of an unseen scene is repainted: by its own words, or by the whole caption."""
    rng = random.Random(f"fill {seed}")
    found = {"fill, thing's own words": Figures(), "fill, whole caption": Figures()}
    for number in range(many):
        scene = draw_unseen_scene(rng)
        which = rng.randrange(2)
        mask = hole_of(scene, which)
        picture = render(arrange([scene], offsets(rng, [scene])))[0]
        bare = number % 2 == 0
        slot = SLOTS[scene.layout][which]
        asked = describe_thing(rng, scene.things[which], slot) if bare else describe(rng, scene)
        hidden = as_image(torch.where(mask > 0, torch.zeros(()), picture))
        figures = found["fill, thing's own words" if bare else "fill, whole caption"]
        prompt, hole = asked.text(), as_image(mask * 2 - 1)
        made = timed(figures, pipelines.fill, prompt, number, hidden, hole, **more)
        original = as_levels(as_image(picture))
        outside = (made - original).abs().mean(0)[mask[0] == 0].mean()
        pasted = torch.where(mask > 0, made, original)
        verdict = judge(read(pasted), scene)
        figures.add(**rates(verdict), **_inside(pasted, scene, which), outside_error=float(outside))
    return {name: figures.means() for name, figures in found.items()}


def _inside(pasted: Tensor, scene: Scene, which: int) -> dict[str, float]:
    """Whether the repainted thing itself is right."""
    _, things = in_order(read(pasted).things)
    if len(things) != len(scene.things):
        return {"inside": False}
    seen, asked = things[which], scene.things[which]
    return {
        "inside": (seen.colour, seen.shape, seen.size) == (asked.colour, asked.shape, asked.size)
    }


def edge_overlap(made: Tensor, wanted: Tensor) -> float:
    """Intersection over union of two outline maps, each line three pixels thick."""
    thick = [functional.max_pool2d(each.float(), 3, 1, 1) > 0 for each in (made, wanted)]
    return float((thick[0] & thick[1]).sum()) / max(1.0, float((thick[0] | thick[1]).sum()))


def measure_control(pipelines: Pipelines, many: int, seed: int, **more: Any) -> Table:
    """Outlines and Canny edges of unseen scenes; captions that name the shapes, or only colours."""
    rng = random.Random(f"control {seed}")
    found = {"control, outlines": Figures(), "control, canny": Figures()}
    for number in range(many):
        scene = draw_unseen_scene(rng)
        drawing = arrange([scene], offsets(rng, [scene], CONTROL_JITTER))
        masks = masks_of(drawing)
        traced = number % 2 == 0
        front = masks.amax(1, keepdim=True)
        edges = drawn(outlines(masks))[0] if traced else canny_of(render(drawing)[0])
        prompt = describe(rng, scene, size=False, shape=number % 4 < 2).text()
        figures = found["control, outlines" if traced else "control, canny"]
        image = as_image(edges)
        made = timed(figures, pipelines.control, prompt, number, image, **more)
        verdict = judge(read(made), scene)
        solid, true = silhouette(made), front > 0.5
        figures.add(
            edge_iou=edge_overlap(outlines(solid), outlines(true)),
            area_iou=float((solid & true).sum()) / float((solid | true).sum()),
            colours=verdict.colour and verdict.background,
            shape=verdict.shape,
        )
    return {name: figures.means() for name, figures in found.items()}


def measure_redux(pipelines: Pipelines, many: int, seed: int, **more: Any) -> Table:
    """The look of an unseen picture is kept; of two, the one with more weight decides."""
    rng = random.Random(f"redux {seed}")
    alone, mixed = Figures(), Figures()
    for number in range(many):
        scene, other = draw_unseen_scene(rng), draw_unseen_scene(rng)
        images = [picture_of(rng, scene), picture_of(rng, other)]
        made = timed(alone, pipelines.redux, images[:1], [1.0], number, **more)
        verdict = judge(read(made), scene)
        alone.add(**rates(verdict), kept=verdict.colour and verdict.shape and verdict.background)
        if number % 4 == 0:  # four more pictures each
            _mix(mixed, pipelines, number, images, (scene, other), **more)
    return {"redux": alone.means(), "redux, two mixed": mixed.means()}


def _mix(
    figures: Figures,
    pipelines: Pipelines,
    seed: int,
    images: list[Image.Image],
    scenes: tuple[Scene, Scene],
    **more: Any,
) -> None:
    for percent in (80, 65):
        share = percent / 100
        for heavier, weights in enumerate(([share, 1 - share], [1 - share, share])):
            made = read(as_levels(pipelines.redux(images, weights, seed, **more)))
            verdict = judge(made, scenes[heavier])
            kept = verdict.colour and verdict.shape and verdict.background
            figures.add(**{f"{percent}:{100 - percent} shows the heavier": kept})
