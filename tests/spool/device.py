"""An executor whose pictures are flat colours, for tests of what happens around the device.

It stands in for a GPU and for time: it answers when it is told to. It and the real GPU thread are
held to the same promises by `tests/engine/test_executor.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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


class FlatColours:
    """One slot; every image is `steps` steps of nothing and then one colour made from the seed.

    A `side` is that of every picture, whatever its task says.
    """

    def __init__(
        self,
        *,
        by_hand: bool = False,
        side: int | None = None,
        slot: str = "gpu0",
        events: SimpleQueue[Event] | None = None,
    ) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue() if events is None else events
        self.slot = slot
        self.side = side
        self.by_hand = by_hand
        self.task: ImageTask | None = None
        self.started: list[tuple[str, int]] = []
        self.seeds: list[int] = []
        self.failing: dict[tuple[str, int], tuple[str, str]] = {}
        self.on_start: Callable[[ImageTask], None] = lambda task: None
        self.released = 0
        self.models: set[str] = set()
        self.facts: dict[str, object] = {"device": "none"}

    def __call__(self, home: Home) -> Executor:
        return self

    def slots(self) -> Sequence[Slot]:
        models = tuple(sorted(self.models))
        return (Slot(self.slot, self.task is not None, models, empty=not models),)

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        pass

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        (task,) = tasks
        if slot != self.slot or self.task is not None:
            raise ValueError(f"the slot {slot} is busy or not there")
        self.task = task
        self.models.add(task.model)
        self.started.append((task.job, task.index))
        self.seeds.append(task.seed)
        self.on_start(task)
        if not self.by_hand and self.task is not None:
            self.step()
            self.finish()

    def step(self, step: int = 1) -> None:
        """Report one step of the task in hand, with a preview of a few bytes where one is asked."""
        assert self.task is not None
        seen = f"{self.task.index}: {step}".encode() if self.task.preview else b""
        phase, steps = Phase.DENOISING, self.task.steps
        self.events.put(Progressed(self.slot, self.task, phase, step, steps, seen))

    def finish(self) -> None:
        """Answer the task in hand with its picture, or with its failure."""
        task = self._answered()
        failure = self.failing.get((task.job, task.index))
        if failure:
            self.events.put(Failed(self.slot, task, *failure))
        else:
            colour = (task.seed % 256, task.index % 256, 128)
            size = (self.side or task.width or 64, self.side or task.height or 64)
            image = Image.new("RGB", size, colour)
            original = image if task.keep_original else None
            if task.upscale > 1:
                image = image.resize((size[0] * task.upscale, size[1] * task.upscale))
            self.events.put(Rendered(self.slot, task, image, 0.01, self.facts, original=original))

    def stop(self, slot: str) -> None:
        if self.task is not None:
            self.events.put(StoppedEarly(self.slot, self._answered()))

    def abandon(self, slot: str, why: str) -> bool:
        return False

    def release(self) -> None:
        self.released += 1
        self.models.clear()

    def close(self) -> None:
        self.stop(self.slot)

    def _answered(self) -> ImageTask:
        task, self.task = self.task, None
        assert task is not None, "nothing is in hand"
        return task


class SeveralSlots:
    """Slots of flat colours, each of which may be lost, and answers when it is told to."""

    def __init__(self, *names: str, side: int | None = None) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.each = {
            name: FlatColours(by_hand=True, side=side, slot=name, events=self.events)
            for name in names
        }
        self.states: dict[str, SlotState] = {}
        self.announced: list[ImageTask] = []

    def __getitem__(self, name: str) -> FlatColours:
        return self.each[name]

    def __call__(self, home: Home) -> Executor:
        return self

    @property
    def at_work(self) -> dict[str, tuple[str, int]]:
        """The job and the number of the image that each slot has, by its name."""
        tasks = {name: slot.task for name, slot in self.each.items()}
        return {name: (task.job, task.index) for name, task in tasks.items() if task is not None}

    def by_themselves(self) -> None:
        """Let every slot answer at once from now on."""
        for slot in self.each.values():
            slot.by_hand = False
            if slot.task is not None:
                slot.finish()

    def lose(self, name: str, why: str = "killed by SIGKILL", *, charged: bool = True) -> None:
        """End a slot; an empty one comes in its place at once.

        Where nothing was in flight, nobody is told but that something has changed.
        """
        slot = self.each[name]
        task, slot.task = slot.task, None
        slot.models.clear()
        self.events.put(Woken() if task is None else SlotLost(name, why, charged))

    def be(self, name: str, state: SlotState) -> None:
        """Have a slot take tasks, or none."""
        self.states[name] = state
        self.events.put(Woken())

    def slots(self) -> Sequence[Slot]:
        slots = (slot for each in self.each.values() for slot in each.slots())
        return [replace(slot, state=self.states.get(slot.name, SlotState.READY)) for slot in slots]

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        self.announced += upcoming

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        if slot not in self.each or self.states.get(slot, SlotState.READY) != SlotState.READY:
            raise ValueError(f"the slot {slot} is {self.states.get(slot, 'not there')}")
        self.each[slot].start(slot, tasks)

    def stop(self, slot: str) -> None:
        self.each[slot].stop(slot)

    def abandon(self, slot: str, why: str) -> bool:
        self.lose(slot, why)
        return True

    def release(self) -> None:
        for each in self.each.values():
            each.release()

    def close(self) -> None:
        for each in self.each.values():
            each.close()
