"""Slots of a Ray cluster: two machines on this one, with all that can happen to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
import pytest
from PIL import Image

from runner.engine.entries import MODEL_REGISTRY
from runner.engine.gpu_thread import GpuThread
from runner.engine.registry import realise
from runner.engine.tiny import folders as tiny
from runner.executor import (
    Event,
    Failed,
    Progressed,
    Rendered,
    Slot,
    SlotLost,
    SlotState,
    StoppedEarly,
)
from runner.slots import ray_slots
from runner.slots.process import ProcessExecutor
from runner.slots.ray_cluster import QUIET, Cluster
from runner.slots.ray_slots import RayExecutor, of_cluster
from runner.task import ImageTask, InputImage, Lora
from runner.threads import Threads
from tests.engine.lora_files import tensors_for, written

if find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install -e '.[ray]'", allow_module_level=True)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]

_NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


class Machines:
    """Two Ray nodes on this machine, and the executor of their slots."""

    def __init__(self, executor: Any, cluster: Any) -> None:
        self.executor, self.cluster = executor, cluster
        self.events: list[Event] = []

    def slots(self) -> dict[str, Slot]:
        return {slot.name: slot for slot in self.executor.slots()}

    def notes(self) -> list[str]:
        return [slot.note for slot in self.slots().values()]

    def ready(self, count: int = 2, seconds: float = 40.0) -> list[str]:
        """The names of the slots, once so many of them take tasks."""
        self.until(lambda: sum(s.is_free for s in self.slots().values()) == count, seconds)
        return [slot.name for slot in self.slots().values() if slot.is_free]

    def until(self, holds: Callable[[], bool], seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, (self.slots(), self.events[-3:])
            try:
                self.events.append(self.executor.events.get(timeout=0.05))
            except Empty:
                continue

    def next(self, kind: type, seconds: float = 40.0) -> Any:
        """The next event of a kind."""
        self.events.clear()
        self.until(lambda: bool(self.events) and isinstance(self.events[-1], kind), seconds)
        return self.events[-1]

    def render(self, slot: str, task: ImageTask) -> Any:
        self.executor.start(slot, [task])
        return self.next(Rendered | StoppedEarly | SlotLost)  # type: ignore[arg-type]

    def node_of(self, slot: str) -> Any:
        """The node that a slot is on: its id is in the name of every slot but the first's."""
        others = "".join(name for name in self.slots() if name != slot)
        return next(
            node
            for node in self.cluster.list_all_nodes()
            if (node.node_id[:6] in slot) == ("-" in slot) and node.node_id[:6] not in others
        )

    def workers_of(self, slot: str) -> list[psutil.Process]:
        return [p for p in family(self.node_of(slot)) if "ray::RayWorker" in " ".join(p.cmdline())]


def family(node: Any) -> list[psutil.Process]:
    """The processes of a node's daemon."""
    (raylet,) = node.all_processes["raylet"]
    parent = psutil.Process(raylet.process.pid)
    return [parent, *parent.children(recursive=True)]


def a_task(number: int = 1, **fields: Any) -> ImageTask:
    size = fields.pop("size", 64)
    inputs = fields.pop("inputs", {})
    spec = {"kind": "text2img", "model": "tiny", "prompt": "a red circle", "seed": number}
    spec |= {"steps": 4, "width": size, "height": size} | fields
    return realise(spec, job="job", index=number, inputs=inputs)


def a_long_task(number: int = 1) -> ImageTask:
    return a_task(number, steps=100, size=512)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[GpuThread]:
    """What renders the same without Ray."""
    thread = GpuThread(tmp_path / "here", device="cpu")
    yield thread
    thread.close()


def made(here: GpuThread, task: ImageTask) -> Rendered:
    here.start("gpu0", [task])
    while not isinstance(event := here.events.get(timeout=50), Rendered):
        assert isinstance(event, Progressed), event
    return event


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        token = tmp_path_factory.mktemp("token") / "token"
        token.write_text("0" * 64, encoding="ascii")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        for name, value in QUIET.items():
            patch.setenv(name, value)
        # Here, for it reads its environment once.
        from ray.cluster_utils import Cluster as Nodes

        nodes = Nodes(initialize_head=True, head_node_args=_NODE)
        nodes.add_node(**_NODE)
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def settled(cluster: Any) -> Iterator[Machines]:
    executor = of_cluster(Cluster(cluster.address), Threads())
    yield Machines(executor, cluster)
    executor.close()


