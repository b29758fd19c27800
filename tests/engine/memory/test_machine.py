"""What is measured and said of a machine: memory, cards, and what keeps torch from using one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from runner.engine.memory import machine
from runner.engine.memory.machine import Card

GIB = 2**30
CU126_ARCHITECTURES = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130_ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("card", "capability", "old_build", "new_build"),
    [
        ("GTX 1080", (6, 1), True, False),
        ("RTX 2080", (7, 5), True, True),
        ("RTX 3090", (8, 6), True, True),
        ("RTX 4080", (8, 9), True, True),
        ("H200", (9, 0), True, True),
        ("RTX 5090", (12, 0), False, True),
        ("one to come", (13, 0), False, True),
    ],
)
def test_a_card_runs_what_is_compiled_for_its_generation(
    card: str, capability: tuple[int, int], old_build: bool, new_build: bool
) -> None:
    assert machine.runs_on(capability, CU126_ARCHITECTURES) is old_build, card
    assert machine.runs_on(capability, CU130_ARCHITECTURES) is new_build, card


def test_code_for_one_exact_card_runs_on_no_other() -> None:
    assert machine.runs_on((9, 0), ["sm_90a"])
    assert not machine.runs_on((9, 1), ["sm_90a"])
    assert not machine.runs_on((8, 0), ["sm_86", "gfx1100"])


ADA, ADA_BEFORE = Card("RTX 4080", (8, 9), 580), Card("RTX 4080", (8, 9), 550)


@pytest.mark.parametrize(
    ("card", "built_for", "visible", "says"),
    [
        (ADA, None, None, "--index-url https://download.pytorch.org/whl/cu130"),
        (ADA_BEFORE, None, None, "whl/cu126"),
        (Card("GTX 1080", (6, 1), 580), None, None, "whl/cu126"),
        (Card("unknown"), None, None, "whl/cu130"),
        (ADA_BEFORE, "13.0", None, "update the NVIDIA driver, 550, to 580 or newer"),
        (ADA, "13.0", "", "CUDA_VISIBLE_DEVICES hides it"),
        (ADA, "13.0", "-1", "CUDA_VISIBLE_DEVICES hides it"),
        (ADA, "13.0", "0", "see whether `nvidia-smi` works"),
    ],
)
def test_what_to_do_about_a_card_that_torch_does_not_see(
    card: Card, built_for: str | None, visible: str | None, says: str
) -> None:
    assert says in machine.unusable(card, built_for, visible)


def driver(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real program in the place of `nvidia-smi`."""
    if sys.platform == "win32":
        pytest.skip("the stand-in for nvidia-smi is a shell script")
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'RTX 4080, 8.9, 580.95.05'", ADA),
        # A driver from before it knew these fields.
        ('case "$1" in *compute_cap*) exit 2;; *) echo "GTX 1080";; esac', Card("GTX 1080")),
        ("echo 'Tesla V100, [N/A], 535.1'", Card("Tesla V100", None, 535)),
        ("exit 9", None),
        ("true", None),
    ],
)
def test_the_first_card_that_the_driver_names(
    script: str, found: Card | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, script, monkeypatch)
    assert machine.nvidia_card() == found


def test_a_card_beside_a_torch_without_cuda_is_named_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    driver(tmp_path, "echo 'NVIDIA GeForce RTX 4080, 8.9, 580.95.05'", monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    device = machine.device("auto")
    assert "the NVIDIA GeForce RTX 4080 is there, but this torch cannot use it" in device.found
    assert device.remedy is not None and "-m pip install --force-reinstall" in device.remedy
    assert machine.device("cpu").remedy is None, "it was asked not to use it"


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], free: float) -> None:
    """torch's view of a card with 16 GiB, two of which this process holds."""
    import torch

    properties = SimpleNamespace(name="RTX", total_memory=16 * GIB)
    answers: dict[str, Any] = {
        "is_available": True,
        "get_device_capability": capability,
        "get_device_properties": properties,
        "get_arch_list": CU130_ARCHITECTURES,
        "mem_get_info": (int(free * GIB), 16 * GIB),
        "memory_reserved": 2 * GIB,
    }
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *given, answer=answer: answer)


