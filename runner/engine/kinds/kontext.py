"""kontext: edits a picture as the prompt says and keeps the rest of it.

Some models read several images. The first is edited and sets the size; the prompt may refer to the
others ("the jacket of image 2").
"""

from runner.engine.kinds.base import NEGATIVE, Arguments, Kind, Prepared, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine.pictures import images

    pictures = images.open_references(task.inputs["image"], sizes)
    source = pictures[0]
    width, height = images.target_size(source.size, task.width, task.height, sizes)
    if sizes.only:  # a model of fixed sizes reads only those
        source = images.fit(source, width, height)
    return Prepared(width=width, height=height, images={"image": (source, *pictures[1:])})


def _flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    return {
        **sampling(task, prepared),
        "image": prepared.images["image"][0],
        # The pipeline takes only the aspect from width and height, and scales it to this area.
        "max_area": prepared.width * prepared.height,
    }


def _flux2(task: ImageTask, prepared: Prepared) -> Arguments:
    from runner.engine.pictures import images

    source, *others = prepared.images["image"]
    if task.width is None and task.height is None:
        # Cropped and scaled here to exactly the size of the result: the pipeline would round the
        # size in another way, and the edit would be shifted by a few pixels.
        source = images.fit(source, prepared.width, prepared.height)
    return {**sampling(task, prepared), "image": [source, *others]}


KIND = Kind(
    name="kontext",
    summary="an edit of a picture, described by a prompt",
    reads=("image",),
    options=NEGATIVE,
    prepare=_prepare,
    arguments={"flux1": _flux1, "flux2": _flux2},
)
