"""Pipelines in memory: loaded on first need, kept on a shelf, shared where they are the same bytes.

Components of different pipelines with equal files are loaded once (text encoders and VAE of all
FLUX.1 repositories are equal), except the scheduler, which keeps the state of a run. Everything
is read from folders that the library names; nothing here can reach the network.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from runner.engine import devices, faults, fingerprint, gpu, hub
from runner.engine.embeddings import PromptCache
from runner.engine.families import FAMILIES
from runner.engine.models import Model, Serving
from runner.engine.registry import KINDS
from runner.errors import JobFailed
from runner.job import ImageTask

_TEXT = ("text_encoder", "tokenizer")


@dataclass(frozen=True)
class Loaded:
    """What a task runs on, with the facts that its sidecar records."""

    stages: gpu.Stages
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class _Pipe:
    """One pipeline on the shelf."""

    pipe: Any
    model: str
    bytes: int
    hash: str
    encoders: str


Key = tuple[str, str, str]


class Shelf:
    """The loaded pipelines of one device; used by one thread, except `loaded`."""

    def __init__(
        self,
        library: hub.Library,
        *,
        device: str = "auto",
        precision: str = "auto",
        room: int | None = None,
    ) -> None:
        self._library = library
        self._wanted_device = device
        self._precision = precision
        self._room = room
        self._device: Any = None
        self._pipes: OrderedDict[Key, _Pipe] = OrderedDict()
        self._components: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()
        self._prompts = PromptCache()
        self.loaded: tuple[str, ...] = ()

    @property
    def device(self) -> Any:
        if self._device is None:
            self._device = devices.choose(self._wanted_device)
        return self._device

    def get(self, task: ImageTask, on_loading: Callable[[], None]) -> Loaded:
        """The stages of a task; `on_loading` is called before anything has to be loaded."""
        model = self._library.models.get(task.model)
        if model is None or task.kind not in model.serves:
            raise JobFailed(f"{task.model} cannot do {task.kind} any more: see `fluxdrop models`")
        serving, kind = model.serves[task.kind], KINDS[task.kind]
        precision = self._precision_of(task, model)
        devices.use_threads(self.device, model.bytes)
        main_folder = self._library.main(model, task.kind)
        prior_folder = self._library.prior(model, task.kind) if serving.prior else None
        main = self._pipe(serving.pipeline, main_folder, precision, model, True, on_loading, {})
        prior = None
        if serving.prior and prior_folder:
            # The prior is given the main stage's encoders: it reads a prompt only with them.
            text = {
                name: part
                for name, part in main.pipe.components.items()
                if name.startswith(_TEXT) and part is not None
            }
            prior = self._pipe(
                serving.prior.pipeline, prior_folder, precision, model, False, on_loading, text
            )
        stages = gpu.Stages(
            family=FAMILIES[model.family],
            main=main.pipe,
            arguments=kind.arguments[model.family],
            encoders=main.encoders,
            length=_length(model, serving),
            prompts=self._prompts,
            prior=prior.pipe if prior else None,
            prior_arguments=kind.prior.get(model.family),
            fixed=serving.fixed,
        )
        hashes = main.hash if prior is None else f"{main.hash}+{prior.hash}"
        return Loaded(
            stages,
            {
                "model": {
                    "name": model.name,
                    "repo": model.repo or None,
                    "revision": hub.revision_of(main_folder, model),
                    "hash": hashes,
                },
                "dtype": str(devices.dtype_of(precision)).removeprefix("torch."),
                "precision": precision,
                "device": devices.describe(self.device),
            },
        )

    def clear(self) -> None:
        """Take everything off the device; an empty shelf does not even ask for one."""
        if self._pipes:
            self._pipes.clear()
            self._prompts.clear()
            self.loaded = ()
            devices.free_caches()

    def _precision_of(self, task: ImageTask, model: Model) -> str:
        wanted = task.precision
        if wanted == "auto" and self._precision in model.precisions:
            wanted = self._precision
        return devices.precision_for(wanted, model, self.device)

    def _pipe(
        self,
        name: str,
        folder: Path,
        precision: str,
        model: Model,
        main: bool,
        on_loading: Callable[[], None],
        given: Mapping[str, Any],
    ) -> _Pipe:
        key = (name, str(folder), precision)
        kept = self._pipes.get(key)
        if kept is None:
            on_loading()
            kept = self._load(name, folder, precision, model, main, given)
            self._pipes[key] = kept
            self.loaded = tuple(dict.fromkeys(each.model for each in self._pipes.values()))
        self._pipes.move_to_end(key)
        return kept

    def _load(
        self,
        name: str,
        folder: Path,
        precision: str,
        model: Model,
        main: bool,
        given: Mapping[str, Any],
    ) -> _Pipe:
        pipeline = getattr(devices.frameworks(), name, None)
        if pipeline is None:
            raise faults.Bug(f"diffusers has no {name}")
        if main:
            gpu.require_callback(pipeline)
        size = model.bytes if main else 0
        self._make_room(size)
        marks = _component_marks(folder)
        keys = {part: (part, mark, precision, str(self.device)) for part, mark in marks.items()}
        shared = {part: self._components[at] for part, at in keys.items() if at in self._components}
        try:
            pipe = pipeline.from_pretrained(
                folder,
                dtype=devices.dtype_of(precision),
                local_files_only=True,
                **{**shared, **given},
            )
        except Exception as error:
            ours = hub.explain(error, model) or faults.translated(error)
            if ours is None:
                raise
            raise ours from error
        pipe.set_progress_bar_config(disable=True)
        pipe.to(self.device)
        for part, at in keys.items():
            self._components[at] = getattr(pipe, part)
        text = sorted(f"{part}={mark}" for part, mark in marks.items() if part.startswith(_TEXT))
        return _Pipe(
            pipe=pipe,
            model=model.name,
            bytes=size,
            hash=fingerprint.of_folder(folder),
            encoders=" ".join([*text, precision, str(self.device)]),
        )

    def _make_room(self, size: int) -> None:
        """Let go of the pipelines used longest ago until this size fits beside the others."""
        if self._room is None:
            self._room = devices.room(self.device)
        gone = False
        while self._pipes and size + sum(each.bytes for each in self._pipes.values()) > self._room:
            self._pipes.popitem(last=False)
            gone = True
        if gone:
            self._prompts.clear()
            devices.free_caches()


def _length(model: Model, serving: Serving) -> int:
    """How many tokens of a prompt are read; a prior's main stage reads as many as the prior."""
    return serving.prior.max_sequence_length if serving.prior else model.max_sequence_length


def _component_marks(folder: Path) -> dict[str, str]:
    """The hash of each component's files, of those that may be shared."""
    index = json.loads((folder / hub.INDEX).read_text(encoding="utf-8"))
    return {
        part: fingerprint.of_folder(folder / part)
        for part in index
        if part != "scheduler" and (folder / part).is_dir()
    }
