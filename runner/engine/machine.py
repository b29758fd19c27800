"""What this machine offers the engine, for `doctor`: the device that would be used, and why.

Imports torch, so that what is said is what torch can really do; never allocates on a device.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """The device that jobs would run on; `remedy` is set where a better one is out of reach."""

    found: str
    remedy: str | None = None


def device(wanted: str) -> Device:
    """Which device the setting leads to on this machine, and what keeps a GPU from being used."""
    import torch

    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        size = f"{properties.total_memory / 1024**3:.1f} GiB"
        return Device(f"cuda: {properties.name}, {size}, torch {torch.__version__}")
    if wanted in ("auto", "mps") and torch.backends.mps.is_available():
        return Device(f"mps, torch {torch.__version__}")
    card = nvidia_card()
    found = f"cpu, torch {torch.__version__}"
    if card is None:
        if wanted in ("cuda", "mps"):
            remedy = f"no {wanted} device is here: set `device: auto` in fluxdrop.yaml"
            return Device(found, remedy)
        return Device(f"{found} (no GPU found: the built-in model runs, FLUX.1 would be very slow)")
    return Device(
        f"{found}; the {card} is there, but this torch cannot use it",
        "pip install --force-reinstall 'torch>=2.9,<2.14' --index-url "
        "https://download.pytorch.org/whl/cu130",
    )


def nvidia_card() -> str | None:
    """The name of the first NVIDIA card that the driver knows, whatever torch can do."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        listed = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return listed.splitlines()[0].strip() if listed.strip() else None


def gpu_in_use(wanted: str) -> str | None:
    """A name for the GPU that jobs would run on, the same for every home; None without one.

    Cheap enough for the start of a runner: neither torch nor the driver is asked.
    """
    present = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/gpus").is_dir()
    if wanted not in ("auto", "cuda") or not present:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return f"cuda-{re.sub(r'[^A-Za-z0-9-]', '', visible)}" if visible not in ("", "-1") else None
