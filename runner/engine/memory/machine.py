"""Queries this machine: its device, its free memory, and why a GPU cannot be used.

`measure` and `device` import torch, so that they report what torch can do. Querying the memory of a
GPU creates a context there (some hundred MB, until the process ends); nothing else is put on a
device.
"""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from itertools import takewhile
from pathlib import Path

from runner.engine.memory import devices
from runner.engine.memory.plans import Machine

_GIB = 2**30
_LISTED_BY_DRIVER = Path("/proc/driver/nvidia/gpus")
_KEPT_FREE = int(0.7 * _GIB)
"""GPU memory left for the desktop, and for the gaps between allocated blocks."""
_OLDEST_OF_CUDA_13 = (7, 5)
_DRIVER_OF_CUDA_13 = 580


@dataclass(frozen=True)
class Device:
    """The device that jobs would run on, described in `found`.

    `remedy` says what to do where the device of the setting, or a GPU here, cannot be used.
    """

    found: str
    remedy: str | None = None


@dataclass(frozen=True)
class Card:
    """An NVIDIA card as its driver reports it: name, compute capability, major driver version."""

    name: str
    capability: tuple[int, int] | None = None
    driver: int | None = None


def measure(wanted: str = "auto", gpu_memory_gb: float | None = None, sharing: int = 1) -> Machine:
    """The bytes that a plan may use now, of the device for the setting `wanted` and of the host.

    Memory that this process holds on the GPU counts as free, because it can be released.
    `gpu_memory_gb` (in GiB) bounds the memory that is used of the GPU; so many processes as are
    `sharing` the host's load models at the same time.
    """
    import torch

    device = devices.choose(wanted)
    ram = int(free_ram() * 0.9 / sharing)  # the rest stays free
    most = int(gpu_memory_gb * _GIB) if gpu_memory_gb else sys.maxsize
    if device.type not in ("cpu", devices.choose("auto").type):
        return Machine(device.type, 0, ram if device.type == "cuda" else 0)  # named, but not here
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        free, _ = torch.cuda.mem_get_info(device)
        usable = max(free + torch.cuda.memory_reserved(device) - _KEPT_FREE, 0)
        return Machine(
            "cuda",
            min(usable, most),
            ram,
            # AMD numbers its capabilities in another way, and fp8 is untested there.
            fp8=torch.version.hip is None and capability >= (8, 9),
            bitsandbytes=capability >= (6, 0) and _has_bitsandbytes(),
            int8=torch.version.hip is not None or capability >= (7, 5),
        )
    if device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        usable = min(free, ram, most)
        return Machine("mps", usable, usable, bitsandbytes=_has_bitsandbytes())
    return Machine("cpu", 0, ram)


