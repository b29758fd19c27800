"""The executor of one device: one thread, one slot, every task answered exactly once.

torch, diffusers and transformers are imported in that thread only, and only it touches the
pipelines. `_answer` turns whatever a task returns or raises into one Rendered, Failed or
StoppedEarly. Only the text of an error is kept: its traceback would keep tensors alive.
"""

import logging
import platform
import re
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

from runner.engine.custom_entries import models_of, upscaler_of
from runner.engine.errors import DeviceLost
from runner.engine.gpu import StopSign
from runner.engine.hub import library as hub
from runner.engine.memory import devices
from runner.engine.prompts.embeddings import PromptCache
from runner.engine.prompts.encoding import Prompts
from runner.engine.rendering import Renderer, versions
from runner.engine.speed import Speed
from runner.engine.weights.pipeline_cache import PipelineCache
from runner.errors import JobFailed, Stopped
from runner.executor import OWN_SLOT, Event, Failed, Progressed, Slot, StoppedEarly
from runner.settings import Home
from runner.task import ImageTask
from runner.threads import Threads

log = logging.getLogger(__name__)

_Order = list[tuple[ImageTask, StopSign]] | Callable[[], object] | None
"""Tasks to render, or what else the thread is to do; None ends it."""
_PATH = re.compile(r"(?:[A-Za-z]:)?[\\/][^\s'\":,]+")


class GpuThread:
    """An `Executor` with one slot, which has the name `slot`; `shown` is its device for people.

    `data` is the home's private folder, where the built-in model is assembled. `library` finds the
    models, by default there and in the hub's cache. `pipelines`, where given, replaces a cache of
    that library on `device`. `prompt_cache` is how many bytes of encoded prompts are kept on disk.
    """

    def __init__(
        self,
        data: Path,
        *,
        library: hub.Disk | None = None,
        device: str = "auto",
        prompt_cache: int = 0,
        pipelines: PipelineCache | None = None,
        threads: Threads | None = None,
        slot: str = OWN_SLOT,
        shown: str = "",
    ) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._slot, self._device = slot, shown or device
        self.lost: str | None = None
        """Why the device cannot be used any more in this process; None while it can."""
        self._pipelines = pipelines or PipelineCache(library or hub.Disk(data), device=device)
        folder = data / "cache" / "embeddings" if prompt_cache else None
        cache = PromptCache(folder, prompt_cache)
        # Several share a store: each encodes in an order of its own, so that they share the work.
        order = "" if slot == OWN_SLOT else slot
        self._prompts = Prompts(self._pipelines, cache, versions(), order)
        self._renderer = Renderer(self._slot, self._pipelines, self._prompts)
        self._lock = threading.Lock()
        self._in_flight: list[tuple[ImageTask, StopSign]] = []
        self._closed = False
        self._is_empty = True
        self._orders: SimpleQueue[_Order] = SimpleQueue()
        self._threads = threads or Threads()
        self._thread = self._threads.start(self._slot, self._run)

    def slots(self) -> Sequence[Slot]:
        with self._lock:
            size = self._renderer.batching.size
            loaded = self._pipelines.loaded
            return (
                Slot(
                    self._slot, bool(self._in_flight), loaded, size,
                    platform.node(), self._device, devices.reserved() if loaded else None,
                    empty=self._is_empty,
                ),
            )  # fmt: skip

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        """Remember the prompts that come next, and import the libraries meanwhile."""
        if upcoming:
            self._prompts.expect(upcoming)
            self._orders.put(devices.frameworks)

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        signed = [(task, StopSign(task.timeout, self._threads.awake)) for task in tasks]
        with self._lock:
            if slot != self._slot or self._closed or self._in_flight:
                why = "closed" if self._closed else "busy" if self._in_flight else "not mine"
                raise ValueError(f"slot {slot} cannot start a task: it is {why}")
            self._in_flight = list(signed)
        if signed:
            self._orders.put(signed)

    def stop(self, slot: str) -> None:
        """Set the stop signs of the tasks in flight; a task started later has its own."""
        with self._lock:
            if slot == self._slot:
                for _, sign in self._in_flight:
                    sign.set()

    def abandon(self, slot: str, why: str) -> bool:
        """A thread cannot be ended."""
        return False

    def release(self) -> None:
        """The thread does it, after the tasks in flight."""
        self._orders.put(self._release)

    def _release(self) -> None:
        self._renderer.forget()
        self._is_empty = True

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.stop(self._slot)
        self._orders.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._threads.moved(self._slot)
            order = self._orders.get()
            self._threads.moved(self._slot)
            if isinstance(order, list):
                self._is_empty = False
                if not self._run_batch(order):
                    for task, sign in order:
                        answer = self._answer(task, sign)
                        with self._lock:  # the slot is free before its answer can be read
                            self._in_flight.pop(0)
                        self.events.put(answer)
            elif order is not None:
                _log_failure(order)
            else:
                _log_failure(self._renderer.forget)
                return

    def _run_batch(self, signed: list[tuple[ImageTask, StopSign]]) -> bool:
        """Render all tasks in one call; False where that cannot be, and then none is answered."""
        if len(signed) < 2 or self.lost:
            return False
        tasks, sign = [task for task, _ in signed], signed[0][1]
        answers: Sequence[Event] | None
        try:
            answers = self._renderer.render_batch(tasks, sign, self._report)
        except Stopped:
            answers = [StoppedEarly(self._slot, task) for task in tasks]
        except Exception:  # noqa: BLE001 one may have failed, or all be too large: each alone
            said = _private(traceback.format_exc(), *tasks)
            log.info("%d images could not be made at once:\n%s", len(tasks), said)
            return False
        if answers is None:
            return False
        with self._lock:
            self._in_flight.clear()
        for answer in answers:
            self.events.put(answer)
        return True

    def _report(self, event: Progressed) -> None:
        self._threads.moved(self._slot)
        self.events.put(event)
        if event.task.suspect:
            # It is to be recorded before what follows may end the process.
            time.sleep(0.02)

    def _answer(self, task: ImageTask, sign: StopSign) -> Event:
        try:
            if self.lost:
                raise DeviceLost(self.lost)
            sign.restart_clock()
            return self._renderer.render(task, sign, self._report)
        except Stopped:
            return StoppedEarly(self._slot, task)
        except JobFailed as error:
            if isinstance(error, DeviceLost):
                self.lost = str(error)
            return Failed(self._slot, task, error.reason, str(error))
        except BaseException as error:  # noqa: BLE001 an unanswered task would block the queue
            # As text: a traceback object would keep the image's tensors alive.
            said = _private(traceback.format_exc(), task)
            log.error("job %s image %d failed:\n%s", task.job, task.index, said)
            return Failed(self._slot, task, "Internal", _first_line(error, task))


