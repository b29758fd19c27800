"""Resolves a task to what it runs on, before anything is loaded: folders, memory plan, encoders.

Loads no weights: a model that is missing, or that this machine cannot hold, is an error here and
costs no time on the device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.engine.families import FAMILIES
from runner.engine.families.base import Family
from runner.engine.hub import library as hub
from runner.engine.hub.sources import HEAVY
from runner.engine.kinds.base import Kind
from runner.engine.memory import planner as memory
from runner.engine.memory.plans import Machine, MemoryPlan
from runner.engine.models import Model, Serving
from runner.engine.registry import KINDS
from runner.engine.weights import checkpoints
from runner.engine.weights.fingerprint import KIND, Hashes, are_unchanged, combined, stamps, weights
from runner.errors import JobFailed
from runner.task import ImageTask

PRIOR = "prior "
CONTROLNET = "controlnet"


@dataclass(frozen=True)
class Found:
    """The files of a model for a kind, and the hashes of its components.

    `single` is the file of the transformer's weights, where they are in one file; `controlnet` are
    the folder of a ControlNet's configuration and the file of its weights. `marks` are the hashes
    of the components by name, the prior's behind `PRIOR`; pipelines may share those of equal hash.
    """

    folder: Path
    prior_folder: Path | None
    single: Path | None
    controlnet: tuple[Path, Path] | None
    marks: Mapping[str, str]
    stamps: Mapping[str, list[int]]
    """Of the weights' files: others mean that the model was replaced under its own name."""

    @property
    def hash(self) -> str:
        """The hash of all that is loaded, as a sidecar records it."""
        return f"{KIND}{combined(self.marks)}"


def found(library: hub.Disk, hashes: Hashes, model: Model, kind: str) -> Found:
    """Find and hash what is loaded of a model. Raises ModelMissing."""
    serving = model.serves[kind]
    folder, single = library.main(model, kind), library.single(model)
    prior_folder = library.prior(model, kind) if serving.prior else None
    controlnet = library.controlnet(model, kind) if serving.controlnet else None
    left_out = HEAVY if single else ""
    alone = [file for file in (single, controlnet and controlnet[1]) if file]
    parts = [*weights(folder, left_out).values(), alone]
    parts += weights(prior_folder).values() if prior_folder else []
    # Before anything is read: what changes meanwhile is read again for the next image.
    before = stamps(file for files in parts for file in files)
    marks = hashes.parts(folder, left_out)
    if single:
        marks[HEAVY] = hashes.file(single)
    if controlnet:
        marks[CONTROLNET] = hashes.file(controlnet[1])
    if prior_folder:
        of_prior = hashes.parts(prior_folder)
        marks |= {f"{PRIOR}{part}": mark for part, mark in of_prior.items()}
    return Found(folder, prior_folder, single, controlnet, marks, before)


@dataclass(frozen=True)
class ResolvedTask(Found):
    """A model that serves a kind on this machine, with the memory plan for one size.

    `encoders` names the text stage: it is equal for two tasks whose prompts are encoded to the same
    numbers. `wanted` is the precision of the task, "auto" where none is named.
    """

    model: Model
    serving: Serving
    kind: Kind
    family: Family
    plan: MemoryPlan
    encoders: str
    wanted: str

    @property
    def length(self) -> int:
        """How many tokens of a prompt are encoded; with a prior, its limit counts."""
        prior = self.serving.prior
        return prior.max_sequence_length if prior else self.model.max_sequence_length


class TaskResolver:
    """Resolves tasks and keeps the results; used by one thread.

    `device` is the device as a sidecar describes it.
    """

    def __init__(self, library: hub.Disk, machine: Machine, *, device: str) -> None:
        self._library = library
        self.machine = machine
        self._device = device
        self._known: dict[tuple[str, str, str, int], ResolvedTask] = {}
        self.hashes = Hashes(library.data / "cache" / "hashes.json")

    def resolve(self, task: ImageTask, pixels: int | None = None) -> ResolvedTask:
        """What a task runs on; `pixels` is the area of its picture, where it is known already.

        Raises JobFailed where the model is missing, does not serve the kind or cannot be held.
        """
        model = self._library.models.get(task.model)
        if model is None or task.kind not in model.serves:
            raise JobFailed(f"{task.model} cannot do {task.kind} any more: see `fluxdrop models`")
        if pixels is None:
            width, height = model.sizes.default
            pixels = (task.width or width) * (task.height or height)
        key = (model.name, task.kind, task.precision, pixels)
        known = self._known.get(key)
        if known is None or (not model.builtin and not are_unchanged(known.stamps)):
            if len(self._known) >= 512:
                self._known.clear()
            known = self._known[key] = self._resolve_task(model, task.kind, task.precision, pixels)
        return replace(known, serving=model.serves[task.kind].starting_from(task.inputs))

    def lower(self, resolved: ResolvedTask, pixels: int) -> ResolvedTask | None:
        """The same with the next lower plan, kept for later tasks too; None after the last plan."""
        is_stored = resolved.plan.precision == "stored"
        plan = memory.after_out_of_memory(
            resolved.plan,
            resolved.model,
            self.machine,
            pixels,
            wanted="stored" if is_stored else resolved.wanted,
            kind=resolved.kind.name,
        )
        if plan is None:
            return None
        encoders = self._encoders(resolved.family, resolved.marks, plan)
        lowered = replace(resolved, plan=plan, encoders=encoders)
        self._known[resolved.model.name, resolved.kind.name, resolved.wanted, pixels] = lowered
        return lowered

    def _resolve_task(self, model: Model, kind: str, wanted: str, pixels: int) -> ResolvedTask:
        serving, family = model.serves[kind], FAMILIES[model.family]
        folder, single = self._library.main(model, kind), self._library.single(model)
        precision = wanted
        if wanted == "auto" and self._is_stored(folder, single):
            precision = "stored"
            if single:  # its size is not known to an entry
                model = replace(model, bytes=2 * model.weights.others + checkpoints.size(single))
        plan = self._plan(model, pixels, precision, kind)
        # Last: of a model that cannot be held no weights are read.
        here = found(self._library, self.hashes, model, kind)
        return ResolvedTask(
            **vars(here),
            model=model,
            serving=serving,
            kind=KINDS[kind],
            family=family,
            plan=plan,
            encoders=self._encoders(family, here.marks, plan),
            wanted=wanted,
        )

    def _is_stored(self, folder: Path, single: Path | None) -> bool:
        """Whether the transformer was published quantised, and this device computes with it so."""
        if single is None:
            return checkpoints.is_stored(folder / HEAVY)
        # Where nothing multiplies in fp8, bf16 made of a file's weights and scales is quicker.
        scheme = checkpoints.scheme(single)
        return scheme == "nvfp4" or (scheme == "fp8r" and self.machine.device == "cuda")

    def _plan(self, model: Model, pixels: int, precision: str, kind: str) -> MemoryPlan:
        models = self._library.models
        return memory.plan(model, self.machine, pixels, precision, kind, models=models)

    def _encoders(self, family: Family, marks: Mapping[str, str], plan: MemoryPlan) -> str:
        """The name of the text stage: family, weights, precision and device."""
        parts = [f"{part}={marks[part]}" for part in sorted(family.text_parts) if part in marks]
        device = "cpu" if plan.text == "cpu" else self._device
        return " ".join([family.name, *parts, plan.text_precision, device])
