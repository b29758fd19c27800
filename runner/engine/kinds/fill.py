"""fill: repaints the area of a mask, or extends a picture beyond its sides (outpaint).

A model works on the region around what is painted, near its own size, and the result is pasted into
the picture as it was given, in sRGB and over white (where it is its own mask, in the colours below
its clear parts): its size stays, and every pixel outside the mask, but not a colour profile of its
own, nor transparency. With `whole`, or without `composite`, it works on the whole picture, scaled
to a size that it can make.

FLUX.1 Fill reads every pixel of the mask. Other families blend latents, which are coarser: for
them the mask is grown to whole cells of the latents, so that thin strokes are not lost.
"""

from runner.engine.kinds.base import NOT_GIVEN, Arguments, Build, Kind, Paste, Prepared, sampling
from runner.engine.models import Sizes
from runner.task import ImageTask


def _prepare(task: ImageTask, sizes: Sizes) -> Prepared:
    from runner.engine.pictures import images, masks

    item, margins = task.inputs["image"][0], task.options.get("outpaint")
    holes, invert = task.inputs.get("mask", (item,))[0], task.options.get("invert_mask", False)
    if margins:
        source, warnings = images.open_image(item)
        canvas, mask = masks.outpaint(source, margins)
    else:
        # White would show around a hole, and be what a `strength` starts from.
        is_erased = holes.path == item.path and not invert
        canvas, warnings = (images.open_erased if is_erased else images.open_image)(item)
        mask, said = masks.open_mask(holes, canvas.size, invert=invert)
        warnings += said
    composite = task.options.get("composite", True)
    whole = task.options.get("whole", False) or not composite
    if whole or task.width or task.height:
        size = images.target_size(canvas.size, task.width, task.height, sizes)
        warnings += images.cut_warning(item.path.name, canvas, *size) + masks.cut_away(mask, size)
        canvas, mask = images.fit(canvas, *size), images.fit(mask, *size)
    masks.refuse_empty(mask, holes.path.name, invert=invert)
    box, size = ((0, 0, *mask.size), mask.size) if whole else masks.region(mask, sizes)
    mask = mask.crop(box)
    worked = masks.scaled(mask, size)
    paste = Paste(canvas, masks.soft_share(mask, worked), box[:2]) if composite else None
    pictures = {"image": (canvas.crop(box).resize(size),), "mask": (worked,)}
    return Prepared(*size, images=pictures, paste=paste, warnings=warnings)


def _flux1(task: ImageTask, prepared: Prepared) -> Arguments:
    return {
        **sampling(task, prepared),
        "image": prepared.images["image"][0],
        "mask_image": prepared.images["mask"][0],
        "strength": task.options["strength"],
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
    reads=("image", "mask"),
    options={
        "invert_mask": False,
        "outpaint": NOT_GIVEN,
        "composite": True,
        "whole": False,
        # With less, the original shows through where the mask repaints it.
        "strength": 1.0,
    },
    prepare=_prepare,
    arguments={"flux1": _flux1, "flux2": _in_cells(16), "zimage": _in_cells(8)},
    recipe=3,
)