@pytest.fixture
def machines(settled: Machines) -> Machines:
    """The same two for every test, ready again after what the one before did to them."""
    settled.ready()
    settled.events.clear()
    return settled


def test_images_come_back_with_the_pixels_of_this_machine(
    machines: Machines, here: GpuThread
) -> None:
    for number, slot in enumerate(machines.ready() * 2):
        task = a_task(number)
        expected, answer = made(here, task), machines.render(slot, task)
        assert (answer.slot, answer.task) == (slot, task)
        assert answer.image.tobytes() == expected.image.tobytes()
        assert answer.facts == expected.facts
        assert machines.slots()[slot].models == ("tiny",)


def test_a_stop_takes_a_step_and_50_ms(machines: Machines) -> None:
    slot = machines.ready()[0]
    machines.executor.start(slot, [a_long_task()])
    machines.until(lambda: any(getattr(e, "step", 0) == 2 for e in machines.events))
    step = time.monotonic()
    machines.next(Progressed)
    step = time.monotonic() - step
    asked = time.monotonic()
    machines.executor.stop(slot)
    assert isinstance(machines.next(StoppedEarly), StoppedEarly)
    took = time.monotonic() - asked
    print(f"a step {step:.3f} s, the stop {took:.3f} s")
    assert took < 2 * step + 0.05


def test_a_stop_that_comes_with_the_start_is_obeyed(machines: Machines) -> None:
    slot = machines.ready()[0]
    for _ in range(5):
        machines.executor.start(slot, [a_long_task()])
        machines.executor.stop(slot)
        assert isinstance(machines.next(StoppedEarly | Rendered), StoppedEarly)  # type: ignore[arg-type]


def test_a_killed_worker_is_told_and_charged_and_the_slot_made_again(machines: Machines) -> None:
    slot = machines.ready()[0]
    machines.executor.start(slot, [a_long_task()])
    machines.next(Progressed)
    (worker,) = machines.workers_of(slot)
    killed = time.monotonic()
    worker.kill()
    lost = machines.next(SlotLost)
    print(f"told after {time.monotonic() - killed:.3f} s")
    assert (lost.slot, lost.charged) == (slot, True)
    machines.ready()
    assert isinstance(machines.render(slot, a_task()), Rendered)


def test_a_slot_that_hangs_is_abandoned(machines: Machines) -> None:
    slot = machines.ready()[0]
    machines.executor.start(slot, [a_long_task()])
    machines.next(Progressed)
    assert machines.executor.abandon(slot, "the image hung")
    assert machines.next(SlotLost) == SlotLost(slot, "the image hung", True)
    machines.ready()
    assert isinstance(machines.render(slot, a_task()), Rendered)


def test_a_killed_bridge_charges_nobody_and_is_made_again(machines: Machines) -> None:
    slots = machines.ready()
    for slot in slots:
        machines.executor.start(slot, [a_long_task()])
    machines.next(Progressed)
    me = psutil.Process()
    (bridge,) = [p for p in me.children() if "spawn_main" in " ".join(p.cmdline())]
    bridge.kill()
    lost = [machines.next(SlotLost) for _ in slots]
    assert sorted(each.slot for each in lost) == sorted(slots)
    assert not any(each.charged for each in lost)
    for slot in machines.ready():
        assert isinstance(machines.render(slot, a_task()), Rendered)


def test_a_frozen_machine_is_given_up_and_its_late_answer_not_heard(machines: Machines) -> None:
    frozen = next(slot for slot in machines.ready() if "-" in slot)
    (other,) = [slot for slot in machines.slots() if slot != frozen]
    task = a_task(5, steps=40, size=256)
    machines.executor.start(frozen, [task])
    machines.until(lambda: any(getattr(e, "step", 0) == 5 for e in machines.events))
    processes = family(machines.node_of(frozen))
    began = time.monotonic()
    for each in processes:
        each.suspend()
    try:
        machines.until(lambda: machines.slots()[frozen].state == SlotState.SUSPECT)
        lost = machines.next(SlotLost)
        print(f"given up after {time.monotonic() - began:.1f} s")
        assert lost == SlotLost(frozen, "its machine does not answer", charged=False)
        assert isinstance(machines.render(other, a_task()), Rendered)
    finally:
        for each in processes:
            each.resume()
    machines.events.clear()
    machines.ready()
    late = [event for event in machines.events if getattr(event, "task", None) == task]
    assert late == []
    assert isinstance(machines.render(frozen, task), Rendered)


