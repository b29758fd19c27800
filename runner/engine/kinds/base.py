"""`Kind`, a frozen value that turns tasks into the keyword arguments of pipelines.

    ImageTask ──prepare──► Prepared ──prior──► keyword arguments of the prior stage (redux)
                               └─────arguments──► keyword arguments of the main pipeline

A kind never gets a pipeline or a stop sign and imports no torch, so it cannot make a call that is
not cancellable. There is a function for each family, because the pipelines of one family share
their keywords.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from runner.engine.entries import ONE_MEGAPIXEL
from runner.engine.models import Serving, Sizes
from runner.task import ImageTask

if TYPE_CHECKING:
    from PIL.Image import Image

NOT_GIVEN = object()
"""The default of an option that is in a task only where the spec sets it."""

NEGATIVE: Mapping[str, Any] = {"negative_prompt": NOT_GIVEN, "true_cfg": NOT_GIVEN}
"""The options of the kinds whose models may take a negative prompt."""


@dataclass(frozen=True)
class Paste:
    """Where a new picture goes in the original (RGB), whose other pixels stay as they are.

    `share` is the share of the new picture in each pixel (mode L, 255 is all) of the region that
    it shows, and `corner` the left and upper side of that region.
    """

    original: "Image"
    share: "Image"
    corner: tuple[int, int] = (0, 0)

    def onto(self, picture: "Image") -> "Image":
        """The original with the picture, scaled to its region, pasted into it."""
        whole = self.original.copy()
        whole.paste(picture.resize(self.share.size), self.corner, self.share)
        return whole


@dataclass(frozen=True)
class Prepared:
    """A task's input images, ready for the pipeline, and the size of its picture in pixels.

    `images` maps the spec's image fields to images of mode RGB (`mask`: L). `paste` is set where
    the picture is composited over its original. `depth_of` is an RGB image whose depth map the
    engine has yet to compute with a model, and adds by `with_depth`. `facts` are those about that
    model which a sidecar records, `warnings` are sentences for the caller about the input images.
    """

    width: int
    height: int
    images: Mapping[str, tuple["Image", ...]] = field(default_factory=dict)
    paste: Paste | None = None
    depth_of: "Image | None" = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def finished(self) -> tuple[int, int]:
        """The width and height of the finished picture, before it is enlarged."""
        return self.paste.original.size if self.paste else (self.width, self.height)

    def with_depth(self, depth_map: "Image", **facts: Any) -> Self:
        """The same with the depth map (RGB) of `depth_of` as its input image, and these facts."""
        images = {**self.images, "image": (depth_map,)}
        return replace(self, images=images, depth_of=None, facts=facts)


Arguments = Mapping[str, Any]
Prepare = Callable[[ImageTask, Sizes], Prepared]
Build = Callable[[ImageTask, Prepared], Arguments]


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    `prepare` raises InputMissing or InputBad for images that cannot be used. `reads` names the
    spec's image fields, `may_read` those that it can do without, `options` its other fields with
    their defaults. `arguments` and `prior` are keyed by family; `prior` is for kinds whose
    embeddings are computed by another pipeline. `recipe` is raised whenever the same task gives
    other pixels than before; sidecars record it.
    """

    name: str
    prepare: Prepare
    arguments: Mapping[str, Build]
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, Build] = field(default_factory=dict)
    recipe: int = 1

    def build(self, family: str, serving: Serving) -> Build:
        """The function that builds the arguments which the pipeline of a serving takes."""
        build = self.arguments[family]
        return _without_guidance(build) if serving.caches else build


def _without_guidance(build: Build) -> Build:
    def arguments(task: ImageTask, prepared: Prepared) -> Arguments:
        return {n: each for n, each in build(task, prepared).items() if n != "guidance_scale"}

    return arguments


def in_a_megapixel(build: Build) -> Build:
    """The same arguments with pictures of at most a megapixel each, for FLUX.3.

    Its blocks would keep a single one whole up to four megapixels, and cut others in another way.
    """

    def arguments(task: ImageTask, prepared: Prepared) -> Arguments:
        from runner.engine.pictures import images

        built = build(task, prepared)
        return {**built, "image": [images.shrunk(each, ONE_MEGAPIXEL) for each in built["image"]]}

    return arguments


def sampling(task: ImageTask, prepared: Prepared) -> dict[str, Any]:
    """The keyword arguments that the pipelines of all families take, and a true CFG's scale."""
    arguments = {
        "width": prepared.width,
        "height": prepared.height,
        "num_inference_steps": task.steps,
        "guidance_scale": task.guidance,
    }
    true_cfg = task.options.get("true_cfg")
    return {**arguments, "true_cfg_scale": true_cfg} if true_cfg else arguments
