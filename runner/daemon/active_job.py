"""A job while it has a slot: what it has made, what it has in hand, and how far that is."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.executor import Progressed
from runner.job import ImageTask, InputImage, Phase
from runner.spool.inbox.inputs import IMAGE_FIELDS
from runner.spool.store.record import Record
from runner.wire import Progress
from specs.expand import image

# A step may end just before the limit and the next one report just after it.
_HUNG_AFTER_TIMEOUTS = 2.0
_HUNG_AFTER_SECONDS = 30.0


@dataclass(frozen=True)
class InFlight:
    """One image that is being made: its task, its spec, and what it remembers of its pack."""

    task: ImageTask
    realised: Mapping[str, Any]
    origin: Mapping[str, Any]


@dataclass
class ActiveJob:
    """Mutable, owned by the worker; `over` holds the numbers of images that are answered."""

    record: Record
    over: set[int]
    numbers: deque[int]
    hand: dict[int, InFlight] = field(default_factory=dict)
    rendered: int = 0
    seconds: float = 0.0
    cancelled: bool = False
    composed: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()
    heard_at: float = 0.0
    phase: Phase = Phase.LOADING

    def realised(self, number: int) -> Mapping[str, Any]:
        """The spec of one image."""
        record, index = self.record, number - 1
        prompts = [fields for fields, _ in self.composed] or None
        return image(record.realised, index, record.base_seed or 0, prompts)

    def origin(self, number: int) -> Mapping[str, Any]:
        """What one image remembers of the pack it came from."""
        if not self.composed:
            return {}
        return self.composed[(number - 1) * len(self.composed) // self.record.total][1]

    def progress(self, event: Progressed) -> Progress:
        """The job's progress when its image reports this."""
        part = event.step / event.steps if event.steps else 0.0
        part = 1.0 if event.phase in (Phase.DECODING, Phase.SAVING) else part
        total = self.record.total
        ahead = total - len(self.over) - part
        each = self.seconds / self.rendered if self.rendered else None
        return Progress(
            phase=str(event.phase),
            image=event.task.index,
            step=event.step,
            steps=event.steps,
            fraction=round((total - ahead) / total, 4),
            eta_seconds=None if each is None else round(each * ahead, 1),
        )

    def inputs(
        self, realised: Mapping[str, Any], folder: Path
    ) -> dict[str, tuple[InputImage, ...]]:
        """The job's copies of the images that a realised spec names, by field."""
        found = {}
        for name in IMAGE_FIELDS:
            value = realised.get(name)
            if value is not None:
                items = value if isinstance(value, list) else [value]
                found[name] = tuple(self._input(item, folder) for item in items)
        return found

    def _input(self, item: Any, folder: Path) -> InputImage:
        if isinstance(item, str):
            return InputImage(folder / self.record.inputs[item])
        return InputImage(folder / self.record.inputs[item["path"]], float(item.get("weight", 1.0)))

    def is_hung(self, moment: float) -> bool:
        """Whether what is in hand is silent far beyond its timeout; loading does not count."""
        limits = [each.task.timeout for each in self.hand.values() if each.task.timeout]
        if not limits or self.phase == Phase.LOADING:
            return False
        patience = max(_HUNG_AFTER_TIMEOUTS * max(limits), _HUNG_AFTER_SECONDS)
        return moment - self.heard_at > patience
