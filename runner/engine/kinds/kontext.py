"""kontext: changes a picture as the prompt says and keeps the rest of it."""

from __future__ import annotations

from runner.engine.kinds.base import Arguments, Kind, Prepared, sampling
from runner.engine.models import Sizes
from runner.job import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine import images

    source = images.open_image(task.inputs["image"][0])
    width, height = images.target_size(source.size, task.width, task.height, sizes)
    if sizes.only:  # a model of fixed sizes sees only those
        source = images.fit(source, width, height)
    return Prepared(width=width, height=height, images={"image": (source,)})


def _flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    return {
        **sampling(task, prepared),
        "image": prepared.images["image"][0],
        # The pipeline takes only the aspect from width and height and scales it to this area.
        "max_area": prepared.width * prepared.height,
    }


KIND = Kind(
    name="kontext",
    summary="an edit of a picture, described by a prompt",
    reads=("image",),
    prepare=_prepare,
    arguments={"flux1": _flux1},
)
