"""control: a picture that follows the edges (canny) or the depth of another.

Some models were trained with one sort of map, and follow it as they do. Others have a ControlNet
beside them, which reads any: of its map `strength` says how much it counts.
"""

from runner.engine.kinds.base import NOT_GIVEN, Arguments, Kind, Prepared, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine.pictures import images
    from runner.engine.pictures.canny import canny

    item, depth = task.inputs["image"][0], task.options.get("control") == "depth"
    ready = task.options.get("preprocessed", False)
    source, warnings = (images.open_depth_map if depth and ready else images.open_image)(item)
    width, height = images.target_size(source.size, task.width, task.height, sizes)
    warnings += images.cut_warning(item.path.name, source, width, height)
    source = images.fit(source, width, height)
    if not ready:
        if depth:
            return Prepared(width, height, depth_of=source, warnings=warnings)
        source = canny(source)
    return Prepared(width, height, {"image": (source,)}, warnings=warnings)


def _flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    return {**sampling(task, prepared), "control_image": prepared.images["image"][0]}


def _zimage(task: ImageTask, prepared: Prepared) -> Arguments:
    return {**_flux1(task, prepared), "controlnet_conditioning_scale": task.options["strength"]}


KIND = Kind(
    name="control",
    reads=("image",),
    options={"control": "canny", "preprocessed": False, "strength": NOT_GIVEN},
    prepare=_prepare,
    arguments={"flux1": _flux1, "zimage": _zimage},
    recipe=2,
)
