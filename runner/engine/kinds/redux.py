"""redux: variations of a picture, or a mix of several, with or without words.

In FLUX.1 a prior turns the pictures into an embedding, and the main stage paints from it as from a
prompt. Of one picture the weight is its strength. Of several it is its share: the prior adds
embeddings up, and a sum of whole ones lies far outside of what the main stage has learnt. FLUX.2
has no prior: the pictures are its references, and cannot be weighed.
"""

from __future__ import annotations

from runner.engine.kinds.base import Arguments, Kind, Prepared, sampling
from runner.engine.models import Sizes
from runner.job import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine.pictures import images

    pictures = images.open_references(task.inputs["image"], sizes)
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


def _flux2(task: ImageTask, prepared: Prepared) -> Arguments:
    return {**sampling(task, prepared), "image": list(prepared.images["image"])}


KIND = Kind(
    name="redux",
    summary="variations of a picture, or a mix of several",
    reads=("image",),
    prepare=_prepare,
    arguments={"flux1": sampling, "flux2": _flux2},
    prior={"flux1": _prior_flux1},
)
