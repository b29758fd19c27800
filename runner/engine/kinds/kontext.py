"""kontext: edits a picture as the prompt says and keeps the rest of it.

Some models read several images. The first is edited and sets the size; the prompt may refer to the
others ("the jacket of image 2"). FLUX.1 Kontext reads one: several are put side by side in it, in
their order ("the jacket of the right one"), as its makers' demonstration of several images does.
"""

from runner.engine.kinds.base import NEGATIVE, Arguments, Kind, Prepared, in_a_megapixel, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine.pictures import images

    pictures, warnings = images.open_references(task.inputs["image"], sizes)
    source = pictures[0]
    width, height = images.target_size(source.size, task.width, task.height, sizes)
    if sizes.only:  # a model of fixed sizes reads only those
        source = images.fit(source, width, height)
    return Prepared(width, height, {"image": (source, *pictures[1:])}, warnings=warnings)


def _flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    from runner.engine.pictures import images

    size, pictures = (prepared.width, prepared.height), prepared.images["image"]
    source = images.on_grid(pictures[0], *size)
    if len(pictures) > 1 or source.size != size:
        source = images.side_by_side(pictures, size[0] * size[1])
    return {
        **sampling(task, prepared),
        "image": source,
        # Else the pipeline would scale it to one of the sizes that it was trained with.
        "_auto_resize": False,
        # The pipeline takes only the aspect from width and height, and scales it to this area.
        "max_area": size[0] * size[1],
    }


def _flux2(task: ImageTask, prepared: Prepared) -> Arguments:
    from runner.engine.pictures import images

    source, *others = prepared.images["image"]
    # The pipeline would round its size in another way, and the edit would be shifted.
    source = images.on_grid(source, prepared.width, prepared.height)
    return {**sampling(task, prepared), "image": [source, *others]}


KIND = Kind(
    name="kontext",
    reads=("image",),
    options=NEGATIVE,
    prepare=_prepare,
    arguments={"flux1": _flux1, "flux2": _flux2, "flux3": in_a_megapixel(_flux2)},
    recipe=2,
)
