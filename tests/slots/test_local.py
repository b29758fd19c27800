"""The slots of this machine: which devices they have, whose locks they take, where they run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.engine.gpu_thread import GpuThread
from runner.engine.memory import machine
from runner.errors import RunnerBusy, UsageProblem
from runner.settings import Home, Settings, load_settings
from runner.slots.local import LocalSlots, Place, places
from runner.slots.process import ProcessExecutor
from runner.slots.several import Several
from runner.spool.disk.locks import gpu_lock
from tests.harness import ROOT, clean_environment
from tests.slots.conftest import ready

Cards = Callable[..., None]


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cards:
    """Gives this machine so many cards, and their locks a folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def give(count: int, visible: str | None = None) -> None:
        lines = [f"GPU {n}: NVIDIA H200 (UUID: GPU-{n})" for n in range(count)]
        monkeypatch.setattr(machine, "_nvidia_smi", lambda *asked: lines)
        monkeypatch.setattr(machine, "_LISTED_BY_DRIVER", tmp_path / "none")
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    give(0)
    return give


def named(settings: Settings) -> list[str]:
    return [place.name for place in places(settings)]


def visible(settings: Settings) -> list[str | None]:
    return [place.environment.get("CUDA_VISIBLE_DEVICES") for place in places(settings)]


@pytest.mark.parametrize(
    ("count", "before", "expected"),
    [
        (0, None, []),
        (2, None, ["0", "1"]),
        (4, "3,1", ["3", "1"]),
        (4, "GPU-1, MIG-7 ", ["GPU-1", "MIG-7"]),
        (2, "1,5,0", ["1"]),
        (2, "0,-1,1", ["0"]),
        (2, "", []),
        (0, "0", []),
    ],
)
def test_the_gpus_are_those_that_the_driver_and_the_environment_show(
    cards: Cards, count: int, before: str | None, expected: list[str]
) -> None:
    cards(count, before)
    assert machine.gpus() == expected


