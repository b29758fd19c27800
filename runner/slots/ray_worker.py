"""One slot of a Ray cluster, on the machine that renders: a GPU thread, and the files it reads.

Ray makes a `RayWorker` in a process of its own. It imports nothing of Ray.
"""

import errno
import hashlib
import os
import pickle
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from time import time

from runner.engine.gpu_thread import GpuThread
from runner.engine.memory.machine import gpu_in_use
from runner.executor import Event, Progressed, Slot, SlotState
from runner.holds import LEAST_FREE_BYTES
from runner.settings import Home, Settings
from runner.slots.local import Place, thread_of
from runner.spool.disk.locks import gpu_lock
from runner.task import ImageTask

MOST_KEPT = 8 * 10**9
"""The bytes of inputs and LoRAs that a machine keeps, but for those asked for lately."""
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
        self._gpu: GpuThread
        self._refusal = _unequal(expected)
        if self._refusal:
            return
        slot, device, sharing, settings = pickle.loads(work)
        card = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]  # chosen by Ray
        shown = f"cuda:{card}" if device == "cuda" and card else device
        # Ray gives one thread to what asks for no CPU.
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // sharing))
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            self._open(Place(slot, shown, device), settings, sharing)
        except Exception as error:  # noqa: BLE001 the head shows the sentence beside the slot
            self._refusal = str(error) or type(error).__name__

    def _open(self, place: Place, settings: Settings, sharing: int) -> None:
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
        self._gpu = thread_of(home, place, sharing)

    def ping(self) -> Slot:
        """The state of the slot; LOST, with a sentence, where it cannot render."""
        if self._refusal:
            return Slot("", False, host=platform.node(), state=SlotState.LOST, note=self._refusal)
        return self._gpu.slots()[0]

    def render(self, number: int, tasks: Sequence[ImageTask]) -> Iterator[tuple[Event, Slot]]:
        """Render the tasks of a dispatch; every event comes with the state of the slot then."""
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
        if self._number == number:
            self._gpu.stop(self._slot)

    def prepare(self, upcoming: Sequence[ImageTask]) -> None:
        self._gpu.prepare(upcoming)

    def release(self) -> None:
        self._gpu.release()

    def has(self, name: str) -> bool:
        """Whether a file is here; it stays for an hour at least."""
        return self._files.has(name)

    def keep(self, name: str, part: bytes, at: int, size: int) -> None:
        """Take a part of a file that is not here, `at` so many bytes of its `size`."""
        self._files.keep(name, part, at, size)


class Files:
    """Files by the SHA-256 of their content, which is their name up to the dot.

    Those of several slots, and of several machines where they share the user's folder.
    """

    def __init__(self, folder: Path, most: int = MOST_KEPT) -> None:
        self._folder, self._most = folder, most
        self._mark = f"{platform.node()}-{uuid.uuid4().hex}"

    def found(self, task: ImageTask) -> ImageTask:
        """The task with paths of this machine."""
        return with_paths(task, self._path)

    def _path(self, name: Path) -> Path:
        if name.name != str(name):
            raise ValueError("a path is not the name of a file")
        return self._folder / name

    def has(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            os.utime(self._folder / name)
            return True
        return False

    def keep(self, name: str, part: bytes, at: int, size: int) -> None:
        """Write a part; the last one, or an empty one, gives the file its name.

        Raises OSError where there is no room, or it did not arrive whole.
        """
        aside = self._folder / f".{name}.{self._mark}"
        if not at:
            self._make_room(size)
        try:
            with aside.open("ab" if at else "wb") as file:
                file.write(part)
            if part and at + len(part) < size:
                return
            with aside.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != name.partition(".")[0]:
                    raise OSError("it did not arrive whole, or was changed")
            aside.replace(self._folder / name)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def _make_room(self, size: int) -> None:
        """Delete the files that were not asked for the longest. Raises OSError without room."""
        files = sorted(self._all())
        over = sum(each for _, each, _ in files) + size - self._most
        lacks = size + LEAST_FREE_BYTES - shutil.disk_usage(self._folder).free
        for asked, each, file in files:
            if max(over, lacks) <= 0 or asked > time() - _IN_USE:
                break
            file.unlink(missing_ok=True)
            over, lacks = over - each, lacks - each
        if lacks > 0 or size > self._most:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _all(self) -> Iterator[tuple[float, int, Path]]:
        """When each was last asked for, and its size."""
        for file in self._folder.iterdir():
            with suppress(FileNotFoundError):  # others make room, too
                status = file.stat()
                yield status.st_mtime, status.st_size, file


def with_paths(task: ImageTask, path_of: Callable[[Path], Path]) -> ImageTask:
    """The task with other paths for its files."""
    inputs = {
        field: tuple(replace(image, path=path_of(image.path)) for image in images)
        for field, images in task.inputs.items()
    }
    loras = tuple(replace(lora, path=path_of(lora.path)) for lora in task.loras)
    return replace(task, inputs=inputs, loras=loras)


def _unequal(expected: Mapping[str, str]) -> str:
    """Why a machine with these versions cannot work for a head with the `expected` ones, or ""."""
    here = versions()
    wrong = [
        f"{name} {here.get(name)} here and {wanted} on the head"
        for name, wanted in expected.items()
        if here.get(name) != wanted
    ]
    return f"{' and '.join(wrong)}: install the same" if wrong else ""