def test_a_machine_comes_is_drained_and_goes(machines: Machines) -> None:
    before = set(machines.ready())
    node = machines.cluster.add_node(**_NODE)
    (slot,) = set(machines.ready(3)) - before
    machines.executor.start(slot, [a_task(1, steps=60, size=256)])
    machines.next(Progressed)
    drain(machines.cluster, node)
    machines.until(lambda: machines.slots()[slot].state == SlotState.DRAINED)
    assert isinstance(machines.next(Rendered | SlotLost), Rendered)  # type: ignore[arg-type]
    machines.until(lambda: set(machines.slots()) == before)
    machines.cluster.remove_node(node)


def drain(cluster: Any, node: Any) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + 600) * 1000)
    client = GcsClient(address=cluster.address)
    assert client.drain_node(node.node_id, reason, "taken away", deadline)[0]


@pytest.mark.parametrize("end", ["kill", "terminate", "terminate, its worker first"])
def test_a_machine_that_ends_charges_nobody(machines: Machines, end: str) -> None:
    before = set(machines.ready())
    node = machines.cluster.add_node(**_NODE)
    (slot,) = set(machines.ready(3)) - before
    machines.executor.start(slot, [a_long_task()])
    machines.next(Progressed)
    (raylet,) = node.all_processes["raylet"]
    how, _, first = end.partition(", ")
    for worker in machines.workers_of(slot) if first else ():
        worker.kill()
    getattr(raylet.process, how)()
    lost = machines.next(SlotLost)
    print(lost)
    assert (lost.slot, lost.charged) == (slot, False)
    machines.until(lambda: set(machines.slots()) == before)
    machines.cluster.remove_node(node)


def test_inputs_and_loras_go_out_once_and_are_found_by_their_content(
    machines: Machines, here: GpuThread, tmp_path: Path
) -> None:
    from diffusers import FluxTransformer2DModel

    picture, twin = tmp_path / "a.png", tmp_path / "b.png"
    Image.radial_gradient("L").convert("RGB").resize((64, 64)).save(picture)
    twin.write_bytes(picture.read_bytes())
    part = MODEL_REGISTRY["tiny"].serves["kontext"].part
    transformer = FluxTransformer2DModel.from_pretrained(
        tiny.folder(part, tmp_path), subfolder="transformer"
    )
    lora = written(tmp_path / "lora.safetensors", tensors_for(transformer))
    files = Path(os.environ["XDG_CACHE_HOME"]) / "fluxdrop" / "files"
    pictures, inodes = set(), set()
    for slot, path in zip(machines.ready() * 2, (picture, picture, twin, twin), strict=True):
        inputs = {"image": (InputImage(path),)}
        task = a_task(kind="kontext", inputs=inputs, width=None, height=None)
        task = replace(task, loras=(lora,))
        answer = machines.render(slot, task)
        assert isinstance(answer, Rendered) and answer.task == task
        pictures.add(answer.image.tobytes())
        inodes |= {(file.suffix, file.stat().st_ino) for file in files.iterdir()}
    assert sorted(suffix for suffix, _ in inodes) == [".png", ".safetensors"]
    assert pictures == {made(here, task).image.tobytes()}
    assert pictures != {made(here, replace(task, loras=())).image.tobytes()}


def test_a_file_that_is_too_large_for_a_machine_fails_its_image_and_ends_no_process(
    machines: Machines, tmp_path: Path
) -> None:
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(9 * 10**9)
    slot = machines.ready()[0]
    before = machines.workers_of(slot)
    task = replace(a_task(), loras=(Lora(tmp_path / "large.safetensors", sha256="0" * 64),))
    machines.executor.start(slot, [task])
    failed = machines.next(Failed | SlotLost)  # type: ignore[arg-type]
    assert isinstance(failed, Failed) and (failed.task, failed.reason) == (task, "DiskFull")
    assert failed.message.startswith("large.safetensors cannot be kept on ")
    assert isinstance(machines.render(slot, a_task()), Rendered)
    assert machines.workers_of(slot) == before


def of_another_version(cluster: Cluster) -> RayExecutor:
    ray_slots.versions = lambda: {"fluxdrop": "99.1", "Python": "3.99.9"}  # type: ignore[assignment]
    return RayExecutor(cluster)