def of_home(
    home: Home,
    *,
    slot: str = OWN_SLOT,
    device: str | None = None,
    shown: str = "",
    sharing: int = 1,
) -> GpuThread:
    """The GPU thread that a home's settings ask for, or one on this device, `shown` otherwise.

    So many processes are `sharing` the memory of this machine.

    Raises UsageProblem where they ask for what this machine or this installation lacks.
    """
    settings = home.settings
    speed = Speed.of(settings)
    speed.check()
    library = hub.Disk(home.data, models_of(settings), upscaler_of(settings))
    device = device or settings.device
    pipelines = PipelineCache(
        library, device=device, speed=speed, gpu_memory_gb=settings.gpu_memory_gb, sharing=sharing
    )
    return GpuThread(
        home.data,
        device=device,
        prompt_cache=int(settings.prompt_cache_gb * 1e9),
        pipelines=pipelines,
        threads=home.threads,
        slot=slot,
        shown=shown,
    )


def _log_failure(housekeeping: Callable[[], object]) -> None:
    """Do some work between tasks; a failure is logged, and the thread continues."""
    try:
        housekeeping()
    except Exception:
        log.exception("housekeeping between images failed")


def _private(text: str, *tasks: ImageTask) -> str:
    """A message without the prompts and the paths of the input images."""
    for task in tasks:
        paths = [str(image.path) for images in task.inputs.values() for image in images]
        for secret in filter(None, [task.prompt, task.options.get("negative_prompt"), *paths]):
            text = text.replace(secret, "…").replace(repr(secret)[1:-1], "…")
    return text


def _first_line(error: BaseException, task: ImageTask) -> str:
    """An error's name and the first 300 characters of its first line, without any path."""
    text = _private(str(error).strip(), task)
    line = _PATH.sub("…", text.splitlines()[0] if text else "")[:300]
    name = type(error).__name__
    return f"{name}: {line}" if line else name
