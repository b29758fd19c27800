"""An executor over a Ray cluster: one actor for each GPU, each around a GPU thread of its machine.

Runs in a bridge process of its own: Ray ends a driver whose head is gone, without an exception.
One thread watches the cluster and its slots, and one for each dispatch sends its files and hears
its events. What a slot that was given up says later is of a dispatch it no longer has: not heard.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import pickle
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from runner.clock import monotonic
from runner.errors import DiskFull, InputBad, JobFailed, UsageProblem
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
from runner.slots.ray_worker import RayWorker, versions, with_paths
from runner.task import ImageTask
from runner.threads import Threads

log = logging.getLogger(__name__)

_TICK, _EVERY = 0.25, 2.0
"""How often answers are looked for; how often slots are asked whether they live."""
_SUSPECT, _LOST, _LOADING = 4.0, 8.0, 60.0
"""After how many seconds of silence a slot is that; and how many a model that loads may take."""
_GROUPS = {"num_cpus": 0, "max_restarts": 0, "concurrency_groups": {"render": 1, "control": 4}}
_LIVES = {SlotState.READY, SlotState.SUSPECT, SlotState.DRAINED}
_GONE, _SILENT = "its machine is gone", "its machine does not answer"
_HANGS = "its process fell silent a third time with this image"
_DRAINED = "it is taken away after its image"
_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_PART = 8 * 1024**2
_CLOSING = 3.0
_ANSWER = 20.0
"""How many seconds the bridge may take to abandon a slot: it may be handing out prompts."""


@dataclass
class _Dispatch:
    """Tasks that a slot's actor has in hand, by job and index, under a number of their own."""

    actor: Any
    number: int
    tasks: dict[tuple[str, int], ImageTask]
    stopped: bool = False
    phase: Phase | None = None


@dataclass
class _ClusterSlot:
    """One slot: where it is, the actor that it is now, and what that said last."""

    name: str
    node: str
    host: str
    device: str
    """As its process sees it: "cuda" or "cpu"."""
    sharing: int
    """How many slots its machine has."""
    state: SlotState = SlotState.STARTING
    note: str = ""
    actor: Any = None
    ping: Any = None
    asked_at: float = 0.0
    heard_at: float = 0.0
    failures: int = 0
    """How often it was lost since the last answer."""
    told: Slot = field(default_factory=lambda: Slot("", False))
    dispatch: _Dispatch | None = None