def with_executor(make: Callable[..., Any], cluster: Cluster) -> Machines:
    executor = ProcessExecutor(
        make, (cluster,), name="ray", events=SimpleQueue(), threads=Threads(), charged=False
    )
    return Machines(executor, None)


def note_of(make: Callable[..., Any], cluster: Cluster) -> str:
    """What the slots that never come say instead."""
    machines = with_executor(make, cluster)
    try:
        machines.until(
            lambda: all(
                slot.note and "starting" not in slot.note for slot in machines.slots().values()
            )
        )
        (note,) = {slot.note for slot in machines.slots().values()}
        return note
    finally:
        machines.executor.close()


def test_a_machine_with_other_versions_is_refused(cluster: Any) -> None:
    note = note_of(of_another_version, Cluster(cluster.address))
    assert f"fluxdrop {version('fluxdrop')} here and 99.1 on the head and Python 3." in note


def test_a_wrong_token_is_refused(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("1" * 64, encoding="ascii")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    assert "token" in note_of(RayExecutor, Cluster(cluster.address))


WITHOUT_TOKEN = """
from ray.cluster_utils import Cluster
print(Cluster(initialize_head=True, head_node_args={"num_cpus": 1}).address, flush=True)
__import__("sys").stdin.read()
"""


def test_a_cluster_that_lets_anybody_in_is_refused_unless_the_settings_allow_it(
    cluster: Any,
) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TOKEN], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as open_one:  # fmt: skip
        assert open_one.stdout is not None and open_one.stdin is not None
        address = open_one.stdout.readline().strip()
        assert "lets anybody in" in note_of(RayExecutor, Cluster(address))
        machines = with_executor(RayExecutor, Cluster(address, token=False))
        assert isinstance(machines.render(*machines.ready(1), a_task()), Rendered)
        machines.executor.close()
        open_one.stdin.close()


def test_a_cluster_that_is_not_there_is_waited_for_with_a_sentence(cluster: Any) -> None:
    assert "127.0.0.1:9 does not answer" in note_of(RayExecutor, Cluster("127.0.0.1:9"))


def test_a_local_cluster_whose_daemon_was_killed_is_made_again_and_charges_nobody(
    cluster: Any, tmp_path: Path
) -> None:
    machines = with_executor(RayExecutor, Cluster(data=tmp_path))
    (slot,) = machines.ready(1)
    machines.executor.start(slot, [a_long_task()])
    machines.next(Progressed)
    (raylet,) = [p for p in psutil.Process().children(recursive=True) if is_own_raylet(p)]
    bridge = raylet.parent()
    assert bridge is not None and bridge.cwd() == str(tmp_path), "slots import from its folder"
    raylet.kill()
    lost = machines.next(SlotLost)
    assert (lost.slot, lost.charged) == (slot, False)
    assert isinstance(machines.render(*machines.ready(1), a_task()), Rendered)
    machines.executor.close()


def is_own_raylet(process: psutil.Process) -> bool:
    """Whether it was started by a bridge, and not by the tests."""
    bridge = process.parent()
    return process.name() == "raylet" and bridge is not None and bridge.pid != os.getpid()


def test_a_drain_on_a_local_cluster_makes_every_image_once(home: Path) -> None:
    spec = {"kind": "text2img", "model": "tiny", "prompt": "a red circle", "seed": 1, "count": 12}
    spec |= {"steps": 2, "width": 64, "height": 64}
    (home / "inbox" / "many.json").write_text(json.dumps(spec), encoding="utf-8")
    (home / "fluxdrop.yaml").write_text("ray: {cpu_slots: 2}\n", encoding="utf-8")
    command = [sys.executable, "-m", "runner", "drain", "--ray", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    sidecars = [*(home / "outbox" / "many").glob("many-*.json")]
    assert len(sidecars) == 12
    token = home / "data" / "ray-token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_doctor_names_the_machines_and_the_commands_for_another(cluster: Any, home: Path) -> None:
    (home / "fluxdrop.yaml").write_text(f"ray: '{cluster.address}'\n", encoding="utf-8")
    command = [sys.executable, "-m", "runner", "doctor", "--ray", "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{cluster.address} answers" in done.stdout and done.stdout.count(": 0 GPU") == 2
    assert "KillMode=mixed" in done.stdout
    assert "ray start --head" in done.stdout and "ray start --address=HOST:6379" in done.stdout
