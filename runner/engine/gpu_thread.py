"""The executor of one device: one thread, one slot, every task answered exactly once.

torch and its kin are imported in that thread only, and only it touches the shelf. The one ladder
of outcomes is `_answer`: whatever comes out of a task becomes one Rendered, Failed or
StoppedEarly. What is kept of an error is its words; the error itself would keep tensors alive.
"""

from __future__ import annotations

import logging
import platform
import re
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from runner.engine import devices, gpu, hub, ladder, loras
from runner.engine.custom import models_of
from runner.engine.depth import DepthMaps
from runner.engine.embedding_store import EmbeddingStore
from runner.engine.embeddings import PromptCache
from runner.engine.encoding import Prompts
from runner.engine.faults import DeviceLost
from runner.engine.kinds.base import Prepared
from runner.engine.loading import Loaded, Shelf
from runner.engine.needs import Needs
from runner.engine.registry import KINDS
from runner.engine.speed import Speed
from runner.engine.stop import StopSign
from runner.errors import JobFailed, Stopped
from runner.executor import Event, Failed, Progressed, Rendered, Slot, StoppedEarly
from runner.job import ImageTask, Phase
from runner.settings import Home

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/][^\s'\":,]+")
_VERSIONS = ("fluxdrop", "torch", "diffusers", "transformers", "pillow")


class GpuThread:
    """An `Executor`: see there for what it promises.

    `data` is the home's private folder, where the built-in model is put together; `library` says
    where models come from if not from there and the hub's cache. `prompt_cache` is how many bytes
    of encoded prompts are kept on the disk.
    """

    def __init__(
        self,
        data: Path,
        *,
        library: hub.Library | None = None,
        device: str = "auto",
        precision: str = "auto",
        prompt_cache: int = 0,
        slot: str = "gpu0",
        shelf: Shelf | None = None,
    ) -> None:
        library = library or hub.Disk(data)
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.lost: str | None = None
        """Why the device can do nothing more in this process; None while it works."""
        self._library = library
        self._depth_maps = DepthMaps()
        self._shelf = shelf or Shelf(library, device=device, precision=precision)
        store = EmbeddingStore(data / "cache" / "embeddings", prompt_cache)
        self._prompts = Prompts(
            self._shelf, PromptCache(store if prompt_cache else None), versions()
        )
        self._slot = slot
        self._lock = threading.Lock()
        self._hand: list[tuple[ImageTask, StopSign]] = []
        self._closed = False
        self._orders: SimpleQueue[str | list[tuple[ImageTask, StopSign]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"fluxdrop-{slot}", daemon=True)
        self._thread.start()

    def slots(self) -> Sequence[Slot]:
        with self._lock:
            return (Slot(self._slot, bool(self._hand), self._shelf.loaded),)

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        """Work is coming: its prompts are known, and the libraries are imported meanwhile."""
        if upcoming:
            self._prompts.expect(upcoming)
            self._orders.put("import")

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        hand = [(task, StopSign(task.timeout)) for task in tasks]
        with self._lock:
            if slot != self._slot or self._closed or self._hand:
                why = "closed" if self._closed else "busy" if self._hand else "not mine"
                raise ValueError(f"slot {slot} cannot start a task: it is {why}")
            self._hand = list(hand)
        if hand:
            self._orders.put(hand)

    def stop(self, slot: str) -> None:
        """The signs of what is in hand now are set; a task started later has a sign of its own."""
        with self._lock:
            if slot == self._slot:
                for _, sign in self._hand:
                    sign.set()

    def release(self) -> None:
        """Done by the thread itself, after what is in hand."""
        self._orders.put("release")

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.stop(self._slot)
        self._orders.put("close")
        self._thread.join()

    def _run(self) -> None:
        while True:
            order = self._orders.get()
            if order in ("close", "release"):
                self._quietly(self._prompts.clear)
                self._quietly(self._depth_maps.release)
                self._quietly(self._shelf.forget)
                if order == "close":
                    return
            elif order == "import":
                self._quietly(devices.frameworks)
            elif isinstance(order, list):
                for task, sign in order:
                    self._turn(task, sign)

    def _turn(self, task: ImageTask, sign: StopSign) -> None:
        """One task from hand to answer; the slot is free before anybody can read the answer."""
        answer = self._answer(task, sign)
        with self._lock:
            self._hand.pop(0)
        self.events.put(answer)

    def _answer(self, task: ImageTask, sign: StopSign) -> Event:
        try:
            if self.lost:
                raise DeviceLost(self.lost)
            sign.restart_clock()
            return self._rendered(task, sign)
        except Stopped:
            return StoppedEarly(self._slot, task)
        except DeviceLost as error:
            self.lost = str(error)
            return Failed(self._slot, task, error.reason, str(error))
        except JobFailed as error:
            return Failed(self._slot, task, error.reason, str(error))
        except BaseException as error:  # noqa: BLE001 a task that is not answered stops the night
            # As text: a traceback object would keep the image's tensors alive.
            log.error(
                "%s %d failed:\n%s", task.job, task.index, _private(traceback.format_exc(), task)
            )
            return Failed(self._slot, task, "Internal", _first_line(error, task))

    def _rendered(self, task: ImageTask, sign: StopSign) -> Rendered:
        began = time.monotonic()

        def on_progress(phase: Phase, step: int = 0, steps: int = 0) -> None:
            self.events.put(Progressed(self._slot, task, phase, step, steps))

        def attempt(needs: Needs) -> tuple[Image, Loaded, tuple[str, ...]]:
            encoded = self._prompts.encoded(needs, task, sign, on_progress)
            with sign.not_counted():
                loaded = self._shelf.paint(needs, lambda: on_progress(Phase.LOADING))
                worn = loras.apply(loaded.stages.main, task.loras)
            image = gpu.run(loaded.stages, task, prepared, encoded, sign, on_progress)
            told = loaded.stages.speed.warnings(loaded.stages.main, task.steps)
            return image, loaded, (*encoded.warnings, *worn, *told)

        sign.check()
        prepared = self._prepared(task, on_progress)
        sign.check()
        pixels = prepared.width * prepared.height
        needs = self._shelf.needs(task, pixels)
        (image, loaded, cut), lowered = ladder.climb(self._shelf, needs, pixels, attempt)
        facts = {
            **loaded.facts,
            "versions": dict(versions()),
            "steps": task.steps,
            "guidance": task.guidance,
            "width": image.width,
            "height": image.height,
        }
        seconds = time.monotonic() - began - sign.given_back
        return Rendered(self._slot, task, image, seconds, facts, (*cut, *lowered))

    def _prepared(self, task: ImageTask, on_progress: gpu.OnProgress) -> Prepared:
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
            self._depth_maps.of(prepared.depth_of, folder, self._shelf.device)
        )

    def _quietly(self, what: Any) -> None:
        """Housekeeping between tasks: a failure is written down and ends nothing."""
        try:
            what()
        except Exception:
            log.exception("housekeeping of %s failed", self._slot)


def of_home(home: Home) -> GpuThread:
    """The GPU thread that a home's settings ask for.

    Raises UsageProblem where they ask for what this machine or this installation lacks.
    """
    settings = home.settings
    speed = Speed.of(settings)
    speed.check()
    library = hub.Disk(home.data, models_of(settings))
    shelf = Shelf(
        library, device=settings.device, speed=speed, gpu_memory_gb=settings.gpu_memory_gb
    )
    cache = int(settings.prompt_cache_gb * 1e9)
    return GpuThread(home.data, library=library, shelf=shelf, prompt_cache=cache)


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


def _private(text: str, task: ImageTask) -> str:
    """A message without the prompt and the names of the input pictures."""
    paths = [str(each.path) for given in task.inputs.values() for each in given]
    for secret in filter(None, [task.prompt, *paths]):
        text = text.replace(secret, "…")
    return text


def _first_line(error: BaseException, task: ImageTask) -> str:
    """What went wrong in one line, without any path."""
    text = _private(str(error).strip(), task)
    line = _PATH.sub("…", text.splitlines()[0] if text else "")[:300]
    name = type(error).__name__
    return f"{name}: {line}" if line else name