def test_what_this_process_holds_of_a_gpu_counts_as_free_and_some_stays_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu(monkeypatch, (8, 9), free=13)
    measured = machine.measure("auto")
    assert measured.device == "cuda" and measured.vram / GIB == pytest.approx(14.3)
    assert measured.fp8 and measured.room == measured.vram
    assert machine.measure("auto", gpu_memory_gb=12).vram == 12 * GIB
    assert machine.measure("auto", gpu_memory_gb=24).vram == measured.vram


def test_a_full_gpu_has_nothing_to_give_and_not_less(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (8, 6), free=-2)
    measured = machine.measure("cuda")
    assert measured.vram == 0 and not measured.fp8


@pytest.mark.skipif(sys.platform == "darwin", reason="bitsandbytes is no dependency on macOS")
def test_bitsandbytes_counts_where_it_has_a_library_for_this_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    gpu(monkeypatch, (8, 6), free=14)
    assert machine.measure("cuda").bitsandbytes
    monkeypatch.setattr(torch.version, "cuda", "99.0")
    assert not machine.measure("cuda").bitsandbytes
    gpu(monkeypatch, (5, 2), free=14)
    assert not machine.measure("cuda").bitsandbytes, "it computes on cards of 6.0 and later"


def test_eight_bit_integers_are_multiplied_from_the_generation_of_the_rtx_20_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    for capability, able in (((7, 0), False), ((7, 5), True), ((12, 0), True)):
        gpu(monkeypatch, capability, free=14)
        assert machine.measure("cuda").int8 is able
    monkeypatch.setattr(torch.version, "hip", "6.4")
    gpu(monkeypatch, (7, 0), free=14)
    assert machine.measure("cuda").int8, "AMD counts in another way: it is tried when it is loaded"


def test_a_card_that_torch_is_not_compiled_for_is_told_before_the_first_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu(monkeypatch, (8, 9), free=14)
    assert machine.device("auto").remedy is None
    assert "RTX, 16.0 GiB" in machine.device("auto").found
    gpu(monkeypatch, (6, 1), free=14)
    device = machine.device("auto")
    assert "not compiled for compute capability 6.1" in device.found
    assert device.remedy is not None and device.remedy.endswith("/cu126")


def test_a_device_that_is_named_but_not_here_has_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.measure("cuda").room == 0
    device = machine.device("cuda")
    assert device.remedy is not None


def test_the_memory_of_this_host_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = machine.measure("cpu")
    assert measured.device == "cpu" and not measured.bitsandbytes
    assert 0 < measured.ram == measured.room < psutil.virtual_memory().total
    monkeypatch.setattr(machine, "free_ram", lambda: 10 * GIB)
    assert machine.measure("cpu").ram == 9 * GIB
    assert machine.measure("cpu", sharing=3).ram == 3 * GIB


@pytest.mark.parametrize(
    ("group", "limits", "left"),
    [
        ("0::/", {"": ("4000", "1500", 500)}, [3000]),
        ("0::/box/job", {"box/job": ("max", "10", 0), "box": ("100", "150", 0)}, [0]),
        ("0::/box", {"box": ("900", "100", 0), "": ("2000", "1000", 0)}, [800, 1000]),
        ("0::/", {}, []),
        ("12:memory:/old", {}, []),
    ],
)
def test_what_a_container_leaves_is_read_from_its_control_groups(
    group: str, limits: dict[str, tuple[str, str, int]], left: list[int], tmp_path: Path
) -> None:
    for name, (most, used, cached) in limits.items():
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{most}\n", encoding="utf-8")
        (folder / "memory.current").write_text(f"{used}\n", encoding="utf-8")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n", encoding="utf-8")
    assert list(machine._left_in_groups(tmp_path, group)) == left


@pytest.mark.parametrize(("vendor", "found"), [("0x1002", True), ("0x8086", False)])
def test_a_card_of_amd_is_known_by_its_vendor(vendor: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / "card0" / "device").mkdir(parents=True)
    (tmp_path / "card0" / "device" / "vendor").write_text(f"{vendor}\n", encoding="utf-8")
    assert machine.has_amd_card(tmp_path) is found
