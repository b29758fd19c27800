"""redux: variations of a picture, or a mix of several, with or without words.

The prior turns the pictures into an embedding; the main stage paints from it as from a prompt.
Of one picture the weight is its strength. Of several it is its share: the prior adds embeddings
up, and a sum of whole ones lies far outside of what the main stage has learnt.
"""

from __future__ import annotations

from runner.engine.kinds.base import Arguments, Kind, Prepared, sampling
from runner.engine.models import Sizes
from runner.job import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine import images

    pictures = tuple(images.open_image(each) for each in task.inputs["image"])
    width, height = images.target_size(pictures[0].size, task.width, task.height, sizes)
    return Prepared(width=width, height=height, images={"image": pictures})


def _prior_flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    weights = [float(each.weight) for each in task.inputs["image"]]
    if len(weights) > 1:
        total = sum(weights) or 1.0
        weights = [weight / total for weight in weights]
    return {
        "image": list(prepared.images["image"]),
        "prompt_embeds_scale": weights,
        "pooled_prompt_embeds_scale": weights,
    }


KIND = Kind(
    name="redux",
    summary="variations of a picture, or a mix of several",
    reads=("image",),
    prepare=_prepare,
    arguments={"flux1": sampling},
    prior={"flux1": _prior_flux1},
)
