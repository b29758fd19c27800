"""What is loaded on one device: text stages and paint stages, on a shelf with bounded room.

A text stage is the text encoders with their tokenizers; a paint stage is the transformer with the
VAE, and a prior where there is one. They come and go apart: a night's prompts are encoded in one
go, then the encoders make room. Components with equal files are loaded once, whatever repository
names them, except the scheduler, which keeps the state of a run. Everything is read from folders
that the library names; nothing here can reach the network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from runner.engine import errors as faults
from runner.engine import gpu, hub
from runner.engine.hub import explain
from runner.engine.memory import devices, machine
from runner.engine.memory.plans import Machine
from runner.engine.resolved_task import Planner, ResolvedTask, TaskResolver
from runner.engine.speed import Speed
from runner.engine.weights import assembly, fingerprint
from runner.job import ImageTask

OnLoading = Callable[[], None]


@dataclass(frozen=True)
class Loaded:
    """What a task runs on, with the facts that its sidecar records."""

    stages: gpu.Stages
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class _Stage:
    """One pipeline on the shelf: its expected bytes, and the hash of the folder it came from."""

    pipe: Any
    model: str
    bytes: int
    hash: str = ""


class PipelineCache:
    """The loaded stages of one device; used by one thread, except `loaded`.

    `room` bounds the bytes of weights on the device; None leaves it to what the machine has.
    """

    def __init__(
        self,
        library: hub.Library,
        *,
        device: str = "auto",
        precision: str = "auto",
        speed: Speed | None = None,
        gpu_memory_gb: float | None = None,
        room: int | None = None,
        machine: Machine | None = None,
        planner: Planner | None = None,
    ) -> None:
        self._library = library
        self._store = library.data / "quantised"
        self._wanted_device = device
        self._precision = precision
        self._speed = speed or Speed()
        self._gpu_memory_gb = gpu_memory_gb
        self._room = room
        self._machine = machine
        self._planner = planner
        self._device: Any = None
        self._resolver: TaskResolver | None = None
        self._stages: OrderedDict[tuple[str, ...], _Stage] = OrderedDict()
        self._components: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()
        self.loaded: tuple[str, ...] = ()

    @property
    def device(self) -> Any:
        if self._device is None:
            self._device = devices.choose(self._wanted_device)
        return self._device

    def resolve(self, task: ImageTask, pixels: int | None = None) -> ResolvedTask:
        """What a task runs on; `pixels` is the picture's area where it is known."""
        if pixels is None:
            model = self._library.models.get(task.model)
            width, height = model.sizes.default if model else (1, 1)
            pixels = (task.width or width) * (task.height or height)
        return self._resolve_task().resolve(task, pixels)

    def lower(self, resolved: ResolvedTask, pixels: int) -> ResolvedTask | None:
        """Clear the device and take the next plan down; None when this was the last."""
        self.clear()
        return self._resolve_task().lower(resolved, pixels)

    def text(self, resolved: ResolvedTask, on_loading: OnLoading) -> Any:
        """The pipeline that encodes prompts for these needs."""
        size = assembly.text_bytes(resolved)
        return self._stage(
            ("text", resolved.encoders), resolved, size, on_loading, self._build_text
        ).pipe

    def paint(self, resolved: ResolvedTask, on_loading: OnLoading) -> Loaded:
        """The stages that denoise and decode for these needs."""
        devices.use_threads(self.device, resolved.model.bytes)
        plan = resolved.plan
        how = (plan.precision, plan.placement, str(plan.tiling))
        main = self._stage(
            ("paint", resolved.serving.pipeline, str(resolved.folder), str(resolved.single), *how),
            resolved,
            assembly.paint_bytes(resolved),
            on_loading,
            self._build_main,
        )
        prior = None
        if resolved.prior_folder is not None:
            prior = self._stage(
                ("prior", str(resolved.prior_folder), *how),
                resolved,
                assembly.prior_bytes(resolved),
                on_loading,
                self._build_prior,
                beside=main,
            )
        stages = gpu.Stages(
            family=resolved.family,
            main=main.pipe,
            arguments=resolved.kind.arguments[resolved.model.family],
            prior=prior.pipe if prior else None,
            prior_arguments=resolved.kind.prior.get(resolved.model.family),
            fixed=resolved.serving.fixed,
            speed=self._speed,
        )
        return Loaded(stages, self._facts(resolved, main, prior))

    def clear(self) -> None:
        """Take everything off the device; an empty shelf does not even ask for one."""
        if self._stages:
            self._stages.clear()
            self.loaded = ()
            devices.free_caches()

    def forget(self) -> None:
        """Clear, and look at the machine and at the models' folders again."""
        self.clear()
        self._resolver = None

    def _resolve_task(self) -> TaskResolver:
        if self._resolver is None:
            self._resolver = TaskResolver(
                self._library,
                self._machine or machine.measure(self._wanted_device, self._gpu_memory_gb),
                device=devices.describe(self.device),
                precision=self._precision,
                planner=self._planner,
            )
        return self._resolver

    def _stage(
        self,
        key: tuple[str, ...],
        resolved: ResolvedTask,
        size: int,
        on_loading: OnLoading,
        build: Callable[[ResolvedTask], _Stage],
        beside: _Stage | None = None,
    ) -> _Stage:
        kept = self._stages.get(key)
        if kept is None:
            on_loading()
            self._make_room(size, resolved, beside)
            kept = self._stages[key] = self._built(build, resolved)
            self.loaded = tuple(
                dict.fromkeys(each.model for each in self._stages.values() if each.model)
            )
        self._stages.move_to_end(key)
        return kept

    def _built(self, build: Callable[[ResolvedTask], _Stage], resolved: ResolvedTask) -> _Stage:
        try:
            return build(resolved)
        except Exception as error:
            ours = explain.explain(error, resolved.model) or faults.translated(error)
            if ours is None:
                raise
            raise ours from error

    def _build_text(self, resolved: ResolvedTask) -> _Stage:
        parts, precision = resolved.family.text_parts, resolved.plan.text_precision
        shared = self._shared(resolved, parts, precision)
        pipe = assembly.text_stage(resolved, self.device, self._store, shared)
        self._share(resolved, pipe, parts, precision)
        return _Stage(pipe, "", assembly.text_bytes(resolved))

    def _build_main(self, resolved: ResolvedTask) -> _Stage:
        gpu.require_callback(assembly.pipeline_class(resolved.serving.pipeline))
        # An offloading hook belongs to one pipeline: what carries one cannot be shared.
        sharing = resolved.plan.placement == "resident"
        parts = tuple(part for part in resolved.marks if part not in resolved.family.text_parts)
        shared = self._shared(resolved, parts, resolved.plan.precision) if sharing else {}
        pipe = assembly.paint_stage(resolved, self.device, self._store, shared, self._speed)
        if sharing:
            self._share(resolved, pipe, parts, resolved.plan.precision)
        mark = fingerprint.of_folder(resolved.folder)
        if resolved.single is not None:
            mark += f"+{fingerprint.of_file(resolved.single)}"
        return _Stage(pipe, resolved.model.name, assembly.paint_bytes(resolved), mark)

    def _build_prior(self, resolved: ResolvedTask) -> _Stage:
        assert resolved.prior_folder is not None
        pipe = assembly.prior_stage(resolved, self.device)
        return _Stage(
            pipe, "", assembly.prior_bytes(resolved), fingerprint.of_folder(resolved.prior_folder)
        )

    def _shared(
        self, resolved: ResolvedTask, parts: tuple[str, ...], precision: str
    ) -> dict[str, Any]:
        keys = {p: (p, resolved.marks[p], precision) for p in parts if p in resolved.marks}
        return {part: self._components[at] for part, at in keys.items() if at in self._components}

    def _share(
        self, resolved: ResolvedTask, pipe: Any, parts: tuple[str, ...], precision: str
    ) -> None:
        for part in parts:
            component = getattr(pipe, part, None)
            if part in resolved.marks and component is not None:
                self._components[part, resolved.marks[part], precision] = component

    def _make_room(self, size: int, resolved: ResolvedTask, beside: _Stage | None) -> None:
        """Let go of the stages used longest ago until this one fits beside the others."""
        room = self._room
        if room is None:
            room = assembly.room(resolved, self._resolve_task().machine)
        gone = False
        for key, stage in list(self._stages.items()):
            if size + sum(each.bytes for each in self._stages.values()) <= room:
                break
            if stage is not beside:
                del self._stages[key]
                gone = True
            del stage  # or the weights would outlive their place on the shelf
        if gone:
            devices.free_caches()

    def _facts(self, resolved: ResolvedTask, main: _Stage, prior: _Stage | None) -> dict[str, Any]:
        plan = resolved.plan
        return {
            "model": {
                "name": resolved.model.name,
                "repo": resolved.model.repo or None,
                "revision": hub.revision_of(resolved.folder, resolved.model),
                "hash": main.hash if prior is None else f"{main.hash}+{prior.hash}",
            },
            "dtype": devices.dtype_name(plan.precision),
            "precision": "auto" if plan.precision == "stored" else plan.precision,
            "text_precision": plan.text_precision,
            "device": devices.describe(self.device),
            "placement": plan.placement,
            "tiled": plan.tiling,
            **self._speed.facts(main.pipe),
        }
