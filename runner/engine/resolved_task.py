"""Resolves a task to what it runs on, before anything is loaded: folders, memory plan, encoders.

Loads no weights: a model that is missing, or that this machine cannot hold, is an error here and
costs no time on the device.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.engine.families import FAMILIES
from runner.engine.families.base import Family
from runner.engine.hub import library as hub
from runner.engine.hub.sources import HEAVY
from runner.engine.kinds.base import Kind
from runner.engine.memory import planner as memory
from runner.engine.memory.plans import Machine, MemoryPlan, PlanSpace
from runner.engine.models import Model, Serving
from runner.engine.registry import KINDS
from runner.engine.weights import checkpoints
from runner.engine.weights.fingerprint import KIND, Hashes, are_unchanged, combined, weights
from runner.errors import InputBad, JobFailed, ModelMissing
from runner.files import stamp
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
    stamps: Mapping[Path, tuple[int, ...]]
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
    before = {file: stamp(file) for files in parts for file in files}
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
    numbers. `space` has the plan and those below it.
    """

    model: Model
    serving: Serving
    kind: Kind
    family: Family
    plan: MemoryPlan
    encoders: str
    space: PlanSpace

    @property
    def length(self) -> int:
        """How many tokens of a prompt are encoded; with a prior, its limit counts."""
        prior = self.serving.prior
        return prior.max_sequence_length if prior else self.model.max_sequence_length


def as_published(library: hub.Disk, model: Model, kind: str, device: str) -> Model:
    """A model with the precision of the weights that are here, where that is what it computes in.

    Raises ModelMissing, and InputBad where the device does not know it.
    """
    folder, single = library.main(model, kind), library.single(model)
    scheme = checkpoints.scheme(single) if single else ""
    is_fixed = scheme == "nvfp4" or (single is None and checkpoints.is_stored(folder / HEAVY))
    if scheme == "nvfp4" and device == "mps":
        raise InputBad(f"{model.name} has scales in fp8, which Apple's GPU does not know")
    # Where nothing multiplies in fp8, bf16 made of a file's weights and scales is quicker.
    if not is_fixed and (scheme, device) != ("fp8r", "cuda"):
        return model
    if single:  # its size is not known to an entry
        model = replace(model, bytes=2 * model.weights.others + checkpoints.size(single))
    precisions = ("auto",) if is_fixed else model.precisions
    return replace(model, native="stored", precisions=precisions)


def explain_plan(library: hub.Disk, model: Model, machine: Machine) -> list[str]:
    """The plan for a model's default size and its reasons, or why there is none, to print."""
    width, height = model.sizes.default
    try:
        if not model.builtin:
            with suppress(ModelMissing):  # planned as its entry says
                model = as_published(library, model, next(iter(model.serves)), machine.device)
        chosen = memory.plan(PlanSpace(model, machine, width * height), library.models)
    except JobFailed as error:
        return [str(error)]
    peak = f"{memory.size_text(chosen.bytes)} of {memory.size_text(machine.room)}"
    return [f"{model.name} runs {chosen.summary}: about {peak}", *chosen.reasons]


class TaskResolver:
    """Resolves tasks and keeps the results; used by one thread.

    `device` is the device as a sidecar describes it.
    """

    def __init__(self, library: hub.Disk, machine: Machine, *, device: str) -> None:
        self._library = library
        self.machine = machine
        self._device = device
        self._known: dict[Any, ResolvedTask] = {}
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
        references = len(task.inputs.get("image", ()))
        space = PlanSpace(model, self.machine, pixels, task.precision, task.kind, references)
        known = self._known.get(space.key)
        if known is None or (not model.builtin and not are_unchanged(known.stamps)):
            if len(self._known) >= 512:
                self._known.clear()
            known = self._known[space.key] = self._resolve_task(space)
        return replace(known, serving=model.serves[task.kind].starting_from(task.inputs))

    def lower(self, resolved: ResolvedTask) -> ResolvedTask | None:
        """The same with the next lower plan, kept for later tasks too; None after the last plan."""
        plan = memory.after_out_of_memory(resolved.plan, resolved.space)
        if plan is None:
            return None
        encoders = self._encoders(resolved.family, resolved.marks, plan)
        lowered = replace(resolved, plan=plan, encoders=encoders)
        self._known[resolved.space.key] = lowered
        return lowered

    def _resolve_task(self, space: PlanSpace) -> ResolvedTask:
        kind = space.kind
        model = as_published(self._library, space.model, kind, self.machine.device)
        family, space = FAMILIES[model.family], replace(space, model=model)
        plan = self._plan(space)
        # Last: of a model that cannot be held no weights are read.
        here = found(self._library, self.hashes, model, kind)
        return ResolvedTask(
            **vars(here),
            model=model,
            serving=model.serves[kind],
            kind=KINDS[kind],
            family=family,
            plan=plan,
            encoders=self._encoders(family, here.marks, plan),
            space=space,
        )

    def _plan(self, space: PlanSpace) -> MemoryPlan:
        return memory.plan(space, self._library.models)

    def _encoders(self, family: Family, marks: Mapping[str, str], plan: MemoryPlan) -> str:
        """The name of the text stage: family, weights, precision and device."""
        parts = [f"{part}={marks[part]}" for part in sorted(family.text_parts) if part in marks]
        device = "cpu" if plan.text == "cpu" else self._device
        return " ".join([family.name, *parts, plan.text_precision, device])
