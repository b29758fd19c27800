"""An executor over a Ray cluster: one actor for each GPU, each around a GPU thread of its machine.

Runs in a bridge process of its own: Ray ends a driver whose head is gone, without an exception.
One thread watches the cluster and its slots, and one for each dispatch sends its files and hears
its events. What a slot says after it was given up is of an order it no longer has: it is not heard.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import pickle
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from runner.clock import monotonic
from runner.errors import UsageProblem
from runner.executor import (
    Event,
    Executor,
    Failed,
    Progressed,
    Slot,
    SlotLost,
    SlotState,
    StoppedEarly,
    Woken,
)
from runner.job import Phase
from runner.slots.process import ProcessExecutor
from runner.slots.ray_cluster import Cluster, join
from runner.slots.ray_worker import RayWorker, versions
from runner.task import ImageTask
from runner.threads import Threads

log = logging.getLogger(__name__)

_TICK, _EVERY = 0.25, 2.0
"""How often answers are looked for; how often slots are asked whether they live."""
_SUSPECT, _LOST, _LOADING = 4.0, 8.0, 60.0
"""After how many seconds of silence a slot is that; and how many a model that loads may take."""
_GROUPS = {"num_cpus": 0, "max_restarts": 0, "concurrency_groups": {"render": 1, "control": 4}}
_GONE, _SILENT = "its machine is gone", "its machine does not answer"
_PART = 8 * 1024**2
_CLOSING = 3.0


@dataclass
class _Order:
    """Tasks that a slot has in hand, by job and index, under a number of their own."""

    number: int
    tasks: dict[tuple[str, int], ImageTask]
    stopped: bool = False
    phase: Phase | None = None


@dataclass
class _Place:
    """One slot: where it is, the actor that it is now, and what that said last."""

    name: str
    node: str
    host: str
    device: str
    shared_by: int
    """How many slots its machine has."""
    state: SlotState = SlotState.STARTING
    note: str = ""
    actor: Any = None
    ping: Any = None
    asked_at: float = 0.0
    heard_at: float = 0.0
    failures: int = 0
    told: Slot = field(default_factory=lambda: Slot("", False))
    order: _Order | None = None

    def control(self, method: str, *given: Any) -> Any:
        return _asked(self.actor, method, *given)

    @property
    def lives(self) -> bool:
        return self.state in (SlotState.READY, SlotState.SUSPECT, SlotState.DRAINED)


class RayExecutor:
    """An `Executor` with a slot for each GPU of a cluster, or for each machine of one without."""

    def __init__(self, cluster: Cluster) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._cluster = cluster
        self._ray: Any = None
        self._worker: Any = None
        self._here = ""
        self._places: dict[str, _Place] = {}
        self._numbers = itertools.count(1)
        self._hashes: dict[tuple[Path, int, int], str] = {}
        # Notified as a slot becomes free, and as this closes.
        self._lock = threading.Condition(threading.RLock())
        self._closed = False
        self._waits = f"{cluster.name} is starting"
        self._watcher = threading.Thread(target=self._watch, name="ray", daemon=True)
        self._watcher.start()

    # -- what the worker calls -------------------------------------------------------------------

    def slots(self) -> Sequence[Slot]:
        """Every slot; before there is any, one that says what is waited for."""
        with self._lock:
            if not self._places:
                return (Slot("ray", False, state=SlotState.STARTING, note=self._waits),)
            return tuple(
                replace(
                    place.told, name=place.name, busy=place.order is not None, host=place.host,
                    device=place.device, state=place.state, note=place.note,
                )
                for place in self._places.values()
            )  # fmt: skip

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        """Announce prompts to every slot: each machine keeps embeddings of its own."""
        # A LoRA may be about the text encoder, and is not there before its image is.
        bare = [replace(task, inputs={}) for task in upcoming if not task.loras]
        self._tell_all("prepare", bare)

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        with self._lock:
            place = self._places.get(slot)
            if place is None or place.order or self._closed or place.state != SlotState.READY:
                raise ValueError(f"slot {slot} cannot start a task now")
            if not tasks:
                return
            named = {(task.job, task.index): task for task in tasks}
            place.order = _Order(next(self._numbers), named)
            work = (place, place.order, place.actor)
        threading.Thread(target=self._render, args=work, name=slot, daemon=True).start()

    def stop(self, slot: str) -> None:
        with self._lock:
            place = self._places.get(slot)
            if place is not None and place.order is not None:
                place.order.stopped = True
                place.control("stop", place.order.number)

    def abandon(self, slot: str, why: str) -> bool:
        with self._lock:
            place = self._places.get(slot)
            if place is not None and place.order is not None:
                self._lose(place, why, charged=True)
        return True

    def release(self) -> None:
        self._tell_all("release")

    def close(self) -> None:
        """Stop, hear the answers for some seconds, and end the actors, and a local cluster."""
        with self._lock:
            self._closed = True
            for name in self._places:
                self.stop(name)
            self._lock.wait_for(lambda: not any(p.order for p in self._places.values()), _CLOSING)
            for place in self._places.values():
                self._lose(place, "the runner ends", charged=False)
            self._lock.notify_all()
        self._watcher.join()

    def _tell_all(self, method: str, *given: Any) -> None:
        with self._lock:
            for place in self._places.values():
                if place.state == SlotState.READY:
                    place.control(method, *given)

    # -- one dispatch ----------------------------------------------------------------------------

    def _render(self, place: _Place, order: _Order, actor: Any) -> None:
        """Send the files and the tasks of an order, and hear its events to the last answer."""
        try:
            tasks = [self._placed(task, order, actor) for task in order.tasks.copy().values()]
            if order.stopped:
                for task in tasks:
                    self._hear(place, order, StoppedEarly(place.name, task), place.told)
                return
            method = actor.render.options(num_returns="streaming", concurrency_group="render")
            for answer in method.remote(order.number, tasks):
                self._hear(place, order, *self._ray.get(answer))
        except Exception as error:
            why, charged = self._reason(place, error)
            with self._lock:
                if place.order is order:
                    log.info("%s was lost", place.name, exc_info=error)
                    self._lose(place, why, charged)

    def _hear(self, place: _Place, order: _Order, event: Any, told: Slot) -> None:
        """Pass on an event of the order that the slot has, with the task as it was given."""
        key = (event.task.job, event.task.index)
        with self._lock:
            if place.order is not order:
                return
            place.told, place.heard_at = told, monotonic()
            if isinstance(event, Failed) and event.reason == "DeviceLost":
                # Only another process can use the device again.
                self._lose(place, "the GPU was lost", charged=True)
                return
            task = order.tasks[key]
            if isinstance(event, Progressed):
                order.phase = event.phase
            else:
                del order.tasks[key]
                place.failures = 0
                if not order.tasks:  # the slot is free before its answer can be read
                    place.order = None
                    self._lock.notify_all()
            self.events.put(replace(event, slot=place.name, task=task))

    def _placed(self, task: ImageTask, order: _Order, actor: Any) -> ImageTask:
        """The task with names of files for paths; those that its machine lacks are sent."""
        paths = [image.path for images in task.inputs.values() for image in images]
        names = {path: self._named(path) for path in {*paths, *(x.path for x in task.loras)}}
        files = {name: path for path, name in names.items() if name.parent == Path()}
        if files:
            sent = [str(name) for name in files]
            for name in self._ray.get(_asked(actor, "lacking", sent)):
                self._send(name, files[Path(name)], order, actor)
        inputs = {
            field: tuple(replace(image, path=names[image.path]) for image in images)
            for field, images in task.inputs.items()
        }
        loras = tuple(replace(lora, path=names[lora.path]) for lora in task.loras)
        return replace(task, inputs=inputs, loras=loras)

    def _named(self, path: Path) -> Path:
        """The name of a file on every machine; the path, where it cannot be read."""
        try:
            status = path.stat()
            key = (path, status.st_mtime_ns, status.st_size)
            if key not in self._hashes:
                with path.open("rb") as file:
                    self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return path  # the image fails there with the reason that it would fail with here
        return Path(self._hashes[key] + path.suffix)

    def _send(self, name: str, path: Path, order: _Order, actor: Any) -> None:
        with path.open("rb") as file:
            part, begins = file.read(_PART), True
            while not order.stopped:
                following = file.read(_PART)
                self._ray.get(_asked(actor, "keep", name, part, begins, not following))
                if not following:
                    return
                part, begins = following, False

    # -- the cluster -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Join the cluster, keep a slot on each of its GPUs, and ask them whether they live."""
        try:
            while not self._closed and self._ray is None:
                try:
                    self._ray = join(self._cluster)
                    self._worker = self._ray.remote(**_GROUPS)(RayWorker)
                    self._here = self._ray.get_runtime_context().get_node_id()
                except UsageProblem as problem:
                    log.warning("%s", self._say(str(problem)))
                    with self._lock:
                        self._lock.wait_for(lambda: self._closed, 10.0)
            seen_at = 0.0
            while not self._closed:
                if monotonic() > seen_at + _EVERY:
                    self._see_machines()
                    seen_at = monotonic()
                with self._lock:
                    for place in list(self._places.values()):
                        self._see(place)
                    self._lock.wait_for(lambda: self._closed, _TICK)
            if self._ray is not None:
                self._ray.shutdown()
        except BaseException:
            # The bridge is made again, which is better than a cluster that nobody watches.
            log.critical("nobody watches the cluster", exc_info=True)
            os._exit(1)

    def _say(self, why: str) -> str:
        with self._lock:
            if why != self._waits:
                self._waits = why
                self.events.put(Woken())
        return why

    def _see_machines(self) -> None:
        """Give new machines their slots, and take those of gone and drained ones away."""
        from ray._private.state import state

        draining = state.get_draining_nodes()
        alive = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        if self._here not in alive:
            # Then Ray has ended all that was ours, and begins nothing more for this driver.
            raise ConnectionError("this machine is no longer part of the cluster")
        staying = [node for name, node in alive.items() if name not in draining]
        on_cpu = self._cluster.settings.device == "cpu"
        gpus = {n["NodeID"]: 0 if on_cpu else int(n["Resources"].get("GPU", 0)) for n in staying}
        # Beside GPUs, a machine without one would only take images that the others make at once.
        on_cpus = 0 if any(gpus.values()) else self._cluster.cpu_slots
        with self._lock:
            for node in staying:
                here, count = node["NodeID"], gpus[node["NodeID"]]
                if any(place.node == here for place in self._places.values()):
                    continue
                for number in range(count or on_cpus):
                    self._add(node, number, count or on_cpus, is_gpu=bool(count))
            for place in list(self._places.values()):
                if place.node not in alive:
                    self._take_away(place, _GONE)
                elif place.node in draining or place.device == "cpu" and not on_cpus:
                    place.state, place.note = SlotState.DRAINED, "it is taken away after its image"
                    if place.order is None:
                        self._take_away(place, place.note)
            if not self._places:
                self._say(f"{self._cluster.name} has no machine with a free GPU or CPU")

    def _add(self, node: Mapping[str, Any], number: int, count: int, *, is_gpu: bool) -> None:
        host, device = node["NodeManagerHostname"], f"{'gpu' if is_gpu else 'cpu'}{number}"
        name = f"{host}/{device}"
        if name in self._places:
            name = f"{host}-{node['NodeID'][:6]}/{device}"
        shown = f"cuda:{number}" if is_gpu else "cpu"
        self._places[name] = place = _Place(name, node["NodeID"], host, shown, count)
        self._make(place)

    def _make(self, place: _Place) -> None:
        """Make the slot's actor; it is ready once it has answered."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        is_gpu = place.device != "cpu"
        device = "cuda" if is_gpu else "cpu"
        settings = replace(self._cluster.settings, device=device)
        work = (place.name, device, place.device, place.shared_by, settings)
        place.actor = self._worker.options(
            num_gpus=int(is_gpu),
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote(versions(), pickle.dumps(work))
        place.state, place.told = SlotState.STARTING, Slot("", False)
        self._ask(place)

    def _ask(self, place: _Place) -> None:
        place.ping, place.asked_at = place.control("ping"), monotonic()

    def _see(self, place: _Place) -> None:
        """Look for the answer of a slot to the last ping, and at how long it is silent."""
        if place.state == SlotState.LOST:
            if monotonic() > place.asked_at + min(60, 2**place.failures):
                self._make(place)
            return
        silent = monotonic() - max(place.asked_at, place.heard_at)
        if place.ping is None:
            if monotonic() > place.asked_at + _EVERY:
                self._ask(place)
        elif self._ray.wait([place.ping], timeout=0)[0]:
            try:
                told = self._ray.get(place.ping)
            except Exception as error:  # noqa: BLE001 whatever it is, this actor is of no use
                self._lose(place, *self._reason(place, error))
                return
            place.ping, place.heard_at, place.told = None, monotonic(), told
            if told.state == SlotState.LOST:
                self._lose(place, f"it cannot work: {told.note}", charged=False)
            elif place.state in (SlotState.STARTING, SlotState.SUSPECT):
                place.state, place.note = SlotState.READY, ""
                self.events.put(Woken())
        elif place.lives:
            loads = not place.told.models or place.order and place.order.phase == Phase.LOADING
            if silent > (_LOADING if loads else _LOST):
                self._lose(place, _SILENT, charged=False)
            elif silent > _SUSPECT and place.state == SlotState.READY:
                place.state, place.note = SlotState.SUSPECT, _SILENT
        elif silent > _LOST:
            place.note = place.note or "it waits for its machine, or for a GPU that others use"

    def _lose(self, place: _Place, why: str, charged: bool) -> None:
        """Give up a slot with what it has in hand; another actor takes its place, or will later."""
        if place.actor is None:
            return
        self._ray.kill(place.actor)
        order, lived = place.order, place.lives
        place.failures += not lived
        place.order = place.actor = place.ping = None
        place.state, place.note, place.asked_at = SlotState.LOST, why, monotonic()
        self._lock.notify_all()
        self.events.put(SlotLost(place.name, why, charged) if order else Woken())
        if lived and not self._closed and self._places.get(place.name) is place:
            self._make(place)

    def _take_away(self, place: _Place, why: str) -> None:
        del self._places[place.name]
        self._lose(place, why, charged=False)

    def _reason(self, place: _Place, error: Exception) -> tuple[str, bool]:
        """Why a slot was lost, and whether its images are charged: not where its machine was."""
        from ray.exceptions import ActorUnavailableError

        if isinstance(error, ActorUnavailableError):
            return _SILENT, False
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if not {place.node, self._here} <= alive:
            return _GONE, False
        return "its process ended", True


def of_cluster(cluster: Cluster, threads: Threads) -> Executor:
    """A cluster's executor behind a bridge, whose end charges no image."""
    return ProcessExecutor(
        RayExecutor, (cluster,), name="ray", events=SimpleQueue(), threads=threads, charged=False
    )


def _asked(actor: Any, method: str, *given: Any) -> Any:
    """A call of a method that is answered also while the actor renders."""
    return getattr(actor, method).options(concurrency_group="control").remote(*given)
