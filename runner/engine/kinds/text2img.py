"""text2img: a picture from a prompt alone."""

from runner.engine.kinds.base import Kind, Prepared, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    width, height = sizes.default
    return Prepared(width=task.width or width, height=task.height or height)


KIND = Kind(
    name="text2img",
    summary="a picture from a prompt",
    prepare=_prepare,
    arguments={"flux1": sampling, "flux2": sampling, "zimage": sampling},
)
