"""text2img: a picture from a prompt, or from a prompt and a picture to start from (img2img)."""

from runner.engine.kinds.base import NEGATIVE, Arguments, Kind, Prepared, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    if "image" not in task.inputs:
        width, height = sizes.default
        return Prepared(width=task.width or width, height=task.height or height)
    from runner.engine.pictures import images

    item = task.inputs["image"][0]
    source, warnings = images.open_image(item)
    width, height = images.target_size(source.size, task.width, task.height, sizes)
    # The pipelines would stretch another size, and round it in another way.
    start = images.fit(source, width, height)
    warnings += images.cut_warning(item.path.name, source, width, height)
    return Prepared(width=width, height=height, images={"image": (start,)}, warnings=warnings)


def _arguments(task: ImageTask, prepared: Prepared) -> Arguments:
    if not prepared.images:
        return sampling(task, prepared)
    (start,) = prepared.images["image"]
    return {**sampling(task, prepared), "image": start, "strength": task.options["strength"]}


KIND = Kind(
    name="text2img",
    may_read=("image",),
    options={"strength": 0.6, **NEGATIVE},
    prepare=_prepare,
    arguments={"flux1": _arguments, "flux2": _arguments, "flux3": _arguments, "zimage": _arguments},
    recipe=2,
)
