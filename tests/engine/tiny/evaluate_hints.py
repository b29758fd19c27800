"""Measures the kinds with a hint, which is a second picture: fill, control and redux.

As in `evaluate`: held-out scenes, fixed seeds, one picture at a time, and every picture counts.
"""

import random

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tests.engine.tiny.captions import describe, describe_thing
from tests.engine.tiny.classifier import in_order, judge, read, silhouette
from tests.engine.tiny.edges import canny_of, drawn, outlines
from tests.engine.tiny.evaluate import (
    Figures,
    Pipelines,
    picture_of,
    rates,
    timed,
)
from tests.engine.tiny.examples import CONTROL_JITTER, box
from tests.engine.tiny.render import arrange, as_image, as_levels, masks_of, offsets, render
from tests.engine.tiny.world import PLACES, RADIUS, SLOTS, Scene, draw_unseen_scene

Table = dict[str, dict[str, float]]


def hole_of(scene: Scene, which: int) -> Tensor:
    """The mask around one thing: float (1, 64, 64), 1 where it is repainted."""
    x, y = PLACES[scene.layout][which]
    reach = RADIUS[scene.things[which].size] * 1.3 + 4.0
    return box(x, y, reach, reach)


def measure_fill(pipelines: Pipelines, many: int, seed: int) -> Table:
    """One thing of a held-out scene is repainted, prompted by its own words or the full caption."""
    rng = random.Random(f"fill {seed}")
    figures_of = {"fill, thing's own words": Figures(), "fill, whole caption": Figures()}
    for number in range(many):
        scene = draw_unseen_scene(rng)
        which = rng.randrange(2)
        mask = hole_of(scene, which)
        picture = render(arrange([scene], offsets(rng, [scene])))[0]
        own_words = number % 2 == 0
        slot = SLOTS[scene.layout][which]
        thing = scene.things[which]
        caption = describe_thing(rng, thing, slot) if own_words else describe(rng, scene)
        hidden = as_image(torch.where(mask > 0, torch.zeros(()), picture))
        figures = figures_of["fill, thing's own words" if own_words else "fill, whole caption"]
        prompt, hole = caption.text(), as_image(mask * 2 - 1)
        made = timed(figures, pipelines.fill, prompt, number, hidden, hole)
        original = as_levels(as_image(picture))
        outside = (made - original).abs().mean(0)[mask[0] == 0].mean()
        pasted = torch.where(mask > 0, made, original)
        verdict = judge(read(pasted), scene)
        figures.add(**rates(verdict), **_inside(pasted, scene, which), outside_error=float(outside))
    return {name: figures.means() for name, figures in figures_of.items()}


def _inside(pasted: Tensor, scene: Scene, which: int) -> dict[str, float]:
    """Whether the repainted thing itself is right."""
    _, things = in_order(read(pasted).things)
    same_number = len(things) == len(scene.things)
    return {"inside": same_number and things[which].matches(scene.things[which])}


def edge_overlap(made: Tensor, wanted: Tensor) -> float:
    """Intersection over union of two boolean outline maps, their lines made three pixels thick."""
    thick = [functional.max_pool2d(edges.float(), 3, 1, 1) > 0 for edges in (made, wanted)]
    return float((thick[0] & thick[1]).sum()) / max(1.0, float((thick[0] | thick[1]).sum()))


def measure_control(pipelines: Pipelines, many: int, seed: int) -> Table:
    """Outlines and Canny edges of held-out scenes; half of the captions name only colours."""
    rng = random.Random(f"control {seed}")
    figures_of = {"control, outlines": Figures(), "control, canny": Figures()}
    for number in range(many):
        scene = draw_unseen_scene(rng)
        drawing = arrange([scene], offsets(rng, [scene], CONTROL_JITTER))
        masks = masks_of(drawing)
        outlined = number % 2 == 0
        foreground = masks.amax(1, keepdim=True)
        edges = drawn(outlines(masks))[0] if outlined else canny_of(render(drawing)[0])
        prompt = describe(rng, scene, size=False, shape=number % 4 < 2).text()
        figures = figures_of["control, outlines" if outlined else "control, canny"]
        image = as_image(edges)
        made = timed(figures, pipelines.control, prompt, number, image)
        verdict = judge(read(made), scene)
        solid, true = silhouette(made), foreground > 0.5
        figures.add(
            edge_iou=edge_overlap(outlines(solid), outlines(true)),
            area_iou=float((solid & true).sum()) / float((solid | true).sum()),
            colours=verdict.colour and verdict.background,
            shape=verdict.shape,
        )
    return {name: figures.means() for name, figures in figures_of.items()}


def measure_redux(pipelines: Pipelines, many: int, seed: int) -> Table:
    """A held-out picture's scene is kept; of two pictures, that of the one with more weight."""
    rng = random.Random(f"redux {seed}")
    alone, mixed = Figures(), Figures()
    for number in range(many):
        scene, other = draw_unseen_scene(rng), draw_unseen_scene(rng)
        images = [picture_of(rng, scene), picture_of(rng, other)]
        made = timed(alone, pipelines.redux, images[:1], [1.0], number)
        verdict = judge(read(made), scene)
        alone.add(**rates(verdict), kept=verdict.colour and verdict.shape and verdict.background)
        if number % 4 == 0:  # because each makes four more pictures
            _mix(mixed, pipelines, number, images, (scene, other))
    return {"redux": alone.means(), "redux, two mixed": mixed.means()}


def _mix(
    figures: Figures,
    pipelines: Pipelines,
    seed: int,
    images: list[Image.Image],
    scenes: tuple[Scene, Scene],
) -> None:
    """Mix two pictures with four pairs of weights, and add whether the heavier one is kept."""
    for percent in (80, 65):
        share = percent / 100
        for heavier, weights in enumerate(([share, 1 - share], [1 - share, share])):
            made = read(as_levels(pipelines.redux(images, weights, seed)))
            verdict = judge(made, scenes[heavier])
            kept = verdict.colour and verdict.shape and verdict.background
            figures.add(**{f"{percent}:{100 - percent} shows the heavier": kept})
