"""The executor seam: all that the worker knows of whatever renders images.

An executor takes tasks and puts events into a queue; the worker never calls a pipeline, and an
executor never touches the spool. Tasks and events are plain values that can be pickled, so that an
executor may live in this process (the one GPU thread), in others, or on many GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from runner.job import ImageTask, Phase

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Slot:
    """One place that can render: its name, what it does now, and the models it has loaded.

    `batch_size` is how many images it can make in one call: images alike, and like its last.
    """

    name: str
    busy: bool
    models: tuple[str, ...] = ()
    batch_size: int = 1


@dataclass(frozen=True)
class Progressed:
    """The task reached a phase, or a step of it (steps count from 1; 0 where none apply)."""

    slot: str
    task: ImageTask
    phase: Phase
    step: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Rendered:
    """The picture is there; `facts` are the parts of the sidecar's `result` the engine knows."""

    slot: str
    task: ImageTask
    image: Image
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The image cannot be made: the reason word and one sentence that says what to do."""

    slot: str
    task: ImageTask
    reason: str
    message: str


@dataclass(frozen=True)
class StoppedEarly:
    """The stop sign was seen before the picture was decoded; nothing of it is left."""

    slot: str
    task: ImageTask


@dataclass(frozen=True)
class Woken:
    """Put into the queue by whoever changed what the worker should look at; means nothing else."""


@dataclass(frozen=True)
class CancelAsked:
    """Put into the queue when a running job is to be cancelled."""

    seq: int


Event = Progressed | Rendered | Failed | StoppedEarly | Woken | CancelAsked


class Executor(Protocol):
    """What the worker needs of a renderer, and no more.

    Every task given to `start` is answered by exactly one Rendered, Failed or StoppedEarly; the
    slot is free from the moment of the last answer. `prepare` tells what comes next, and may be
    used to get ready. `stop` asks the slot to give up what it has in
    flight at the next cancellation point; asking an idle slot does nothing.
    """

    events: SimpleQueue[Event]

    def slots(self) -> Sequence[Slot]: ...

    def prepare(self, upcoming: Sequence[ImageTask]) -> None: ...

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None: ...

    def stop(self, slot: str) -> None: ...

    def release(self) -> None:
        """Take every model off the device (paused, outside windows, idle)."""

    def close(self) -> None:
        """Stop, answer what is in flight, and end every thread."""
