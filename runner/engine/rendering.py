"""From a task to its picture on one device: prepare, encode, load, run, and the facts of it.

Everything between the thread that is handed tasks and the one call site; used by that thread alone.
Answers nothing itself: what goes wrong is raised.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from runner.engine import fallbacks, gpu, hub
from runner.engine.batching import Batching
from runner.engine.gpu import Piece
from runner.engine.kinds.base import Prepared
from runner.engine.pictures.depth import DepthMaps
from runner.engine.prompts.encoding import Prompts
from runner.engine.registry import KINDS
from runner.engine.resolved_task import ResolvedTask
from runner.engine.stop_sign import StopSign
from runner.engine.weights import loras
from runner.engine.weights.pipeline_cache import Loaded, PipelineCache
from runner.errors import JobFailed
from runner.executor import Progressed, Rendered
from runner.job import ImageTask, Phase

if TYPE_CHECKING:
    from PIL.Image import Image

_VERSIONS = ("fluxdrop", "torch", "diffusers", "transformers", "pillow")

Tell = Callable[[Progressed], None]


class Renderer:
    """Makes pictures with what the shelf loads."""

    def __init__(
        self, slot: str, library: hub.Library, pipelines: PipelineCache, prompts: Prompts
    ) -> None:
        self._slot = slot
        self._library = library
        self._pipelines = pipelines
        self._prompts = prompts
        self._depth_maps = DepthMaps()
        self.batching = Batching()

    def rendered(self, task: ImageTask, sign: StopSign, tell: Tell) -> Rendered:
        """The picture of one task. Raises what keeps it from being made."""
        began = time.monotonic()
        on_progress = partial(self._progress, task, tell)

        def attempt(resolved: ResolvedTask) -> tuple[Image, Loaded, Piece, tuple[str, ...]]:
            encoded = self._prompts.encoded(resolved, task, sign, on_progress)
            with sign.not_counted():
                loaded = self._pipelines.paint(resolved, lambda: on_progress(Phase.LOADING))
                worn = loras.apply(loaded.stages.main, task.loras)
            piece = Piece(task, prepared, encoded)
            image = gpu.run_batch(loaded.stages, [piece], sign, on_progress)[0]
            return image, loaded, piece, worn

        sign.check()
        prepared = self._prepared(task, on_progress)
        sign.check()
        pixels = prepared.width * prepared.height
        resolved = self._pipelines.resolve(task, pixels)
        made, lowered, held = fallbacks.with_fallbacks(self._pipelines, resolved, pixels, attempt)
        image, loaded, piece, worn = made
        seconds = time.monotonic() - began - sign.given_back
        told = (*piece.encoded.warnings, *worn, *lowered)
        answer = self._answer(piece, image, seconds, loaded, told)
        self.batching.made(loaded.stages, held, piece, seconds)
        return answer

    def rendered_batch(
        self, tasks: Sequence[ImageTask], sign: StopSign, tell: Tell
    ) -> list[Rendered] | None:
        """The pictures of tasks that are alike, made in one call.

        None where it has not been proven that this changes nothing.
        """
        began = time.monotonic()
        on_progress = partial(self._progress, tasks[0], tell)
        sign.check()
        prepared = self._prepared(tasks[0], on_progress)
        resolved = self._pipelines.resolve(tasks[0], prepared.width * prepared.height)
        pieces = [
            Piece(task, prepared, self._prompts.encoded(resolved, task, sign, on_progress))
            for task in tasks
        ]
        if not self.batching.may(resolved, pieces):
            return None
        loaded = self._pipelines.paint(resolved, lambda: on_progress(Phase.LOADING))
        loras.apply(loaded.stages.main, ())
        images = gpu.run_batch(loaded.stages, pieces, sign, on_progress)
        each = (time.monotonic() - began) / len(tasks)
        return [
            self._answer(piece, image, each, loaded, piece.encoded.warnings)
            for piece, image in zip(pieces, images, strict=True)
        ]

    def forget(self) -> None:
        """Take everything off the device."""
        self._prompts.clear()
        self._depth_maps.release()
        self.batching.forget()
        self._pipelines.forget()

    def _answer(
        self, piece: Piece, image: Image, seconds: float, loaded: Loaded, told: tuple[str, ...]
    ) -> Rendered:
        task, stages = piece.task, loaded.stages
        facts = {
            **loaded.facts,
            "versions": dict(versions()),
            "steps": task.steps,
            "guidance": task.guidance,
            "width": image.width,
            "height": image.height,
        }
        told = (*told, *stages.speed.warnings(stages.main, task.steps))
        return Rendered(self._slot, task, image, seconds, facts, told)

    def _progress(
        self, task: ImageTask, tell: Tell, phase: Phase, step: int = 0, steps: int = 0
    ) -> None:
        tell(Progressed(self._slot, task, phase, step, steps))

    def _prepared(self, task: ImageTask, on_progress: Any) -> Prepared:
        """The pictures first: a fault in them costs no loading and no time on the device."""
        kind, model = KINDS.get(task.kind), self._library.models.get(task.model)
        if kind is None or model is None or task.kind not in model.serves:
            raise JobFailed(f"there is no {task.kind} with {task.model}: see `fluxdrop models`")
        if kind.reads:
            on_progress(Phase.PREPROCESSING, 0, 0)
        prepared = kind.prepare(task, model.sizes_for(task.kind))
        estimator = model.serves[task.kind].estimator
        if prepared.depth_of is None or estimator is None:
            return prepared
        folder = self._library.estimator(estimator)
        return prepared.with_depth(
            self._depth_maps.of(prepared.depth_of, folder, self._pipelines.device)
        )


@cache
def versions() -> Mapping[str, str]:
    """The versions that change pixels, as a sidecar records them."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
