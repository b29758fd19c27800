"""redux: variations of a picture, or a mix of several, with or without a prompt.

In FLUX.1 a prior turns the images into an embedding, from which the main stage paints as from a
prompt. The weight of a single image is its strength against the prompt, which `gpu` gives to the
attention. The weights of several are scaled to a sum of 1, because the prior adds the embeddings
up, and the sum of several of full strength lies far outside of what the main stage was trained on.
FLUX.2 and 3 have no prior: the images are references without weights.
"""

from runner.engine.kinds.base import Arguments, Kind, Prepared, in_a_megapixel, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine.pictures import images

    pictures, warnings = images.open_references(task.inputs["image"], sizes)
    width, height = images.target_size(pictures[0].size, task.width, task.height, sizes)
    return Prepared(width, height, images={"image": pictures}, warnings=warnings)


def _prior_flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    weights = [float(image.weight) for image in task.inputs["image"]]
    weights = [weight / sum(weights) for weight in weights] if len(weights) > 1 else [1.0]
    return {
        "image": list(prepared.images["image"]),
        "prompt_embeds_scale": weights,
        "pooled_prompt_embeds_scale": weights,
    }


def _flux2(task: ImageTask, prepared: Prepared) -> Arguments:
    return {**sampling(task, prepared), "image": list(prepared.images["image"])}


KIND = Kind(
    name="redux",
    reads=("image",),
    prepare=_prepare,
    arguments={"flux1": sampling, "flux2": _flux2, "flux3": in_a_megapixel(_flux2)},
    prior={"flux1": _prior_flux1},
    recipe=2,
)
