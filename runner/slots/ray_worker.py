"""One slot of a Ray cluster, on the machine that renders: a GPU thread, and the files it reads.

Ray makes a `RayWorker` in a process of its own. It imports nothing of Ray.
"""

import hashlib
import os
import pickle
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from time import time

from runner.engine.gpu_thread import GpuThread
from runner.engine.memory.machine import gpu_in_use
from runner.executor import Event, Progressed, Slot, SlotState
from runner.settings import Home, Settings
from runner.slots.local import Place, thread_of
from runner.spool.disk.locks import gpu_lock
from runner.task import ImageTask

MOST_KEPT = 8 * 10**9
"""The bytes of inputs and LoRAs that a machine keeps."""
_IN_USE = 3600.0
"""For how many seconds a file that was asked for stays: an image may be about to read it."""


def versions() -> dict[str, str]:
    """What must be the same on every machine."""
    try:
        ours = metadata.version("fluxdrop")
    except metadata.PackageNotFoundError:
        ours = "of a checkout"
    return {"fluxdrop": ours, "Python": platform.python_version()}


class RayWorker:
    """Renders on one device; `control` calls are answered while `render` streams.

    Both arguments can be read by any other version: `work` is pickled, and opened once the
    versions were found to be equal. What keeps it from rendering is told by `ping`, not raised.
    """

    def __init__(self, expected: Mapping[str, str], work: bytes) -> None:
        self._number = self._stopped = 0
        self._gpu: GpuThread | None = None
        self._refusal = _unequal(expected)
        if self._refusal:
            return
        slot, device, shown, share, settings = pickle.loads(work)
        # Ray gives one thread to what asks for no CPU.
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // share))
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            self._open(Place(slot, shown, device), settings)
        except Exception as error:  # noqa: BLE001 the head shows the sentence beside the slot
            self._refusal = str(error) or type(error).__name__

    def _open(self, place: Place, settings: Settings) -> None:
        if gpu := gpu_in_use(place.device):
            # To the end of this process, as for a runner of this machine.
            self._lock = gpu_lock(gpu)
            self._lock.acquire()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fluxdrop")
        home = Home(cache, settings)
        for folder in (home.data, cache / "files"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files = Files(cache / "files")
        self._slot = place.name
        self._gpu = thread_of(home, place)

    def ping(self) -> Slot:
        """The state of the slot; LOST, with a sentence, where it cannot render."""
        if self._gpu is None:
            return Slot("", False, host=platform.node(), state=SlotState.LOST, note=self._refusal)
        return self._gpu.slots()[0]

    def render(self, number: int, tasks: Sequence[ImageTask]) -> Iterator[tuple[Event, Slot]]:
        """Render the tasks of a dispatch; every event comes with the state of the slot then."""
        assert self._gpu is not None
        self._gpu.start(self._slot, [self._files.found(task) for task in tasks])
        self._number = number
        if self._stopped == number:  # its stop overtook it
            self._gpu.stop(self._slot)
        left = len(tasks)
        while left:
            event = self._gpu.events.get()
            left -= not isinstance(event, Progressed)
            yield event, self._gpu.slots()[0]

    def stop(self, number: int) -> None:
        """Stop the tasks of a dispatch, also of one that comes later."""
        self._stopped = number
        if self._gpu is not None and self._number == number:
            self._gpu.stop(self._slot)

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        if self._gpu is not None:
            self._gpu.prepare(upcoming)

    def release(self) -> None:
        if self._gpu is not None:
            self._gpu.release()

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Those of the files that are not here."""
        return self._files.lacking(names)

    def keep(self, name: str, part: bytes, begins: bool, ends: bool) -> None:
        """Take the next part of a file that was lacking."""
        self._files.keep(name, part, begins, ends)


class Files:
    """Files by the SHA-256 of their content, which is their name up to the dot."""

    def __init__(self, folder: Path, most: int = MOST_KEPT) -> None:
        self._folder, self._most = folder, most

    def found(self, task: ImageTask) -> ImageTask:
        """The task with paths of this machine; a file that the head could not read has none."""
        place = self._folder
        inputs = {
            name: tuple(replace(each, path=place / each.path) for each in images)
            for name, images in task.inputs.items()
        }
        loras = tuple(replace(each, path=place / each.path) for each in task.loras)
        return replace(task, inputs=inputs, loras=loras)

    def lacking(self, names: Sequence[str]) -> list[str]:
        lacking = []
        for name in names:
            try:
                os.utime(self._folder / name)
            except FileNotFoundError:
                lacking.append(name)
        return lacking

    def keep(self, name: str, part: bytes, begins: bool, ends: bool) -> None:
        # With the process's number: two slots of one machine may be sent the same file at once.
        aside = self._folder / f".{name}.{os.getpid()}"
        with aside.open("wb" if begins else "ab") as file:
            file.write(part)
        if ends:
            with aside.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != name.partition(".")[0]:
                aside.unlink()
                raise OSError(f"{name} did not arrive whole")
            self._make_room()
            aside.replace(self._folder / name)

    def _make_room(self) -> None:
        """Delete the files that were not asked for the longest, beyond the bound."""
        files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self._all())
        over = sum(size for _, size, _ in files) - self._most
        for asked, size, file in files:
            if over <= 0 or asked > time() - _IN_USE:
                break
            file.unlink(missing_ok=True)
            over -= size

    def _all(self) -> Iterator[Path]:
        with os.scandir(self._folder) as entries:
            yield from (Path(entry.path) for entry in entries)


def _unequal(expected: Mapping[str, str]) -> str:
    """Why a machine with these versions cannot work for a head with the `expected` ones, or ""."""
    here = versions()
    wrong = [
        f"{name} {here.get(name)} here and {wanted} on the head"
        for name, wanted in expected.items()
        if here.get(name) != wanted
    ]
    return f"{' and '.join(wrong)}: install the same" if wrong else ""
