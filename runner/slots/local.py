"""The slots of this machine: one for each card that the settings name, and the locks of the cards.

One slot is a thread of this process, unless the settings isolate it; of more, each has a process of
its own that sees its card alone, because threads for several cards stall each other.
"""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

from runner import exit_codes
from runner.engine.gpu_thread import GpuThread, of_home
from runner.engine.memory import machine
from runner.engine.speed import Speed
from runner.errors import RunnerBusy, UsageProblem
from runner.executor import Event, Executor
from runner.settings import Home, Settings
from runner.spool.disk.locks import gpu_lock
from runner.threads import Threads


@dataclass(frozen=True)
class Place:
    """Where a slot renders: its name, its device as a setting has it, and as its process sees it.

    `gpu` is the name of the card that it must not share.
    """

    name: str
    shown: str
    device: str
    gpu: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


class LocalSlots:
    """The slots that a home's settings ask for; a lock of their cards, to be taken first.

    With `alone` only the first of them, in this process. Raises UsageProblem where the settings
    name a card that is not here.
    """

    def __init__(self, home: Home, *, alone: bool = False) -> None:
        self._places = list(places(home.settings))
        self._is_choosy = home.settings.devices != "auto"
        self._alone = alone
        self._in_process = alone or not home.settings.isolate
        self._held = ExitStack()

    def acquire(self) -> None:
        """Lock the cards, and leave out those in use where the settings do not name them.

        Raises RunnerBusy where one that is named, or every one, is in use.
        """
        free: list[Place] = []
        busy: RunnerBusy | None = None
        with ExitStack() as undo:
            for place in self._places:
                if free and self._alone:
                    break
                try:
                    if place.gpu is not None:
                        lock = gpu_lock(place.gpu)
                        lock.acquire()
                        undo.callback(lock.release)
                    free.append(place)
                except RunnerBusy as error:
                    if self._is_choosy:
                        raise
                    busy = error
            if busy is not None and not free:
                raise busy
            self._held = undo.pop_all()
        self._places = free

    def release(self) -> None:
        self._held.close()

    def executor(self, home: Home) -> Executor:
        """The executor of the slots. Raises UsageProblem where this installation lacks a part."""
        if len(self._places) == 1 and self._in_process:
            (place,) = self._places
            os.environ.update(place.environment)
            return of_home(home, device=place.device, shown=place.shown)
        from runner.slots.process import ProcessExecutor
        from runner.slots.several import Several

        Speed.of(home.settings).check()
        events: SimpleQueue[Event] = SimpleQueue()
        children = [
            ProcessExecutor(
                thread_of, (home, place, len(self._places)), name=place.name, events=events,
                threads=home.threads, environment=place.environment,
            )
            for place in self._places
        ]  # fmt: skip
        return children[0] if len(children) == 1 else Several(children, events)


def thread_of(home: Home, place: Place, sharing: int = 1) -> GpuThread:
    """The GPU thread of a place, in a process that ends if one of its threads does.

    So many places are `sharing` the memory of this machine.
    """
    threads = Threads(lambda: os._exit(exit_codes.BROKEN))
    home = replace(home, threads=threads)

    def tick() -> None:
        while True:
            threads.awake.tick()
            time.sleep(1.0)

    threads.start("clock", tick)
    return of_home(home, slot=place.name, device=place.device, shown=place.shown, sharing=sharing)


def places(settings: Settings) -> Iterator[Place]:
    """Where the settings ask for a slot. Raises UsageProblem for a card that is not here."""
    wanted, only = settings.devices, settings.device
    here = machine.gpus() if wanted is not None else []
    if wanted is None or (wanted == "auto" and not here):
        yield Place("gpu" if only == "auto" else only, only, only, machine.gpu_in_use(only))
        return
    # Counted by the driver: torch is not imported in this process.
    names = [f"cuda:{n}" for n in range(len(here))] if wanted == "auto" else list(wanted)
    threads = {}
    if (count := names.count("cpu")) > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // count, 1))
    for n, name in enumerate(names):
        before = names[:n].count(name)
        if name == "cpu":
            yield Place(f"cpu-{before + 1}" if before else "cpu", "cpu", "cpu", None, threads)
            continue
        if before:
            raise UsageProblem(f"the setting `devices` names {name} twice: it has one slot")
        if name == "mps":
            if platform.system() != "Darwin":
                raise UsageProblem("the setting `devices` names mps, which only a Mac has")
            yield Place("mps", "mps", "mps")
            continue
        number = int(name.removeprefix("cuda:"))
        if number >= len(here):
            raise UsageProblem(
                f"the setting `devices` names {name}, and "
                + (f"this machine has {len(here)} GPUs" if here else "no NVIDIA GPU is here")
            )
        visible = {"CUDA_VISIBLE_DEVICES": here[number]}
        yield Place(name, name, "cuda", machine.lock_name(here[number]), visible)
