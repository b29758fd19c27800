"""Resolves a task to what it runs on, before anything is loaded: folders, memory plan, encoders.

Loads no weights: a model that is missing, or that this machine cannot hold, is an error here and
costs no time on the device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

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
from runner.errors import InputBad, JobFailed, ModelMissing
from runner.task import ImageTask

PRIOR = "prior "
CONTROLNET = "controlnet"


class Asked(NamedTuple):
    """What a plan is made for; `precision` is "auto" where none is named."""

    model: str
    kind: str
    precision: str
    pixels: int
    references: int


@dataclass(frozen=True)
class ResolvedTask:
    """A model that serves a kind on this machine, with the memory plan for one size.

    `single` is the file of the transformer's weights, where they are in one file; `controlnet` are
    the folder of a ControlNet's configuration and the file of its weights. `marks` are the hashes
    of the components by name, the prior's behind `PRIOR`; pipelines may share those of equal hash.
    `encoders` names the text stage: it is equal for two tasks whose prompts are encoded to the same
    numbers. `asked` is what the plan was made for, and by which it is kept.
    """

    model: Model
    serving: Serving
    kind: Kind
    family: Family
    folder: Path
    prior_folder: Path | None
    single: Path | None
    controlnet: tuple[Path, Path] | None
    marks: Mapping[str, str]
    plan: MemoryPlan
    encoders: str
    asked: Asked
    stamps: Mapping[str, list[int]]
    """Of the weights' files: others mean that the model was replaced under its own name."""

    @property
    def hash(self) -> str:
        """The hash of all that is loaded, as a sidecar records it."""
        return f"{KIND}{combined(self.marks)}"

    @property
    def length(self) -> int:
        """How many tokens of a prompt are encoded; with a prior, its limit counts."""
        prior = self.serving.prior
        return prior.max_sequence_length if prior else self.model.max_sequence_length


def as_published(
    model: Model, folder: Path, single: Path | None, machine: Machine, wanted: str = "auto"
) -> tuple[Model, str]:
    """A model with the size of its file, and the precision to plan: `wanted`, or "stored" for auto.

    Stored are weights that were published quantised, where the device computes with them so. Raises
    InputBad where they are in no other precision, and where the device does not know theirs.
    """
    scheme = checkpoints.scheme(single) if single else ""
    is_fixed = scheme == "nvfp4" or (single is None and checkpoints.is_stored(folder / HEAVY))
    if is_fixed and wanted != "auto":
        raise InputBad(
            f"the weights of {model.name} were published quantised, in {scheme or 'few bits'} and"
            f" not for {wanted}: leave `precision` out"
        )
    if scheme == "nvfp4" and machine.device == "mps":
        raise InputBad(f"{model.name} has scales in fp8, which Apple's GPU does not know")
    # Where nothing multiplies in fp8, bf16 made of a file's weights and scales is quicker.
    if not is_fixed and (scheme, wanted, machine.device) != ("fp8r", "auto", "cuda"):
        return model, wanted
    if single:  # its size is not known to an entry
        model = replace(model, bytes=2 * model.weights.others + checkpoints.size(single))
    return model, "stored"


def explain_plan(library: hub.Disk, model: Model, machine: Machine) -> list[str]:
    """The plan for a model's default size and its reasons, or why there is none, to print."""
    wanted = "auto"
    try:
        if not model.builtin:
            folder = library.main(model, next(iter(model.serves)))
            model, wanted = as_published(model, folder, library.single(model), machine)
    except ModelMissing:
        pass  # planned as its entry says
    except InputBad as error:
        return [str(error)]
    return memory.explain_plan(model, machine, wanted, models=library.models)


class TaskResolver:
    """Resolves tasks and keeps the results; used by one thread.

    `device` is the device as a sidecar describes it.
    """

    def __init__(self, library: hub.Disk, machine: Machine, *, device: str) -> None:
        self._library = library
        self.machine = machine
        self._device = device
        self._known: dict[Asked, ResolvedTask] = {}
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
        asked = Asked(model.name, task.kind, task.precision, pixels, references)
        known = self._known.get(asked)
        if known is None or (not model.builtin and not are_unchanged(known.stamps)):
            if len(self._known) >= 512:
                self._known.clear()
            known = self._known[asked] = self._resolve_task(model, asked)
        return replace(known, serving=model.serves[task.kind].starting_from(task.inputs))

    def lower(self, resolved: ResolvedTask) -> ResolvedTask | None:
        """The same with the next lower plan, kept for later tasks too; None after the last plan."""
        asked = resolved.asked
        is_stored = resolved.plan.precision == "stored"
        plan = memory.after_out_of_memory(
            resolved.plan,
            resolved.model,
            self.machine,
            asked.pixels,
            wanted="stored" if is_stored else asked.precision,
            kind=asked.kind,
            references=asked.references,
        )
        if plan is None:
            return None
        encoders = self._encoders(resolved.family, resolved.marks, plan)
        lowered = replace(resolved, plan=plan, encoders=encoders)
        self._known[asked] = lowered
        return lowered

    def _resolve_task(self, model: Model, asked: Asked) -> ResolvedTask:
        kind = asked.kind
        serving, family = model.serves[kind], FAMILIES[model.family]
        folder = self._library.main(model, kind)
        single = self._library.single(model)
        model, precision = as_published(model, folder, single, self.machine, asked.precision)
        plan = self._plan(model, asked._replace(precision=precision))
        prior_folder = self._library.prior(model, kind) if serving.prior else None
        controlnet = self._library.controlnet(model, kind) if serving.controlnet else None
        left_out = HEAVY if single else ""
        alone = [file for file in (single, controlnet and controlnet[1]) if file]
        parts = [*weights(folder, left_out).values(), alone]
        parts += weights(prior_folder).values() if prior_folder else []
        # Before anything is read: what changes meanwhile is read again for the next image.
        before = stamps(file for files in parts for file in files)
        marks = self.hashes.parts(folder, left_out)
        if single:
            marks[HEAVY] = self.hashes.file(single)
        if controlnet:
            marks[CONTROLNET] = self.hashes.file(controlnet[1])
        if prior_folder:
            of_prior = self.hashes.parts(prior_folder)
            marks |= {f"{PRIOR}{part}": mark for part, mark in of_prior.items()}
        return ResolvedTask(
            model=model,
            serving=serving,
            kind=KINDS[kind],
            family=family,
            folder=folder,
            prior_folder=prior_folder,
            single=single,
            controlnet=controlnet,
            marks=marks,
            plan=plan,
            encoders=self._encoders(family, marks, plan),
            asked=asked,
            stamps=before,
        )

    def _plan(self, model: Model, asked: Asked) -> MemoryPlan:
        _, kind, precision, pixels, references = asked
        return memory.plan(
            model, self.machine, pixels, precision, kind, references, models=self._library.models
        )

    def _encoders(self, family: Family, marks: Mapping[str, str], plan: MemoryPlan) -> str:
        """The name of the text stage: family, weights, precision and device."""
        parts = [f"{part}={marks[part]}" for part in sorted(family.text_parts) if part in marks]
        device = "cpu" if plan.text == "cpu" else self._device
        return " ".join([family.name, *parts, plan.text_precision, device])