def test_without_the_drivers_program_its_folder_is_counted(
    cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_LISTED_BY_DRIVER", tmp_path / "gpus")
    assert machine.gpus() == []
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert machine.gpus() == ["0", "1"]


def test_auto_is_every_card_each_alone_in_its_process(cards: Cards) -> None:
    cards(3, "2,0")
    assert list(places(Settings(devices="auto"))) == [
        Place("cuda:0", "cuda:0", "cuda", "cuda-2", {"CUDA_VISIBLE_DEVICES": "2"}),
        Place("cuda:1", "cuda:1", "cuda", "cuda-0", {"CUDA_VISIBLE_DEVICES": "0"}),
    ]


def test_auto_without_a_card_is_the_one_slot_of_the_setting_device(cards: Cards) -> None:
    assert list(places(Settings(devices="auto"))) == list(places(Settings()))
    assert list(places(Settings(device="cpu"))) == [Place("cpu", "cpu", "cpu")]


def test_a_list_names_the_cards_and_those_that_are_not_here_are_refused(
    cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(2)
    wanted = Settings(devices=("cuda:1", "cpu"))
    assert (named(wanted), visible(wanted)) == (["cuda:1", "cpu"], ["1", None])
    for devices, why in (
        (("cuda:2",), "names cuda:2, and this machine has 2 GPUs"),
        (("cuda:0", "cuda:0"), "names cuda:0 twice"),
        (("mps", "mps"), "names mps, which only a Mac has"),
    ):
        with pytest.raises(UsageProblem, match=why):
            list(places(Settings(devices=devices)))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(UsageProblem, match="names mps twice"):
        list(places(Settings(devices=("mps", "mps"))))
    cards(0)
    with pytest.raises(UsageProblem, match="no NVIDIA GPU is here"):
        list(places(Settings(devices=("cuda:0",))))


def test_several_slots_on_the_cpu_share_its_cores_unless_the_user_has_shared_them(
    cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    one, two, three = places(Settings(devices=("cpu", "mps", "cpu")))
    assert [one.name, two.name, three.name] == ["cpu", "mps", "cpu-2"]
    assert one.environment == three.environment == {"OMP_NUM_THREADS": "4"}
    assert [*places(Settings(devices=("cpu",)))] == [Place("cpu", "cpu", "cpu")]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert not any(place.environment for place in places(Settings(devices=("cpu", "cpu"))))


def held(slots: LocalSlots) -> list[str]:
    return [place.name for place in slots._places]


def test_a_busy_card_is_left_out_where_all_are_asked_for_and_refused_where_it_is_named(
    cards: Cards, tmp_path: Path
) -> None:
    cards(2)
    other = gpu_lock("cuda-0")
    other.acquire()
    with pytest.raises(RunnerBusy, match="the GPU cuda-0 is in use"):
        LocalSlots(Home(tmp_path, Settings(devices=("cuda:1", "cuda:0")))).acquire()
    every = LocalSlots(Home(tmp_path, Settings(devices="auto")))
    every.acquire()
    assert held(every) == ["cuda:1"], "what was refused has left no lock behind"
    with pytest.raises(RunnerBusy, match="in use"):
        LocalSlots(Home(tmp_path, Settings(devices="auto"))).acquire()
    other.release()
    every.release()
    both = LocalSlots(Home(tmp_path, Settings(devices=("cuda:1", "cuda:0"))))
    both.acquire()
    assert held(both) == ["cuda:1", "cuda:0"]
    both.release()


def test_one_slot_alone_takes_the_first_card_that_is_free(cards: Cards, tmp_path: Path) -> None:
    cards(3)
    other = gpu_lock("cuda-0")
    other.acquire()
    slots = LocalSlots(Home(tmp_path, Settings(devices="auto", isolate=True)), alone=True)
    slots.acquire()
    assert held(slots) == ["cuda:1"]
    last = gpu_lock("cuda-2")
    last.acquire()
    for lock in (last, slots, other):
        lock.release()


@pytest.fixture
def executor_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    made: list[Any] = []

    def make(alone: bool = False, **settings: Any) -> Any:
        home = Home(tmp_path, Settings(**settings))
        home.prepare()
        slots = LocalSlots(home, alone=alone)
        slots.acquire()
        made.append(slots.executor(home))
        slots.release()
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_slot_is_a_thread_of_this_process_unless_it_is_isolated(
    cards: Cards, executor_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert isinstance(executor_of(device="cpu"), GpuThread)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    thread = executor_of(devices=("cuda:0",))
    assert isinstance(thread, GpuThread) and thread._pipelines._wanted_device == "cuda"
    (slot,) = thread.slots()
    assert (slot.name, slot.device) == ("gpu0", "cuda:0")
    assert isinstance(executor_of(devices=("cpu", "cpu"), alone=True), GpuThread)
    child = executor_of(device="cpu", isolate=True)
    assert isinstance(child, ProcessExecutor) and ready(child) == ["cpu"]


def test_more_than_one_are_processes_and_what_they_lack_is_told_at_once(
    cards: Cards, executor_of: Any
) -> None:
    with pytest.raises(UsageProblem, match="sageattention"):
        executor_of(devices=("cpu", "cpu"), attention="sage")
    several = executor_of(devices=("cpu", "cpu"))
    assert isinstance(several, Several) and ready(several, 2) == ["cpu", "cpu-2"]
    assert [slot.device for slot in several.slots()] == ["cpu", "cpu"]


LOOK = """
import json, multiprocessing, sys, threading
from pathlib import Path
from runner.daemon.daemon import Daemon
from runner.settings import Home, Settings
home = Home(Path(sys.argv[1]), Settings(device="cpu"))
home.prepare()
if sys.argv[2] == "thread":
    from runner.engine.gpu_thread import of_home
    executor = of_home(home)
else:
    from runner.slots.local import LocalSlots
    slots = LocalSlots(home)
    slots.acquire()
    executor = slots.executor(home)
threads = sorted(each.name for each in threading.enumerate())
children = len(multiprocessing.active_children())
print(json.dumps([type(executor).__name__, sorted(sys.modules), threads, children]))
executor.close()
"""


def test_without_the_settings_of_slots_a_runner_is_as_it_was(tmp_path: Path) -> None:
    def look(how: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(tmp_path), how], capture_output=True, check=True,
            cwd=ROOT, env=clean_environment(), timeout=50,
        )  # fmt: skip
        return json.loads(done.stdout)

    kind, modules, *rest = look("thread")
    kind_now, modules_now, *rest_now = look("slots")
    assert (kind_now, rest_now) == (kind, rest) == ("GpuThread", rest) and rest[1] == 0
    assert {*modules_now} - {*modules} == {"runner.slots", "runner.slots.local"}


@pytest.mark.parametrize("text", ["auto", "[cpu, cpu]", "[cuda:0, cuda:11, mps]"])
def test_devices_is_a_setting(tmp_path: Path, text: str) -> None:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text(f"devices: {text}\nisolate: true\n", encoding="utf-8")
    settings = load_settings(file)
    assert settings.isolate and settings.devices == (
        text if text == "auto" else tuple(text.strip("[]").split(", "))
    )


@pytest.mark.parametrize("text", ["cuda", "[]", "[cuda]", "[cuda:01]", "[auto]", "2"])
def test_what_is_no_device_is_a_mistake_in_the_settings(tmp_path: Path, text: str) -> None:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text(f"devices: {text}\n", encoding="utf-8")
    with pytest.raises(UsageProblem, match=r"fluxdrop.yaml:1:1?\d: devices"):
        load_settings(file)
