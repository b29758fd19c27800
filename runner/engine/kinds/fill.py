"""fill: repaints the area of a mask, or extends a picture beyond its sides (outpaint).

FLUX.1 Fill reads every pixel of the mask. Other families blend latents, which are coarser: for
them the mask is grown to whole cells of the latents, so that thin strokes are not lost. The
original pixels outside the ungrown mask are restored afterwards.
"""

from runner.engine.kinds.base import NOT_GIVEN, Arguments, Build, Kind, Paste, Prepared, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine.pictures import images, masks

    source = images.open_image(task.inputs["image"][0])
    margins = task.options.get("outpaint")
    if margins:
        canvas, mask = masks.outpaint(source, margins)
    else:
        canvas, mask = source, masks.open_mask(task.inputs["mask"][0], source.size)
    width, height = images.target_size(canvas.size, task.width, task.height, sizes)
    canvas = images.fit(canvas, width, height)
    mask = images.fit(mask, width, height)
    if margins:
        mask = masks.grown(mask)
    masks.refuse_empty(mask)
    paste = Paste(canvas, masks.soft_share(mask)) if task.options.get("composite", True) else None
    pictures = {"image": (canvas,), "mask": (mask,)}
    return Prepared(width=width, height=height, images=pictures, paste=paste)


def _flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    return {
        **sampling(task, prepared),
        "image": prepared.images["image"][0],
        "mask_image": prepared.images["mask"][0],
    }


def _in_cells(cell: int) -> Build:
    """The arguments with the mask grown to cells of `cell` × `cell` pixels."""

    def arguments(task: ImageTask, prepared: Prepared) -> Arguments:
        from runner.engine.pictures import masks

        mask = masks.whole_cells(prepared.images["mask"][0], cell)
        return {**_flux1(task, prepared), "mask_image": mask}

    return arguments


KIND = Kind(
    name="fill",
    summary="a part of a picture painted anew, or its surroundings",
    reads=("image", "mask"),
    options={"outpaint": NOT_GIVEN, "composite": True},
    prepare=_prepare,
    arguments={"flux1": _flux1, "flux2": _in_cells(16), "zimage": _in_cells(8)},
)
