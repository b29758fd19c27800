"""The interface between the worker and an executor, which renders images.

An executor takes tasks and puts events into a queue; the worker never calls a pipeline, and an
executor never touches the spool. Tasks and events are plain values that can be pickled: an executor
runs in this process (the one GPU thread), in one for each card, or on many machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from runner.job import Phase
from runner.task import ImageTask

if TYPE_CHECKING:
    from PIL.Image import Image


class SlotState(StrEnum):
    """Whether a slot takes tasks: it does where it is `ready`; `suspect` is one not heard of."""

    READY = "ready"
    STARTING = "starting"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINED = "drained"


OWN_SLOT = "gpu0"
"""The slot that is a thread of the runner. All others have processes of their own."""


@dataclass(frozen=True)
class Slot:
    """One place that renders: its name, whether it has tasks in flight, and its loaded models.

    `batch_size` is how many images like the last one it can make in one call. `host` is the name of
    its machine, `device` that of a setting ("cuda:1"), and `memory` the bytes of the device that it
    has reserved, where that is known. `note` says in a sentence why it takes no tasks. While it is
    `empty`, nothing was begun since all was taken off its device.
    """

    name: str
    busy: bool
    models: tuple[str, ...] = ()
    batch_size: int = 1
    host: str = ""
    device: str = ""
    memory: int | None = None
    state: SlotState = SlotState.READY
    note: str = ""
    empty: bool = True

    @property
    def has_nothing(self) -> bool:
        """Whether nothing is on its device, nor comes there: it may have no process now."""
        return self.state in (SlotState.STARTING, SlotState.LOST) or (self.empty and not self.busy)

    @property
    def is_free(self) -> bool:
        """Whether it takes a task now."""
        return not self.busy and self.state == SlotState.READY


def absence(slots: Sequence[Slot]) -> str | None:
    """Why no image can be made, where no slot is there."""
    if any(slot.state == SlotState.READY for slot in slots):
        return None
    notes = [f" ({slot.name}: {slot.note})" for slot in slots if slot.note]
    return f"no slot is ready{''.join(notes[:1])}"


@dataclass(frozen=True)
class Progressed:
    """A task reached a phase, or did a step of it; both are 0 in phases without steps.

    While weights load, a step is a tensor, a shard or a file that is read; while upscaling, a tile.
    `preview` is a small picture as WebP, at most once a second, or empty.
    """

    slot: str
    task: ImageTask
    phase: Phase
    step: int = 0
    steps: int = 0
    preview: bytes = b""


@dataclass(frozen=True)
class Rendered:
    """An image was made, in `seconds`; `facts` are the engine facts for the sidecar's `result`.

    `original` is the image before it was enlarged, where it is to be kept.
    """

    slot: str
    task: ImageTask
    image: Image
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    original: Image | None = None


@dataclass(frozen=True)
class Failed:
    """An image cannot be made: the reason word, and one sentence that says what to do."""

    slot: str
    task: ImageTask
    reason: str
    message: str


@dataclass(frozen=True)
class StoppedEarly:
    """A task was stopped at a cancellation point; nothing of its image is kept."""

    slot: str
    task: ImageTask


@dataclass(frozen=True)
class SlotLost:
    """A slot with tasks in flight ended, and all of them with it; a new one comes in its place.

    `why` is part of a sentence ("killed by SIGKILL"). The images are `charged` where the slot's
    process ended or hung, and not where its machine or the network was lost.
    """

    slot: str
    why: str
    charged: bool = True


@dataclass(frozen=True)
class Woken:
    """Wakes the worker, which then checks for new work; carries nothing."""


@dataclass(frozen=True)
class CancelAsked:
    """Tells the worker to cancel the running job with the number `seq`."""

    seq: int


Event = Progressed | Rendered | Failed | StoppedEarly | SlotLost | Woken | CancelAsked


class Executor(Protocol):
    """Renders tasks and reports in `events`.

    Every task given to `start` is answered by exactly one Rendered, Failed or StoppedEarly, or with
    all others of its slot by one SlotLost, after which nothing is heard of them. `Woken` tells that
    a slot has come, gone or become free without an answer.
    """

    events: SimpleQueue[Event]

    def slots(self) -> Sequence[Slot]:
        """The state of every slot, now."""

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        """Announce the tasks that come next, so that the executor may encode or import early."""

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        """Render tasks on a free slot; it is free again before the last of them is answered.

        Raises ValueError where the slot is unknown, busy or closed.
        """

    def stop(self, slot: str) -> None:
        """Stop the tasks in flight at their next cancellation point; an idle slot ignores it."""

    def abandon(self, slot: str, why: str) -> bool:
        """End a slot that hangs, which is told by a SlotLost; False where that cannot be done."""

    def release(self) -> None:
        """Take all off the devices once the tasks in flight are answered; `empty` says when."""

    def close(self) -> None:
        """Stop, answer what is in flight, and end every thread."""
