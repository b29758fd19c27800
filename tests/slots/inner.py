"""An executor without a device, for a child process: a task's prompt says what becomes of it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from PIL import Image

from runner.errors import UsageProblem
from runner.executor import (
    Event,
    Executor,
    Failed,
    Progressed,
    Rendered,
    Slot,
    SlotLost,
    StoppedEarly,
)
from runner.job import Phase
from runner.settings import Home
from runner.slots.local import Place, thread_of
from runner.task import ImageTask

log = logging.getLogger("runner.engine.inner")


def task(prompt: str = "picture", index: int = 1) -> ImageTask:
    return ImageTask("job", index, "text2img", "tiny", prompt, 7, 3, 3.5)


class Inner:
    """Slots `one` and `two`; `can_abandon` says whether one of them can be ended."""

    def __init__(self, can_abandon: bool = False) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._can_abandon = can_abandon
        self._hand: dict[str, list[ImageTask]] = {"one": [], "two": []}
        self._models: dict[str, tuple[str, ...]] = {"one": (), "two": ()}
        self._refuses = False

    def slots(self) -> Sequence[Slot]:
        return [Slot(name, bool(hand), self._models[name]) for name, hand in self._hand.items()]

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        if upcoming:
            self._models["one"] = tuple(each.prompt for each in upcoming)

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        if self._refuses or self._hand[slot]:
            raise ValueError("busy")
        self._hand[slot] = list(tasks)
        for each in tasks:
            self.events.put(Progressed(slot, each, Phase.LOADING))
        for each in tasks:
            match each.prompt.split():
                case ["hold"]:
                    continue
                case ["previewed"]:
                    steps = Phase.DENOISING, 1, 3
                    self.events.put(Progressed(slot, each, *steps, preview=b"RIFF \x00 WEBP"))
                    self._render(slot, each)
                case ["refuse"]:
                    self._refuses = True
                    self._render(slot, each)
                case ["deaf"]:
                    threading.Event().wait()
                case ["killed"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                case ["exits", code]:
                    os._exit(int(code))
                case ["lost"]:
                    self._answer(Failed(slot, each, "DeviceLost", "restart the runner"))
                case ["odd"]:
                    self._answer(Failed(slot, each, "Internal", lambda: None))  # type: ignore
                case ["prints"]:
                    print("by Python")
                    sys.stdout.flush()
                    os.write(1, b"by a library\n")
                    self._render(slot, each)
                case ["logs"]:
                    try:
                        raise ValueError(lambda: "what cannot be pickled")
                    except ValueError:
                        log.exception("job %s image %d is tried again", each.job, each.index)
                    log.info("then on")
                    logging.getLogger("diffusers").warning("as in one process, not told")
                    self._render(slot, each)
                case ["comes", name]:
                    self._hand[name], self._models[name] = [], ()
                    self._render(slot, each)
                case ["goes", name]:
                    del self._hand[name]
                    self._render(slot, each)
                case ["variable", name]:
                    self._answer(Failed(slot, each, "Internal", os.environ.get(name, "")))
                case _:
                    self._render(slot, each)

    def _render(self, slot: str, task: ImageTask) -> None:
        self._models[slot] = (task.model,)
        self._answer(Rendered(slot, task, Image.new("RGB", (8, 8)), 0.5, {"pid": os.getpid()}))

    def _answer(self, event: Rendered | Failed | StoppedEarly) -> None:
        self._hand[event.slot].remove(event.task)
        self.events.put(event)

    def stop(self, slot: str) -> None:
        for each in list(self._hand.get(slot, [])):
            self._answer(StoppedEarly(slot, each))

    def abandon(self, slot: str, why: str) -> bool:
        if self._can_abandon:
            self._hand[slot] = []
            self.events.put(SlotLost(slot, why, charged=False))
        return self._can_abandon

    def release(self) -> None:
        self._models = dict.fromkeys(self._models, ())

    def close(self) -> None:
        for slot in self._hand:
            self.stop(slot)


def broken() -> Inner:
    raise UsageProblem("sageattention is not installed")


def ending() -> Inner:
    os._exit(4)


def breaking(home: Home, place: Place) -> Executor:
    """A GPU thread that ends by a mistake at its next housekeeping."""
    import runner.engine.gpu_thread as module

    module._log_failure = sys.exit
    return thread_of(home, place)
