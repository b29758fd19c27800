"""Makes the picture of a task: prepares its input images, encodes, loads, and runs the pipelines.

The steps between `gpu_thread`, whose thread alone uses this module, and the call in `gpu`. Errors
are raised, and turned into events there.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from runner.engine import gpu
from runner.engine.batching import Batching
from runner.engine.gpu import Piece, Stages, StopSign
from runner.engine.hub.library import absence, revision_of
from runner.engine.hub.sources import loaded
from runner.engine.kinds.base import Prepared
from runner.engine.models import upscaling_problem
from runner.engine.pictures import depth, upscaling
from runner.engine.pictures.previews import Previews
from runner.engine.prompts.encoding import Prompts
from runner.engine.registry import KINDS
from runner.engine.resolved_task import ResolvedTask
from runner.engine.weights import loras
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import InputBad, JobFailed, ModelMissing, OutOfMemory
from runner.executor import Progressed, Rendered
from runner.job import Phase
from runner.task import ImageTask

if TYPE_CHECKING:
    from PIL.Image import Image

_PACKAGES = ("fluxdrop", "torch", "diffusers", "transformers", "pillow")

OnEvent = Callable[[Progressed], None]


class Renderer:
    """Renders the tasks of one slot with the pipelines of a cache."""

    def __init__(self, slot: str, pipelines: PipelineCache, prompts: Prompts) -> None:
        self._slot = slot
        self._pipelines = pipelines
        self._prompts = prompts
        self._previews = Previews(pipelines.store)
        self.batching = Batching()

    def render(self, task: ImageTask, sign: StopSign, on_event: OnEvent) -> Rendered:
        """Make the picture of one task.

        Raises Stopped, JobFailed, or whatever else torch and diffusers raise.
        """
        began = time.monotonic()
        on_progress = partial(self._progress, task, on_event)

        def attempt(resolved: ResolvedTask) -> Rendered:
            encoded = self._prompts.encoded(resolved, task, sign, on_progress)
            with sign.not_counted():
                stages = self._pipelines.paint(resolved, partial(on_progress, Phase.LOADING))
                lora_warnings = loras.apply(stages.main, task.loras)
                stages = self._previews.of(stages, resolved, task, prepared)
            piece = Piece(task, prepared, encoded)
            image = gpu.run_batch(stages, [piece], sign, on_progress)[0]
            warnings = (*encoded.warnings, *lora_warnings)
            if resolved.plan is not first.plan:
                ran_out = f"the device ran out of memory {first.plan.summary}"
                warnings += (f"{ran_out}; this was made {resolved.plan.summary}",)
            seconds = time.monotonic() - began - sign.given_back
            on_tile = partial(_before_tile, sign, on_progress)
            rendered = self._rendered(piece, image, seconds, stages, warnings, net, on_tile)
            self.batching.record(stages, resolved, piece, seconds)
            return rendered

        sign.check()
        prepared, net = self._prepared(task, on_progress), self._net(task)
        sign.check()
        pixels = prepared.width * prepared.height
        with sign.not_counted():
            first = self._pipelines.resolve(task, pixels, partial(on_progress, Phase.LOADING))
        for resolved in self._pipelines.attempts(first):
            try:
                return attempt(resolved)
            except OutOfMemory as error:
                message = str(error)
        raise OutOfMemory(message)

    def render_batch(
        self, tasks: Sequence[ImageTask], sign: StopSign, on_event: OnEvent
    ) -> list[Rendered] | None:
        """Make the pictures of tasks that are alike in one call.

        None where it is not proven that each comes out as if made alone. Raises as `render` does,
        and then none of them is made.
        """
        began = time.monotonic()
        on_progress = partial(self._progress, tasks[0], on_event)
        sign.check()
        prepared, net = self._prepared(tasks[0], on_progress), self._net(tasks[0])
        resolved = self._pipelines.resolve(tasks[0], prepared.width * prepared.height)
        pieces = [
            Piece(task, prepared, self._prompts.encoded(resolved, task, sign, on_progress))
            for task in tasks
        ]
        if not self.batching.is_proven(resolved, pieces):
            return None
        stages = self._pipelines.paint(resolved, partial(on_progress, Phase.LOADING))
        loras.apply(stages.main, ())
        stages = self._previews.of(stages, resolved, tasks[0], prepared)
        images = gpu.run_batch(stages, pieces, sign, on_progress)
        seconds = (time.monotonic() - began) / len(tasks)
        on_tile = partial(_before_tile, sign, on_progress)
        return [
            self._rendered(piece, image, seconds, stages, piece.encoded.warnings, net, on_tile)
            for piece, image in zip(pieces, images, strict=True)
        ]

    def forget(self) -> None:
        """Take every model and every kept tensor off the device."""
        self._prompts.clear()
        depth.release()
        upscaling.release()
        self.batching.forget()
        self._pipelines.forget()

    def _net(self, task: ImageTask) -> upscaling.Net | None:
        """What enlarges the picture of a task; its absence is told before a model is loaded."""
        library = self._pipelines.library
        model = library.models[task.model]
        try:
            return upscaling.of(*library.upscaler(model)) if task.upscale > 1 else None
        except ModelMissing as error:
            more = absence(model, library.data, task.kind)
            raise ModelMissing(f"{error}; {more}" if more else str(error)) from error

    def _rendered(
        self,
        piece: Piece,
        image: "Image",
        seconds: float,
        stages: Stages,
        warnings: tuple[str, ...],
        net: upscaling.Net | None,
        on_tile: upscaling.OnTile,
    ) -> Rendered:
        task = piece.task
        facts: dict[str, Any] = {
            **stages.facts,
            **piece.prepared.facts,
            "versions": dict(versions()),
            "steps": task.steps,
            "guidance": task.guidance,
            "width": piece.prepared.width,
            "height": piece.prepared.height,
            "recipe": KINDS[task.kind].recipe,
        }
        warnings = (*piece.prepared.warnings, *stages.warnings, *warnings)
        warnings += stages.speed.warnings(stages.main, task.steps_made)
        if image.getcolors(1):  # of what was painted, before it is pasted into another
            warnings += ("the picture is of one colour: look at it, and try another seed",)
        if piece.prepared.paste:
            image = piece.prepared.paste.onto(image)
        if net is None:
            return Rendered(self._slot, task, image, seconds, facts, warnings)
        began, original = time.monotonic(), image if task.keep_original else None
        image = upscaling.upscaled(image, net, task.upscale, self._pipelines.device, on_tile)
        seconds += time.monotonic() - began
        facts["upscaler"] = net.facts
        return Rendered(self._slot, task, image, seconds, facts, warnings, original)

    def _progress(self, task: ImageTask, on_event: OnEvent, *told: Any) -> None:
        on_event(Progressed(self._slot, task, *told))

    def _prepared(self, task: ImageTask, on_progress: Any) -> Prepared:
        """The prepared input images; done first, so that a bad image costs no loading of models."""
        kind, model = KINDS.get(task.kind), self._pipelines.library.models.get(task.model)
        if kind is None or model is None or task.kind not in model.serves:
            raise JobFailed(f"there is no {task.kind} with {task.model}: see `fluxdrop models`")
        if task.inputs:
            on_progress(Phase.PREPROCESSING, 0, 0)
        prepared = kind.prepare(task, model.sizes_for(task.kind))
        if problem := upscaling_problem(prepared.finished, task.upscale):
            raise InputBad(problem)
        estimator = model.serves[task.kind].estimator
        if prepared.depth_of is None or estimator is None:
            return prepared
        folder = self._pipelines.library.estimator(estimator)
        made = depth.of(prepared.depth_of, folder, self._pipelines.device)
        digest = self._pipelines.hashes.of(loaded(folder))
        revision = revision_of(folder, estimator)
        facts = {"name": estimator.name, "repo": estimator.repo, "revision": revision}
        return prepared.with_depth(made, estimator={**facts, "hash": digest})


def _before_tile(sign: StopSign, on_progress: Any, done: int, tiles: int) -> None:
    on_progress(Phase.UPSCALING, done, tiles)
    sign.check()


@cache
def versions() -> Mapping[str, str]:
    """The versions of Python and of the packages that change pixels, as a sidecar records them."""
    numbers = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            numbers[name] = "unknown"
    return numbers
