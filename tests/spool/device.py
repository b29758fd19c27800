"""An executor whose pictures are flat colours, for tests of what happens around the device.

It stands in for GPUs and for time: it answers when it is told to. It and the real GPU thread are
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
    SlotLost,
    SlotState,
    StoppedEarly,
    Woken,
)
from runner.job import Phase
from runner.settings import Home
from runner.task import ImageTask

FIRST = "gpu0"


class FlatColours:
    """Slots whose every image is `steps` steps of nothing and then one colour made from the seed.

    A `side` is that of every picture, whatever its task says. One slot, unless more are asked for;
    what is told `by_hand` and names none is told of the first.
    """

    def __init__(self, *, by_hand: bool = False, side: int | None = None, slots: int = 1) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.side = side
        self.by_hand = by_hand
        self.states = {f"gpu{number}": SlotState.READY for number in range(slots)}
        self.in_hand: dict[str, ImageTask] = {}
        self.started: list[tuple[str, int]] = []
        self.seeds: list[int] = []
        self.failing: dict[tuple[str, int], tuple[str, str]] = {}
        self.on_start: Callable[[ImageTask], None] = lambda task: None
        self.released = 0
        self.loaded: dict[str, set[str]] = {name: set() for name in self.states}

    def __call__(self, home: Home) -> Executor:
        return self

    @property
    def task(self) -> ImageTask | None:
        """What the first slot has in hand."""
        return self.in_hand.get(FIRST)

    @task.setter
    def task(self, task: ImageTask) -> None:
        self.in_hand[FIRST] = task

    @property
    def models(self) -> set[str]:
        """What the first slot has loaded."""
        return self.loaded[FIRST]

    def slots(self) -> Sequence[Slot]:
        return [
            Slot(name, name in self.in_hand, tuple(sorted(self.loaded[name])), state=state)
            for name, state in self.states.items()
        ]

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        pass

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        (task,) = tasks
        if self.states.get(slot) != SlotState.READY or slot in self.in_hand:
            raise ValueError(f"the slot {slot} is not free")
        self.in_hand[slot] = task
        self.loaded[slot].add(task.model)
        self.started.append((task.job, task.index))
        self.seeds.append(task.seed)
        self.on_start(task)
        if not self.by_hand and slot in self.in_hand:
            self.step(slot=slot)
            self.finish(slot)

    def step(self, step: int = 1, slot: str = FIRST) -> None:
        """Report one step of the task in hand."""
        task = self.in_hand[slot]
        self.events.put(Progressed(slot, task, Phase.DENOISING, step, task.steps))

    def finish(self, slot: str = FIRST) -> None:
        """Answer the task in hand with its picture, or with its failure."""
        task = self._answered(slot)
        failure = self.failing.get((task.job, task.index))
        if failure:
            self.events.put(Failed(slot, task, *failure))
        else:
            colour = (task.seed % 256, task.index % 256, 128)
            image = Image.new(
                "RGB", (self.side or task.width or 64, self.side or task.height or 64), colour
            )
            self.events.put(Rendered(slot, task, image, 0.01, {"device": "none"}))

    def stop(self, slot: str) -> None:
        if slot in self.in_hand:
            task = self._answered(slot)
            self.events.put(StoppedEarly(slot, task))

    def lose(self, slot: str, why: str, *, charged: bool = True) -> None:
        """End a slot with what it has in hand; one comes in its place by `come_back`."""
        self.states[slot] = SlotState.STARTING
        self.loaded[slot].clear()
        task = self.in_hand.pop(slot, None)
        self.events.put(Woken() if task is None else SlotLost(slot, why, charged))

    def come_back(self, slot: str) -> None:
        """Make a lost slot again."""
        self.states[slot] = SlotState.READY
        self.events.put(Woken())

    def abandon(self, slot: str, why: str) -> bool:
        if len(self.states) == 1:
            # Like the GPU thread, which ends only with its process.
            return False
        self.lose(slot, why)
        self.come_back(slot)
        return True

    def release(self) -> None:
        self.released += 1
        for models in self.loaded.values():
            models.clear()

    def close(self) -> None:
        for slot in self.states:
            self.stop(slot)

    def _answered(self, slot: str = FIRST) -> ImageTask:
        assert slot in self.in_hand, "nothing is in hand"
        return self.in_hand.pop(slot)