def device(wanted: str) -> Device:
    """The device for a setting on this machine, and what to do where a GPU cannot be used."""
    import torch

    if wanted in ("auto", "cuda") and _cuda_is_available():
        return _cuda()
    if wanted in ("auto", "mps") and torch.backends.mps.is_available():
        shared = torch.mps.recommended_max_memory() / _GIB
        return Device(
            f"mps: Apple's GPU, {shared:.1f} GiB shared with the system, torch {torch.__version__}"
        )
    found = f"cpu, torch {torch.__version__}"
    card = nvidia_card() if wanted != "mps" else None
    if card is not None and wanted != "cpu":
        return Device(
            f"{found}; the {card.name} is there, but this torch cannot use it",
            unusable(card, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES")),
        )
    if wanted in ("cuda", "mps"):
        return Device(found, f"no {wanted} device is here: set `device: auto` in fluxdrop.yaml")
    if wanted == "auto" and has_amd_card() and torch.version.hip is None:
        remedy = f"{_install('rocm6.4')} (AMD's GPUs run through ROCm; we have none to try it on)"
        return Device(f"{found}; an AMD card is there, but this torch cannot use it", remedy)
    return Device(f"{found} (no GPU is used: the built-in model runs, others are very slow)")


def unusable(card: Card, built_for: str | None, visible: str | None) -> str:
    """What to do about a card that torch does not find.

    `built_for` is the CUDA version of this torch, None for a build without; `visible` is the value
    of CUDA_VISIBLE_DEVICES.
    """
    if built_for is None:
        old_driver = card.driver is not None and card.driver < _DRIVER_OF_CUDA_13
        old_card = card.capability is not None and card.capability < _OLDEST_OF_CUDA_13
        return _install("cu126" if old_driver or old_card else "cu130")
    if visible is not None and visible.strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides it: unset that variable"
    if card.driver is not None and built_for.startswith("13") and card.driver < _DRIVER_OF_CUDA_13:
        return (
            f"update the NVIDIA driver, {card.driver}, to {_DRIVER_OF_CUDA_13} or newer; or, for"
            f" cards older than the RTX 50 series: {_install('cu126')}"
        )
    return "see whether `nvidia-smi` works, and restart the machine after a driver update"


def runs_on(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether code compiled for these architectures runs on a card of this capability.

    `sm_86` runs on 8.6 and later of the same generation; `compute_90` is compiled again for any
    later one; `sm_90a` runs on 9.0 alone.
    """
    for name in architectures:
        if parts := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name):
            made_for = int(parts[2]), int(parts[3])
            same = parts[1] == "compute" or capability[0] == made_for[0]
            if capability == made_for or (same and capability > made_for and not parts[4]):
                return True
    return False


def nvidia_card() -> Card | None:
    """The first NVIDIA card that the driver reports, whether or not torch can use it."""
    for fields in ("name,compute_cap,driver_version", "name"):  # old drivers know fewer fields
        if listed := _nvidia_smi(f"--query-gpu={fields}", "--format=csv,noheader"):
            name, capability, driver, *_ = [*listed[0].split(","), "", ""]
            version = re.match(r"(\d+)\.(\d+)", capability.strip())
            number = re.match(r"\d+", driver.strip())
            return Card(
                name.strip(),
                (int(version[1]), int(version[2])) if version else None,
                int(number[0]) if number else None,
            )
    return None


def has_amd_card(drm: Path = Path("/sys/class/drm")) -> bool:
    """Whether Linux lists a graphics card of AMD."""
    return any(_read(file).strip() == "0x1002" for file in drm.glob("card*/device/vendor"))


def gpu_in_use(wanted: str) -> str | None:
    """A name for the GPU that jobs would run on, the same for every home; None without one.

    Cheap enough for the start of a runner: queries neither torch nor the driver.
    """
    present = shutil.which("nvidia-smi") is not None or _LISTED_BY_DRIVER.is_dir()
    if wanted not in ("auto", "cuda") or not present:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return lock_name(visible) if visible not in ("", "-1") else None


def lock_name(gpu: str) -> str:
    """The same for one that CUDA_VISIBLE_DEVICES names."""
    return f"cuda-{re.sub(r'[^A-Za-z0-9-]', '', gpu)}"


def gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; no torch."""
    listed = _nvidia_smi("-L")
    count = sum(line.startswith("GPU ") for line in listed)
    if not listed and _LISTED_BY_DRIVER.is_dir():
        count = len(os.listdir(_LISTED_BY_DRIVER))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not count:
        return [str(number) for number in range(count)]

    def is_there(name: str) -> bool:
        """Whether there is one of this number; a name that is none is taken for one."""
        return bool(name) and name != "-1" and not (name.isdecimal() and int(name) >= count)

    # As the driver reads them: up to the first that is not there.
    return list(takewhile(is_there, map(str.strip, visible.split(","))))


def cards(drm: Path = Path("/sys/class/drm")) -> list[str]:
    """Text that changes when the graphics cards do which this process may use; no torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    others = [_read(file).strip() for file in sorted(drm.glob("card*/device/device"))]
    return [*_nvidia_smi("-L"), visible, *others]


def free_ram() -> int:
    """The bytes of host memory that are free or can be freed at once, within the process limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    return min([free, *_left_in_groups()]) if sys.platform == "linux" else free


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> Iterator[int]:
    """The bytes left in each control group of this process that has a limit, as in a container."""
    groups = _read(Path("/proc/self/cgroup")) if own is None else own
    group = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), None)
    if group is None:
        return
    folder = root / group.strip("/")
    for level in (folder, *folder.parents):
        most, used = _read(level / "memory.max").strip(), _read(level / "memory.current").strip()
        if most.isdigit() and used.isdigit():
            cached = re.search(r"^inactive_file (\d+)$", _read(level / "memory.stat"), re.MULTILINE)
            yield max(int(most) - int(used) + (int(cached[1]) if cached else 0), 0)
        if level == root:
            return


def _cuda() -> Device:
    """The GPU that torch finds. On one that this torch is not compiled for, the first job fails."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    size = f"{properties.total_memory / _GIB:.1f} GiB"
    found = f"cuda: {properties.name}, {size}, torch {torch.__version__}"
    if torch.version.hip is not None:
        return Device(f"{found} on ROCm, which we have never tried")
    capability = torch.cuda.get_device_capability(0)
    if runs_on(capability, torch.cuda.get_arch_list()):
        return Device(found)
    return Device(
        f"{found}, which is not compiled for compute capability {capability[0]}.{capability[1]}",
        _install("cu126" if capability < _OLDEST_OF_CUDA_13 else "cu130"),
    )


def _install(build: str) -> str:
    return (
        f'"{sys.executable}" -m pip install --force-reinstall "torch>=2.9,<2.14" --index-url '
        f"https://download.pytorch.org/whl/{build}"
    )


def _has_bitsandbytes() -> bool:
    """Whether bitsandbytes has a library for this build of torch; does not import it."""
    import torch

    spec = PathFinder.find_spec("bitsandbytes")
    if spec is None or spec.origin is None:
        return False
    # As bitsandbytes names its libraries: cuda13, rocm; any of them serves Apple's GPU.
    build = "rocm" if torch.version.hip else ""
    if torch.version.cuda:
        build = f"cuda{torch.version.cuda.partition('.')[0]}"
    return any(Path(spec.origin).parent.glob(f"libbitsandbytes_{build}*"))


def _cuda_is_available() -> bool:
    """Whether torch can use CUDA; without its warning of an old driver, which `doctor` explains."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _nvidia_smi(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.strip().splitlines()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