class RayExecutor:
    """An `Executor` with a slot for each GPU of a cluster, or for each machine of one without."""

    def __init__(self, cluster: Cluster) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._cluster = cluster
        self._ray: Any = None
        self._worker: Any = None
        self._here = ""
        self._slots: dict[str, _ClusterSlot] = {}
        self._numbers = itertools.count(1)
        self._silences: Counter[tuple[str, int]] = Counter()
        """How often slots fell silent with an image, until it is answered."""
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
            if not self._slots:
                return (Slot("ray", False, state=SlotState.STARTING, note=self._waits),)
            return tuple(
                replace(
                    slot.told, name=slot.name, busy=slot.dispatch is not None, host=slot.host,
                    state=slot.state, note=slot.note,
                )
                for slot in self._slots.values()
            )  # fmt: skip

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        """Announce prompts to every slot: each machine keeps embeddings of its own."""
        # A LoRA may be about the text encoder, and is not there before its image is.
        bare = [replace(task, inputs={}) for task in upcoming if not task.loras]
        if self._ray is not None:
            # Once for all, and before the lock is taken.
            self._tell_all("prepare", self._ray.put(bare))

    def start(self, slot: str, tasks: Sequence[ImageTask]) -> None:
        with self._lock:
            found = self._slots.get(slot)
            if found is None or found.dispatch or self._closed or found.state != SlotState.READY:
                raise ValueError(f"slot {slot} cannot start a task now")
            named = {(task.job, task.index): task for task in tasks}
            found.dispatch = _Dispatch(found.actor, next(self._numbers), named)
            work = found, found.dispatch
        threading.Thread(target=self._render, args=work, name=slot, daemon=True).start()

    def stop(self, slot: str) -> None:
        with self._lock:
            found = self._slots.get(slot)
            if found is not None and found.dispatch is not None:
                found.dispatch.stopped = True
                _asked(found.actor, "stop", found.dispatch.number)

    def abandon(self, slot: str, why: str) -> bool:
        with self._lock:
            found = self._slots.get(slot)
            if found is not None and found.dispatch is not None:
                self._lose(found, why, charged=True)
        return True

    def release(self) -> None:
        self._tell_all("release")

    def close(self) -> None:
        """Stop, hear the answers for some seconds, and end the actors, and a local cluster."""
        with self._lock:
            self._closed = True
            for name in self._slots:
                self.stop(name)
            self._lock.wait_for(lambda: not any(s.dispatch for s in self._slots.values()), _CLOSING)
            for slot in self._slots.values():
                self._lose(slot, "the runner ends", charged=False)
            self._lock.notify_all()
        self._watcher.join()

    def _tell_all(self, method: str, *given: Any) -> None:
        with self._lock:
            for slot in self._slots.values():
                if slot.state == SlotState.READY:
                    _asked(slot.actor, method, *given)

    # -- one dispatch ----------------------------------------------------------------------------

    def _render(self, slot: _ClusterSlot, dispatch: _Dispatch) -> None:
        """Send the files and the tasks of a dispatch, and hear its events to the last answer."""
        try:
            tasks = []
            for task in dispatch.tasks.copy().values():
                try:
                    tasks.append(self._placed(task, slot, dispatch))
                except JobFailed as error:
                    failed = Failed(slot.name, task, error.reason, str(error))
                    self._hear(slot, dispatch, failed, slot.told)
            if dispatch.stopped:
                for task in tasks:
                    self._hear(slot, dispatch, StoppedEarly(slot.name, task), slot.told)
            elif tasks:
                how = {"num_returns": "streaming", "concurrency_group": "render"}
                render = dispatch.actor.render.options(**how)
                for answer in render.remote(dispatch.number, tasks):
                    self._hear(slot, dispatch, *self._ray.get(answer))
        except Exception as error:
            died = isinstance(error, self._ray.exceptions.ActorDiedError)
            with self._lock:
                if died:
                    # The processes of a machine that goes end first: is it seen to go soon?
                    self._lock.wait_for(lambda: slot.dispatch is not dispatch, 2 * _EVERY)
                if slot.dispatch is dispatch:
                    log.info("%s was lost", slot.name, exc_info=error)
                    self._lose(slot, self._why(error), charged=died)

    def _why(self, error: Exception) -> str:
        """Why a slot was lost, as part of a sentence."""
        if isinstance(error, self._ray.exceptions.ActorDiedError):
            lines = str(error).strip().splitlines()
            # What an `import` raised, for one, where Ray's Python has not our packages.
            failed = any("creation task" in line or "failed to import" in line for line in lines)
            return f"it cannot start: {lines[-1].strip()}" if failed else "its process ended"
        if isinstance(error, self._ray.exceptions.ActorUnavailableError):
            return _SILENT
        cause = getattr(error, "cause", None) or error
        return " ".join([f"{type(cause).__name__}:", *str(cause).strip().splitlines()[:1]])

    def _hear(self, slot: _ClusterSlot, dispatch: _Dispatch, event: Any, told: Slot) -> None:
        """Pass on an event of the dispatch that the slot has, with the task as it was given."""
        key = (event.task.job, event.task.index)
        with self._lock:
            if slot.dispatch is not dispatch:
                return
            slot.told, slot.heard_at = told, monotonic()
            if isinstance(event, Failed) and event.reason == "DeviceLost":
                # Only another process can use the device again.
                self._lose(slot, "the GPU was lost", charged=True)
                return
            task = dispatch.tasks[key]
            if isinstance(event, Progressed):
                dispatch.phase = event.phase
            else:
                del dispatch.tasks[key]
                self._silences.pop(key, None)
                slot.failures = 0
                if not dispatch.tasks:  # the slot is free before its answer can be read
                    slot.dispatch = None
                    self._lock.notify_all()
            self.events.put(replace(event, slot=slot.name, task=task))

    def _placed(self, task: ImageTask, slot: _ClusterSlot, dispatch: _Dispatch) -> ImageTask:
        """The task with names of files for paths; those that its machine lacks are sent.

        Raises InputBad or DiskFull where one cannot be read, sent or kept.
        """
        hashes = {image.path: "" for images in task.inputs.values() for image in images}
        hashes |= {lora.path: lora.sha256 for lora in task.loras}
        names: dict[Path, Path] = {}
        for path, sha256 in hashes.items():
            try:
                names[path] = name = Path((sha256 or _hash_of(path)) + path.suffix)
                if not self._ray.get(_asked(dispatch.actor, "has", str(name))):
                    self._send(str(name), path, dispatch)
            except OSError as error:
                raise _unsent(path, slot.host, error) from error
        return with_paths(task, names.__getitem__)

    def _send(self, name: str, path: Path, dispatch: _Dispatch) -> None:
        with path.open("rb") as file:
            size, at, part = os.fstat(file.fileno()).st_size, 0, file.read(_PART)
            while not dispatch.stopped:
                self._ray.get(_asked(dispatch.actor, "keep", name, part, at, size))
                at += len(part)
                if at >= size or not part:
                    return
                part = file.read(_PART)

    # -- the cluster -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Join the cluster, keep a slot on each of its GPUs, and ask them whether they live."""
        try:
            # Ray has workers import from the folder that its driver is in.
            os.chdir(self._cluster.data)
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
                    for slot in list(self._slots.values()):
                        self._see(slot)
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
        try:
            draining = self._ray._private.state.state.get_draining_nodes()
        except AttributeError:  # it is no public interface of Ray
            draining = {}
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
                if any(slot.node == here for slot in self._slots.values()):
                    continue
                for number in range(count or on_cpus):
                    self._add(node, number, count or on_cpus, "cuda" if count else "cpu")
            for slot in list(self._slots.values()):
                drains = slot.node in draining or slot.device == "cpu" and not on_cpus
                if slot.node not in alive:
                    self._take_away(slot, _GONE)
                elif drains and slot.dispatch is None:
                    self._take_away(slot, _DRAINED)
                elif drains:
                    slot.state, slot.note = SlotState.DRAINED, _DRAINED
                elif slot.state == SlotState.DRAINED:  # the GPU beside it has left again
                    slot.state, slot.note = SlotState.READY, ""
                    self.events.put(Woken())
            if not self._slots:
                self._say(f"{self._cluster.name} has no machine with a free GPU or CPU")

    def _add(self, node: Mapping[str, Any], number: int, sharing: int, device: str) -> None:
        host, part = node["NodeManagerHostname"], f"{device.replace('cuda', 'gpu')}{number}"
        name = f"{host}/{part}"
        if name in self._slots:
            name = f"{host}-{node['NodeID'][:6]}/{part}"
        self._slots[name] = slot = _ClusterSlot(name, node["NodeID"], host, device, sharing)
        self._make(slot)

    def _make(self, slot: _ClusterSlot) -> None:
        """Make the slot's actor; it is ready once it has answered."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        own = self._cluster.settings
        settings = replace(own, device=slot.device, receivers={}, on={})
        slot.actor = self._worker.options(
            num_gpus=int(slot.device == "cuda"),
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        ).remote(versions(), pickle.dumps((slot.name, slot.device, slot.sharing, settings)))
        slot.state, slot.told = SlotState.STARTING, Slot("", False, device=slot.device)
        self._ask(slot)

    def _ask(self, slot: _ClusterSlot) -> None:
        slot.ping, slot.asked_at = _asked(slot.actor, "ping"), monotonic()

    def _see(self, slot: _ClusterSlot) -> None:
        """Look for the answer of a slot to the last ping, and at how long it is silent."""
        if slot.state == SlotState.LOST:
            if monotonic() > slot.asked_at + min(60, 2**slot.failures):
                self._make(slot)
            return
        if slot.ping is None:
            if monotonic() > slot.asked_at + _EVERY:
                self._ask(slot)
            return
        told = None
        if self._ray.wait([slot.ping], timeout=0)[0]:
            try:
                told = self._ray.get(slot.ping)
            except Exception as error:  # noqa: BLE001 whatever it is, this actor is of no use
                # A dispatch hears of it itself, and finds out who is charged.
                if slot.dispatch is None:
                    self._lose(slot, self._why(error), charged=False)
                    return
        silent = monotonic() - max(slot.asked_at, slot.heard_at)
        if told is not None and told.state == SlotState.LOST:
            self._lose(slot, f"it cannot work: {told.note}", charged=False)
        elif told is not None:
            slot.ping, slot.heard_at, slot.told = None, monotonic(), told
            if slot.state in (SlotState.STARTING, SlotState.SUSPECT):
                slot.state, slot.note = SlotState.READY, ""
                self.events.put(Woken())
        elif slot.state in _LIVES:
            loads = not slot.told.models or slot.dispatch and slot.dispatch.phase == Phase.LOADING
            if silent > (_LOADING if loads else _LOST):
                self._give_up(slot)
            elif silent > _SUSPECT and slot.state == SlotState.READY:
                slot.state, slot.note = SlotState.SUSPECT, _SILENT
        elif silent > _LOST:
            slot.note = slot.note or "it waits for its machine, or for a GPU that others use"

    def _give_up(self, slot: _ClusterSlot) -> None:
        """Lose a silent slot: by its machine, or by its image the third time in a row."""
        tasks = slot.dispatch.tasks if slot.dispatch else {}
        self._silences.update(list(tasks))
        hangs = any(self._silences[each] > 2 for each in tasks)
        self._lose(slot, _HANGS if hangs else _SILENT, charged=hangs)

    def _lose(self, slot: _ClusterSlot, why: str, charged: bool) -> None:
        """Give up a slot with what it has in hand; another actor takes its place, or will later."""
        if slot.actor is None:
            return
        self._ray.kill(slot.actor)
        dispatch, lived = slot.dispatch, slot.state in _LIVES
        slot.failures += 1
        slot.dispatch = slot.actor = slot.ping = None
        slot.state, slot.note, slot.asked_at = SlotState.LOST, why, monotonic()
        self._lock.notify_all()
        self.events.put(SlotLost(slot.name, why, charged) if dispatch else Woken())
        is_first = lived and slot.failures == 1
        if is_first and not self._closed and self._slots.get(slot.name) is slot:
            self._make(slot)

    def _take_away(self, slot: _ClusterSlot, why: str) -> None:
        del self._slots[slot.name]
        self._lose(slot, why, charged=False)


def of_cluster(cluster: Cluster, threads: Threads) -> Executor:
    """A cluster's executor behind a bridge, whose end charges no image."""
    return ProcessExecutor(
        RayExecutor, (cluster,), name="ray", events=SimpleQueue(), threads=threads, charged=False,
        answer_seconds=_ANSWER,
    )  # fmt: skip


def _asked(actor: Any, method: str, *given: Any) -> Any:
    """A call of a method that is answered also while the actor renders."""
    return getattr(actor, method).options(concurrency_group="control").remote(*given)


def _hash_of(path: Path) -> str:
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1000)
def _sha256(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unsent(path: Path, host: str, error: OSError) -> JobFailed:
    """Why an image has no file, from an error of this machine, or one that Ray brought."""
    far = getattr(error, "cause", None)
    if far is None:
        return InputBad(f"{path.name} cannot be read: {error.strerror or error}")
    kind = DiskFull if far.errno in _NO_ROOM else InputBad
    return kind(f"{path.name} cannot be kept on {host}: {far.strerror or far}")
