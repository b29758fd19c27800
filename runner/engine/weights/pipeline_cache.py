"""Keeps the pipelines of one device loaded within bounded memory: text, paint and prior stages.

A text stage is the text encoders with their tokenizers; a paint stage is the transformer with the
VAE; a prior stage turns pictures into embeddings. They are loaded and released one by one, so that
text encoders and transformer need not fit on the device at the same time. Components with equal
files are loaded once, whatever repository names them, except the scheduler, which keeps the state
of a run. Everything is read from folders that the library names, and never from the network.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

from runner.engine import errors as faults
from runner.engine import gpu
from runner.engine.hub import explain
from runner.engine.hub import library as hub
from runner.engine.hub.sources import HEAVY
from runner.engine.memory import devices, machine
from runner.engine.memory.plans import Machine
from runner.engine.resolved_task import CONTROLNET, PRIOR, ResolvedTask, TaskResolver
from runner.engine.speed import Speed
from runner.engine.weights import assembly, quantise
from runner.engine.weights.fingerprint import KIND, Hashes
from runner.engine.weights.loading import OnLoading, telling
from runner.task import ImageTask

log = logging.getLogger(__name__)

_NOTABLE = 1 << 30
"""Bytes of the GPU: less may be what libraries take there beside the weights."""


@dataclass(frozen=True)
class _Stage:
    """One loaded pipeline of a model."""

    pipe: Any
    model: str


class PipelineCache:
    """The loaded stages of one device; used by one thread, except `loaded`.

    `loaded` are the names of the models whose paint stages are loaded.
    """

    def __init__(
        self,
        library: hub.Disk,
        *,
        device: str = "auto",
        speed: Speed | None = None,
        gpu_memory_gb: float | None = None,
        sharing: int = 1,
    ) -> None:
        self.library = library
        self.store = library.data / "quantised"
        self._wanted_device = device
        self._speed = speed or Speed()
        self._gpu_memory_gb, self._sharing = gpu_memory_gb, sharing
        self._stages: OrderedDict[tuple[str, ...], _Stage] = OrderedDict()
        self._components: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()
        self.loaded: tuple[str, ...] = ()

    @cached_property
    def device(self) -> Any:
        return devices.choose(self._wanted_device)

    def resolve(
        self, task: ImageTask, pixels: int | None = None, on_loading: OnLoading = lambda *_: None
    ) -> ResolvedTask:
        """The ResolvedTask of a task; `pixels` is the picture's area where it is known.

        Calls `on_loading` where it has to read weights to hash them. Raises JobFailed where the
        model is missing or cannot do the task.
        """
        with telling(on_loading):
            resolved = self._resolver.resolve(task, pixels)
            if _keys(resolved)["paint"] not in self._stages and self._others_changed():
                resolved = self._resolver.resolve(task, pixels)
            return resolved

    def _others_changed(self) -> bool:
        """Whether others hold notably more or less of the GPU than before; then it plans anew."""
        measured, before = self._measured(), self._resolver.machine
        changed = measured.device == "cuda" and abs(measured.vram - before.vram) >= _NOTABLE
        if changed:
            # Of the host's memory what is loaded here would count as that of others.
            self._resolver = self._resolver_for(replace(before, vram=measured.vram))
        return changed

    def _measured(self) -> Machine:
        return machine.measure(self._wanted_device, self._gpu_memory_gb, self._sharing)

    def attempts(self, resolved: ResolvedTask) -> Iterator[ResolvedTask]:
        """What to make an image on, until one attempt has enough memory: first on `resolved`.

        Then on the same with nothing else on the device, then with each lower plan of the planner;
        that is kept for later images. No error of an attempt may be held when the next one is asked
        for: it would keep the tensors of its traceback alive.
        """
        yield resolved
        self.clear()
        log.warning("out of memory: trying again on a device that holds nothing else")
        yield resolved
        self.clear()
        while (lower := self._resolver.lower(resolved)) is not None:
            log.warning("out of memory: trying %s", lower.plan.summary)
            yield (resolved := lower)
            self.clear()

    def text(self, resolved: ResolvedTask, on_loading: OnLoading) -> Any:
        """The pipeline that encodes prompts for a task. Calls `on_loading` where it has to load."""
        return self._stage("text", resolved, on_loading, self._text_pipeline)

    def paint(self, resolved: ResolvedTask, on_loading: OnLoading) -> gpu.Stages:
        """The stages that denoise and decode a task. Calls `on_loading` where one has to load."""
        devices.use_threads(self.device, resolved.model.bytes)
        main, prior = self._stage("paint", resolved, on_loading, self._main_pipeline), None
        if resolved.prior_folder is not None:
            prior = self._stage(
                "prior", resolved, on_loading, lambda task: assembly.prior_stage(task, self.device)
            )
        return gpu.Stages(
            family=resolved.family,
            main=main,
            arguments=resolved.kind.build(resolved.model.family, resolved.serving),
            prior=prior,
            prior_arguments=resolved.kind.prior.get(resolved.model.family),
            speed=self._speed,
            facts=self._engine_facts(resolved, main),
            warnings=quantise.warnings(main),
        )

    def clear(self) -> None:
        """Release every stage; where none is loaded, the device is not initialised."""
        if self._stages:
            self._stages.clear()
            self.loaded = ()
            devices.free_caches()

    def forget(self) -> None:
        """Clear, and read the machine and the models' folders again for the next task."""
        self.clear()
        vars(self).pop("_resolver", None)

    @property
    def hashes(self) -> Hashes:
        """Those of the weights that were read here."""
        return self._resolver.hashes

    @cached_property
    def _resolver(self) -> TaskResolver:
        return self._resolver_for(self._measured())

    def _resolver_for(self, machine: Machine) -> TaskResolver:
        return TaskResolver(self.library, machine, device=devices.describe(self.device))

    def _stage(
        self,
        part: str,
        resolved: ResolvedTask,
        on_loading: OnLoading,
        build: Callable[[ResolvedTask], Any],
    ) -> Any:
        """The pipeline of a stage, loaded where it is not yet."""
        keys = _keys(resolved)
        key = keys[part]
        stage = self._stages.get(key)
        if stage is None:
            on_loading(0, 0)
            self._make_room(part, resolved, keys.values())
            try:
                with telling(on_loading):
                    pipe = build(resolved)
            except Exception as error:
                name, repo = resolved.model.name, resolved.model.repo or resolved.model.name
                again = f"fluxdrop models pull {name}"
                ours = explain.translated(error, repo=repo, again=again) or faults.translated(error)
                if ours is None:
                    raise
                raise ours from error
            stage = self._stages[key] = _Stage(pipe, resolved.model.name)
            painting = (each.model for key, each in self._stages.items() if key[0] == "paint")
            self.loaded = tuple(dict.fromkeys(painting))
        self._stages.move_to_end(key)
        return stage.pipe

    def _text_pipeline(self, resolved: ResolvedTask) -> Any:
        precision = f"{resolved.plan.text_precision} {resolved.model.text_layers}"
        return self._built(assembly.text_stage, resolved, resolved.family.text_parts, precision)

    def _main_pipeline(self, resolved: ResolvedTask) -> Any:
        gpu.require_callback(assembly.class_of("diffusers", resolved.serving.pipeline))
        # An offloading hook belongs to one pipeline: a component that has one cannot be shared.
        sharing = resolved.plan.placement == "resident"
        # A pipeline that caches changes its transformer.
        own = {"scheduler", *((HEAVY,) if resolved.serving.caches else ())}
        parts = resolved.marks.keys() - {*resolved.family.text_parts, *own}
        pipe = self._built(
            assembly.paint_stage, resolved, parts if sharing else (), resolved.plan.precision
        )
        self._speed.apply(pipe)
        return pipe

    def _built(
        self,
        build: Callable[..., Any],
        resolved: ResolvedTask,
        parts: Iterable[str],
        precision: str,
    ) -> Any:
        """A pipeline that shares these parts with others: components of equal files, by name."""
        keys = {p: (p, resolved.marks[p], precision) for p in parts if p in resolved.marks}
        shared = {p: self._components[key] for p, key in keys.items() if key in self._components}
        pipe = build(resolved, self.device, self.store, shared)
        for part, key in keys.items():
            if (component := getattr(pipe, part, None)) is not None:
                self._components[key] = component
        return pipe

    def _room(self, resolved: ResolvedTask) -> int:
        """The bytes of the device that the weights of other tasks may take beside this one."""
        return self._resolver.machine.room - resolved.plan.bytes

    def _make_room(
        self, part: str, resolved: ResolvedTask, own: Collection[tuple[str, ...]]
    ) -> None:
        """Release the stages of others that were used longest ago until the task fits beside them.

        Where the plan has text encoders in turn with the rest, the others go in any case: also
        what fits by its figures may have been too much for the device.
        """
        room, released = self._room(resolved), False
        for key in list(self._stages):
            in_turn = resolved.plan.text == "in turn" and (key[0] == "text") != (part == "text")
            others = [stage.pipe for each, stage in self._stages.items() if each not in own]
            if in_turn or (key not in own and self._held(others) > room):
                del self._stages[key]
                released = True
            del others  # or the last one's weights would still be held when the caches are freed
        if released:
            devices.free_caches()

    def _held(self, pipes: Iterable[Any]) -> int:
        """The bytes of the device that pipelines take, each tensor that they share once."""
        import torch

        modules = (m for pipe in pipes for m in pipe.components.values())
        tensors = (
            tensor
            for module in modules
            if isinstance(module, torch.nn.Module)
            for tensor in (*module.parameters(), *module.buffers())
        )
        sizes = {id(t): t.nbytes for t in tensors if t.device.type == self.device.type}
        return sum(sizes.values())

    def _engine_facts(self, resolved: ResolvedTask, main: Any) -> dict[str, Any]:
        plan, beside = resolved.plan, {}
        if (controlnet := resolved.serving.controlnet) and resolved.controlnet:
            file = resolved.controlnet[1]
            beside[CONTROLNET] = {
                "repo": controlnet.repo,
                "file": file.name,
                "revision": hub.revision_of(file.parent, resolved.model),
                "hash": f"{KIND}{resolved.marks[CONTROLNET]}",
            }
        return {
            "model": {
                "name": resolved.model.name,
                "repo": resolved.model.repo or None,
                "file": resolved.single.name if resolved.single else None,
                "revision": hub.revision_of(resolved.folder, resolved.model),
                "hash": resolved.hash,
                "guided_by": resolved.serving.guided_by,
                **beside,
            },
            "dtype": devices.dtype_name(plan.precision),
            "precision": "auto" if plan.precision == "stored" else plan.precision,
            "text_precision": plan.text_precision,
            "device": devices.describe(self.device),
            "placement": plan.placement,
            "tiled": plan.tiling,
            **quantise.facts(main),
            **self._speed.facts(main),
        }


def _keys(resolved: ResolvedTask) -> dict[str, tuple[str, ...]]:
    """The key of each stage of a task; equal keys mean the same pipeline."""
    plan, serving = resolved.plan, resolved.serving
    placed = (plan.precision, plan.placement, str(plan.tiling))
    painted = (serving.pipeline, str(serving.guided), *placed, str(resolved.folder))
    of_prior = {part: mark for part, mark in resolved.marks.items() if part.startswith(PRIOR)}
    own = [mark for part, mark in resolved.marks.items() if part not in of_prior]
    return {
        "text": ("text", resolved.encoders),
        "paint": ("paint", *painted, *own),
        "prior": ("prior", *placed, str(resolved.prior_folder), *of_prior.values()),
    }
