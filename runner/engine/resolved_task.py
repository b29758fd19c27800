"""What a task runs on, settled before anything is loaded: folders, memory plan, encoders.

Nothing here loads weights; what is missing or impossible is told here, so that it costs no time on
the device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.engine import hub, memory
from runner.engine.families import FAMILIES, Family
from runner.engine.hub.sources import INDEX
from runner.engine.kinds.base import Kind
from runner.engine.memory.plans import Machine, MemoryPlan
from runner.engine.models import Model, Serving
from runner.engine.registry import KINDS
from runner.engine.weights import fingerprint, quantise
from runner.errors import JobFailed
from runner.job import ImageTask

Key = tuple[str, str, str, int]
Planner = Callable[[Model, Machine, int, str, str], MemoryPlan]

_MOST_KEPT = 512


@dataclass(frozen=True)
class ResolvedTask:
    """A model serving a kind on this machine.

    `single` is the one file that the transformer comes from, where there is such a file. `marks`
    are the hashes of the components that may be shared, and `encoders` names the text stage: both
    are equal where the weights are.
    """

    model: Model
    serving: Serving
    kind: Kind
    family: Family
    folder: Path
    prior_folder: Path | None
    single: Path | None
    marks: Mapping[str, str]
    plan: MemoryPlan
    encoders: str
    wanted: str

    @property
    def length(self) -> int:
        """How many tokens of a prompt are read; a prior's main stage reads as many as it."""
        prior = self.serving.prior
        return prior.max_sequence_length if prior else self.model.max_sequence_length


class TaskResolver:
    """Works out the needs of tasks and remembers them; used by one thread.

    `device` is the device as a sidecar describes it. `precision` is what the settings say for
    specs that leave it open.
    """

    def __init__(
        self,
        library: hub.Library,
        machine: Machine,
        *,
        device: str,
        precision: str = "auto",
        planner: Planner | None = None,
    ) -> None:
        self._library = library
        self.machine = machine
        self._device = device
        self._precision = precision
        self._plan = planner or self._planned
        self._known: dict[Key, ResolvedTask] = {}
        self._marks: dict[Path, Mapping[str, str]] = {}

    def resolve(self, task: ImageTask, pixels: int) -> ResolvedTask:
        """What this task runs on. Raises JobFailed where there is no such thing."""
        model = self._library.models.get(task.model)
        if model is None or task.kind not in model.serves:
            raise JobFailed(f"{task.model} cannot do {task.kind} any more: see `fluxdrop models`")
        wanted = self._wanted(task, model)
        key = (model.name, task.kind, wanted, pixels)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            known = self._known[key] = self._resolve_task(model, task.kind, wanted, pixels)
        return known

    def lower(self, resolved: ResolvedTask, pixels: int) -> ResolvedTask | None:
        """The next plan down after the device ran out of memory, kept for later tasks like it."""
        plan = memory.after_out_of_memory(
            resolved.plan,
            resolved.model,
            self.machine,
            pixels,
            wanted=resolved.wanted,
            kind=resolved.kind.name,
        )
        if plan is None:
            return None
        lowered = replace(resolved, plan=plan, encoders=self._encoders(resolved, plan))
        self._known[resolved.model.name, resolved.kind.name, resolved.wanted, pixels] = lowered
        return lowered

    def _wanted(self, task: ImageTask, model: Model) -> str:
        if task.precision == "auto" and self._precision in model.precisions:
            return self._precision
        return task.precision

    def _resolve_task(self, model: Model, kind: str, wanted: str, pixels: int) -> ResolvedTask:
        serving, family = model.serves[kind], FAMILIES[model.family]
        folder = self._library.main(model, kind)
        single = self._library.single(model)
        if wanted == "auto" and single is None and quantise.is_stored(folder / family.heavy):
            wanted = "stored"
        plan = self._plan(model, self.machine, pixels, wanted, kind)
        resolved = ResolvedTask(
            model=model,
            serving=serving,
            kind=KINDS[kind],
            family=family,
            folder=folder,
            prior_folder=self._library.prior(model, kind) if serving.prior else None,
            single=single,
            marks=self._marks_of(folder, family, single),
            plan=plan,
            encoders="",
            wanted=wanted,
        )
        return replace(resolved, encoders=self._encoders(resolved, plan))

    def _marks_of(self, folder: Path, family: Family, single: Path | None) -> Mapping[str, str]:
        if folder not in self._marks:
            self._marks[folder] = component_marks(folder)
        marks = self._marks[folder]
        return marks if single is None else {**marks, family.heavy: fingerprint.of_file(single)}

    def _planned(
        self, model: Model, machine: Machine, pixels: int, wanted: str, kind: str
    ) -> MemoryPlan:
        return memory.plan(
            model, machine, pixels, wanted=wanted, kind=kind, models=self._library.models
        )

    def _encoders(self, resolved: ResolvedTask, plan: MemoryPlan) -> str:
        """The text stage as a text that is equal where its numbers are equal."""
        parts, marks = resolved.family.text_parts, resolved.marks
        listed = [f"{part}={marks[part]}" for part in sorted(parts) if part in marks]
        where = "cpu" if plan.text == "cpu" else self._device
        return " ".join([resolved.family.name, *listed, plan.text_precision, where])


def component_marks(folder: Path) -> dict[str, str]:
    """The hash of each component of a pipeline folder, the scheduler left out."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return {
        part: fingerprint.of_folder(folder / part)
        for part in index
        if part != "scheduler" and (folder / part).is_dir()
    }
