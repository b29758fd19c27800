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

    def needs(self, task: ImageTask, pixels: int | None = None) -> ResolvedTask:
        """What a task runs on; `pixels` is the picture's area where it is known."""
        if pixels is None:
            model = self._library.models.get(task.model)
            width, height = model.sizes.default if model else (1, 1)
            pixels = (task.width or width) * (task.height or height)
        return self._resolve_task().needs(task, pixels)

    def lower(self, needs: ResolvedTask, pixels: int) -> ResolvedTask | None:
        """Clear the device and take the next plan down; None when this was the last."""
        self.clear()
        return self._resolve_task().lower(needs, pixels)

    def text(self, needs: ResolvedTask, on_loading: OnLoading) -> Any:
        """The pipeline that encodes prompts for these needs."""
        size = assembly.text_bytes(needs)
        return self._stage(("text", needs.encoders), needs, size, on_loading, self._build_text).pipe

    def paint(self, needs: ResolvedTask, on_loading: OnLoading) -> Loaded:
        """The stages that denoise and decode for these needs."""
        devices.use_threads(self.device, needs.model.bytes)
        plan = needs.plan
        how = (plan.precision, plan.placement, str(plan.tiling))
        main = self._stage(
            ("paint", needs.serving.pipeline, str(needs.folder), str(needs.single), *how),
            needs,
            assembly.paint_bytes(needs),
            on_loading,
            self._build_main,
        )
        prior = None
        if needs.prior_folder is not None:
            prior = self._stage(
                ("prior", str(needs.prior_folder), *how),
                needs,
                assembly.prior_bytes(needs),
                on_loading,
                self._build_prior,
                beside=main,
            )
        stages = gpu.Stages(
            family=needs.family,
            main=main.pipe,
            arguments=needs.kind.arguments[needs.model.family],
            prior=prior.pipe if prior else None,
            prior_arguments=needs.kind.prior.get(needs.model.family),
            fixed=needs.serving.fixed,
            speed=self._speed,
        )
        return Loaded(stages, self._facts(needs, main, prior))

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
        needs: ResolvedTask,
        size: int,
        on_loading: OnLoading,
        build: Callable[[ResolvedTask], _Stage],
        beside: _Stage | None = None,
    ) -> _Stage:
        kept = self._stages.get(key)
        if kept is None:
            on_loading()
            self._make_room(size, needs, beside)
            kept = self._stages[key] = self._built(build, needs)
            self.loaded = tuple(
                dict.fromkeys(each.model for each in self._stages.values() if each.model)
            )
        self._stages.move_to_end(key)
        return kept

    def _built(self, build: Callable[[ResolvedTask], _Stage], needs: ResolvedTask) -> _Stage:
        try:
            return build(needs)
        except Exception as error:
            ours = explain.explain(error, needs.model) or faults.translated(error)
            if ours is None:
                raise
            raise ours from error

    def _build_text(self, needs: ResolvedTask) -> _Stage:
        parts, precision = needs.family.text_parts, needs.plan.text_precision
        shared = self._shared(needs, parts, precision)
        pipe = assembly.text_stage(needs, self.device, self._store, shared)
        self._share(needs, pipe, parts, precision)
        return _Stage(pipe, "", assembly.text_bytes(needs))

    def _build_main(self, needs: ResolvedTask) -> _Stage:
        gpu.require_callback(assembly.pipeline_class(needs.serving.pipeline))
        # An offloading hook belongs to one pipeline: what carries one cannot be shared.
        sharing = needs.plan.placement == "resident"
        parts = tuple(part for part in needs.marks if part not in needs.family.text_parts)
        shared = self._shared(needs, parts, needs.plan.precision) if sharing else {}
        pipe = assembly.paint_stage(needs, self.device, self._store, shared, self._speed)
        if sharing:
            self._share(needs, pipe, parts, needs.plan.precision)
        mark = fingerprint.of_folder(needs.folder)
        if needs.single is not None:
            mark += f"+{fingerprint.of_file(needs.single)}"
        return _Stage(pipe, needs.model.name, assembly.paint_bytes(needs), mark)

    def _build_prior(self, needs: ResolvedTask) -> _Stage:
        assert needs.prior_folder is not None
        pipe = assembly.prior_stage(needs, self.device)
        return _Stage(
            pipe, "", assembly.prior_bytes(needs), fingerprint.of_folder(needs.prior_folder)
        )

    def _shared(
        self, needs: ResolvedTask, parts: tuple[str, ...], precision: str
    ) -> dict[str, Any]:
        keys = {p: (p, needs.marks[p], precision) for p in parts if p in needs.marks}
        return {part: self._components[at] for part, at in keys.items() if at in self._components}

    def _share(
        self, needs: ResolvedTask, pipe: Any, parts: tuple[str, ...], precision: str
    ) -> None:
        for part in parts:
            component = getattr(pipe, part, None)
            if part in needs.marks and component is not None:
                self._components[part, needs.marks[part], precision] = component

    def _make_room(self, size: int, needs: ResolvedTask, beside: _Stage | None) -> None:
        """Let go of the stages used longest ago until this one fits beside the others."""
        room = self._room
        if room is None:
            room = assembly.room(needs, self._resolve_task().machine)
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

    def _facts(self, needs: ResolvedTask, main: _Stage, prior: _Stage | None) -> dict[str, Any]:
        plan = needs.plan
        return {
            "model": {
                "name": needs.model.name,
                "repo": needs.model.repo or None,
                "revision": hub.revision_of(needs.folder, needs.model),
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
