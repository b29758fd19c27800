"""An executor whose pictures are flat colours, for tests of what happens around the device.

It stands in for a GPU and for time: it answers when it is told to. It and the real GPU thread are
held to the same promises by `tests/engine/test_executor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue

from PIL import Image

from runner.executor import (
    Event,
    Executor,
    Failed,
    Progressed,
    Rendered,
    Slot,
    StoppedEarly,
)
from runner.job import Phase
from runner.settings import Home
from runner.task import ImageTask


class FlatColours:
    """One slot; every image is `steps` steps of nothing and then one colour made from the seed.

    A `side` is that of every picture, whatever its task says.
    """

    def __init__(self, *, by_hand: bool = False, side: int | None = None) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.side = side
        self.by_hand = by_hand
        self.task: ImageTask | None = None
        self.started: list[tuple[str, int]] = []
        self.seeds: list[int] = []
        self.failing: dict[tuple[str, int], tuple[str, str]] = {}
        self.on_start: Callable[[ImageTask], None] = lambda task: None
        self.released = 0
        self.models: set[str] = set()

    def __call__(self, home: Home) -> Executor:
        return self

    def slots(self) -> Sequence[Slot]:
        return (Slot("gpu0", self.task is not None, tuple(sorted(self.models))),)

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        pass

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        (task,) = tasks
        assert self.task is None, "the slot is busy"
        self.task = task
        self.models.add(task.model)
        self.started.append((task.job, task.index))
        self.seeds.append(task.seed)
        self.on_start(task)
        if not self.by_hand and self.task is not None:
            self.step()
            self.finish()

    def step(self, step: int = 1) -> None:
        """Report one step of the task in hand."""
        assert self.task is not None
        self.events.put(Progressed("gpu0", self.task, Phase.DENOISING, step, self.task.steps))

    def finish(self) -> None:
        """Answer the task in hand with its picture, or with its failure."""
        task = self._answered()
        failure = self.failing.get((task.job, task.index))
        if failure:
            self.events.put(Failed("gpu0", task, *failure))
        else:
            colour = (task.seed % 256, task.index % 256, 128)
            image = Image.new(
                "RGB", (self.side or task.width or 64, self.side or task.height or 64), colour
            )
            self.events.put(Rendered("gpu0", task, image, 0.01, {"device": "none"}))

    def stop(self, slot: str) -> None:
        if self.task is not None:
            self.events.put(StoppedEarly("gpu0", self._answered()))

    def abandon(self, slot: str, why: str) -> bool:
        return False

    def release(self) -> None:
        self.released += 1
        self.models.clear()

    def close(self) -> None:
        self.stop("gpu0")

    def _answered(self) -> ImageTask:
        task, self.task = self.task, None
        assert task is not None, "nothing is in hand"
        return task
