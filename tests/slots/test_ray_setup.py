"""What of Ray needs no Ray: the setting, what is refused, a machine's files and versions."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from runner.cli import main
from runner.errors import UsageProblem
from runner.executor import Failed, Rendered, Slot, SlotLost, SlotState, StoppedEarly, Woken
from runner.settings import Home, Settings, load_settings
from runner.slots import ray_cluster, ray_slots, ray_worker
from runner.slots.ray_cluster import Cluster, cluster_of, token_place
from runner.slots.ray_slots import RayExecutor, _ClusterSlot, _Dispatch, of_cluster
from runner.slots.ray_worker import Files, RayWorker, versions
from runner.task import ImageTask, InputImage, Lora
from runner.threads import Threads
from tests.harness import eventually


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray is taken for installed, and the user has no token."""
    monkeypatch.setattr(ray_cluster, "require_ray", lambda: None)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))


def settings_of(folder: Path, text: str) -> Any:
    file = folder / "fluxdrop.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file)


@pytest.mark.usefixtures("installed")
def test_a_cluster_is_named_by_the_option_else_by_the_setting_else_it_is_local(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("0" * 64, encoding="ascii")
    bare = Home(tmp_path)
    settled = Home(tmp_path, settings_of(tmp_path, "ray: {address: 'a:1', cpu_slots: 3}"))
    short = Home(tmp_path, settings_of(tmp_path, "ray: 192.0.2.7:6379"))
    assert cluster_of(bare).address == cluster_of(bare, "").address == "local"
    assert cluster_of(short).address == "192.0.2.7:6379"
    assert (cluster_of(settled, "").address, cluster_of(settled, "b:2").address) == ("a:1", "b:2")
    assert cluster_of(settled, "b:2").cpu_slots == 3


@pytest.mark.parametrize("address", ["ray://a:1", "a", "a:", "a b:1", "auto", "http://a:1"])
def test_an_address_that_cannot_be_one_is_a_mistake_in_the_settings(
    tmp_path: Path, address: str
) -> None:
    with pytest.raises(UsageProblem, match="ray"):
        settings_of(tmp_path, f"ray: {{address: '{address}'}}")


@pytest.mark.usefixtures("installed")
def test_a_cluster_that_runs_needs_a_token_unless_the_settings_do_without(tmp_path: Path) -> None:
    assert token_place() is None
    with pytest.raises(UsageProblem, match="needs a token"):
        cluster_of(Home(tmp_path), "a:1")
    without = settings_of(tmp_path, "ray: {token: false}")
    assert not cluster_of(Home(tmp_path, without), "a:1").token
    for home in (Home(tmp_path), Home(tmp_path, without)):
        assert cluster_of(home, "local").token, "a local one makes its own"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("address", ["myhost", "auto", "a b:1", "a:123456", "ray://a:1"])
def test_an_option_that_is_no_address_is_wrong_usage(
    home: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drain", "--one-process", f"--ray={address}", "--home", str(home)]) == 2
    assert f"{address!r} is no address of a Ray cluster: write `local`, or host:port" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("address", ["127.0.0.1:99999", f"{'a' * 80}.example:1"])
def test_a_port_or_a_name_that_none_can_have_does_not_answer(address: str) -> None:
    with pytest.raises(UsageProblem, match="does not answer"):
        ray_cluster._look_before(Cluster(address))


def test_no_module_of_the_current_folder_is_run_while_a_cluster_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text("open('was run', 'x')", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    assert ray_cluster._ask("127.0.0.1:9", {}) == (False, False)
    assert not (tmp_path / "was run").exists()


@pytest.mark.usefixtures("installed")
def test_an_empty_file_is_no_token_and_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch()
    assert token_place() is None
    ray_cluster._own_token(file)
    assert token_place() == str(file) and list(tmp_path.iterdir()) == [file]


def test_without_the_package_one_sentence_says_how_to_install_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    assert main(["drain", "--one-process", "--ray", "--home", str(home)]) == 2
    assert "Ray is not installed: pip install 'fluxdrop[ray]'" in capsys.readouterr().err
    assert main(["doctor", "--ray", "--home", str(home)]) == 1
    assert "pip install 'fluxdrop[ray]'" in capsys.readouterr().out


def test_the_token_of_a_local_cluster_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    file = ray_cluster._own_token(tmp_path / "token")
    token = file.read_text(encoding="ascii")
    assert len(token) == 64
    if os.name != "nt":
        assert file.stat().st_mode & 0o777 == 0o600
    assert ray_cluster._own_token(file).read_text(encoding="ascii") == token


def test_a_worker_of_other_versions_says_which_and_opens_nothing(tmp_path: Path) -> None:
    worker = RayWorker(versions() | {"fluxdrop": "99.1"}, b"cannot be read by this version")
    told = worker.ping()
    assert told.state == SlotState.LOST
    assert told.note.endswith("here and 99.1 on the head: install the same")


def kept(files: Files, content: bytes, ending: str = ".png") -> str:
    name = hashlib.sha256(content).hexdigest() + ending
    files.keep(name, content[:2], 0, len(content))
    files.keep(name, content[2:], 2, len(content))
    return name


def test_files_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    files = Files(tmp_path)
    name = kept(files, b"a picture")
    other = "0" * 64 + ".png"
    assert (files.has(name), files.has(other)) == (True, False)
    with pytest.raises(OSError, match="did not arrive whole"):
        files.keep(other, b"another picture", 0, 15)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"a picture"


def test_a_file_that_became_shorter_while_it_was_sent_did_not_arrive_whole(tmp_path: Path) -> None:
    files, name = Files(tmp_path), "0" * 64 + ".png"
    files.keep(name, b"half", 0, 8)
    with pytest.raises(OSError, match="did not arrive whole"):
        files.keep(name, b"", 4, 8)
    assert list(tmp_path.iterdir()) == []


def old(folder: Path, names: list[str]) -> None:
    """The first of them was asked for the longest ago."""
    for number, name in enumerate(names):
        os.utime(folder / name, (1e9 + number, 1e9 + number))


def test_the_files_not_asked_for_the_longest_make_room_and_those_in_use_stay(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path, most=25)
    names = [kept(files, bytes([n]) * 10) for n in range(2)]
    old(tmp_path, names)
    assert files.has(names[0])
    newest = kept(files, b"z" * 10)
    assert [files.has(name) for name in (*names, newest)] == [True, False, True]
    more = kept(files, b"y" * 10)
    asked = [files.has(name) for name in (names[0], newest, more)]
    assert asked == [True] * 3, "an image may be about to read them"


def test_a_file_for_which_the_disk_has_no_room_is_refused_before_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, most=100)
    names = [kept(files, bytes([n]) * 10) for n in range(3)]
    old(tmp_path, names)

    def free(folder: Path) -> Any:
        """So much that two of the three have to go for another one."""
        used = 10 * sum(1 for _ in tmp_path.iterdir())
        return SimpleNamespace(free=ray_worker.LEAST_FREE_BYTES + 20 - used)

    monkeypatch.setattr(ray_worker.shutil, "disk_usage", free)
    newest = kept(files, b"z" * 10)
    assert [files.has(name) for name in (*names, newest)] == [False, False, True, True]
    for size in (25, 101):
        with pytest.raises(OSError) as refused:
            files.keep("0" * 64, b"z", 0, size)
        assert refused.value.errno == errno.ENOSPC
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([names[2], newest])


def test_two_that_make_room_in_one_folder_are_not_in_each_others_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, other = Files(tmp_path, most=25), Files(tmp_path, most=25)
    names = [kept(files, bytes([n]) * 10) for n in range(2)]
    old(tmp_path, names)
    there = list(tmp_path.iterdir())
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([*there, tmp_path / "gone"]))
    for each in (files, other):
        each.keep("0" * 64, b"a part", 0, 20)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2, "a part of each"


def test_a_task_gets_the_paths_of_its_machine_and_no_others(tmp_path: Path) -> None:
    def named(path: str) -> ImageTask:
        return replace(a_task(), inputs={"image": (InputImage(Path(path)),)})

    files = Files(tmp_path)
    assert files.found(named("abc.png")).inputs["image"][0].path == tmp_path / "abc.png"
    for path in (str(tmp_path / "abc.png"), "../abc.png", "a/b.png"):
        with pytest.raises(ValueError, match="not the name"):
            files.found(named(path))


def test_the_slots_of_one_machine_share_its_memory_and_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: each planned with the whole memory."""
    made: list[Any] = []
    monkeypatch.setattr(ray_worker, "thread_of", lambda *given: made.append(given))
    monkeypatch.setattr(ray_worker, "gpu_in_use", lambda device: None)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for device in ("cuda", "cpu"):
        RayWorker(versions(), pickle.dumps(("a/gpu0", device, 4, Settings())))
    assert [(place.shown, place.device, sharing) for _, place, sharing in made] == [
        ("cuda:5", "cuda", 4), ("cpu", "cpu", 4),
    ]  # fmt: skip
    assert os.environ["OMP_NUM_THREADS"] == "2"


def a_task(number: int = 1, **fields: Any) -> ImageTask:
    return ImageTask(
        "job", number, "text2img", "tiny", "a circle", seed=1, steps=1, guidance=1.0, **fields
    )


class ActorDiedError(Exception):
    """As Ray's."""


class FarError(OSError):
    """As Ray brings an error of an actor: it is one of its kind, and has it as `cause`."""

    def __init__(self, cause: OSError) -> None:
        super().__init__("a page of text")
        self.cause = cause


class Method:
    """A method of an actor; an answer is known at once."""

    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def options(self, **named: Any) -> Method:
        return self

    def remote(self, *given: Any) -> Any:
        self._actor.asked.append((self._name, *given))
        return self._actor.answers.get(self._name, lambda *given: None)(*given)


class Actor:
    """Answers what it is told to; an exception is raised by who gets it."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[Any] = []
        self.answers = answers

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def calls(self, name: str) -> list[Any]:
        return [given for method, *given in self.asked if method == name]


class FakeRay:
    """What the executor needs of Ray; its machines are given."""

    exceptions = SimpleNamespace(
        ActorDiedError=ActorDiedError, ActorUnavailableError=ConnectionResetError
    )
    _private = SimpleNamespace(state=SimpleNamespace(state=object()))

    def __init__(self) -> None:
        self.killed: list[Any] = []
        self.gpus = {"head": 0}

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def get(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def put(self, value: Any) -> Any:
        return ("put", value)

    def wait(self, answers: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return ([] if answers == ["silence"] else answers), []

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "NodeManagerHostname": name, "Alive": True, "Resources": {"GPU": gpus}}
            for name, gpus in self.gpus.items()
        ]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An executor that is joined to no cluster: a test watches for it, and gives it its slots."""
    monkeypatch.setattr(RayExecutor, "_watch", lambda self: None)
    monkeypatch.setattr(ray_slots, "_EVERY", 0.05)
    executor: Any = RayExecutor(Cluster())
    executor._ray, executor._here = FakeRay(), "head"

    def make(slot: Any) -> None:
        slot.actor, slot.ping, slot.state = Actor(), None, SlotState.READY

    executor._make = make
    yield executor
    executor.close()


def a_slot(executor: Any, actor: Actor, name: str = "a/gpu0") -> Any:
    slot = _ClusterSlot(name, "head", "a", "cuda", 1, SlotState.READY, actor=actor)
    executor._slots[name] = slot
    return slot


def see(executor: Any, slot: Any) -> None:
    with executor._lock:
        executor._see(slot)


def told(executor: Any, count: int = 1) -> list[Any]:
    """The next events that say something."""
    found: list[Any] = []
    while len(found) < count:
        event = executor.events.get(timeout=20)
        if not isinstance(event, Woken):
            found.append(event)
    return found


def test_what_a_slot_says_of_a_dispatch_that_it_no_longer_has_is_not_heard(alone: Any) -> None:
    """Seen red: the late picture was saved beside the one that was made in its place."""
    slot, task, picture = a_slot(alone, Actor()), a_task(), Image.new("RGB", (8, 8))
    slot.dispatch = late = _Dispatch(None, 1, {("job", 1): task})
    assert alone.abandon(slot.name, "it hung")
    slot.dispatch = again = _Dispatch(None, 2, {("job", 1): task})
    for each in (late, again):
        alone._hear(slot, each, Rendered("", task, picture, each.number), Slot("", False))
    assert told(alone, 2) == [SlotLost("a/gpu0", "it hung"), Rendered("a/gpu0", task, picture, 2)]
    assert alone.events.qsize() <= 1, "but for a mere waking"


@pytest.mark.parametrize(
    ("error", "why", "charged"),
    [
        (ActorDiedError("a page"), "its process ended", True),
        (
            ActorDiedError("failed to import on the worker\n\nModuleNotFoundError: no runner\n"),
            "it cannot start: ModuleNotFoundError: no runner",
            True,
        ),
        (ConnectionResetError("a page"), "its machine does not answer", False),
        (MemoryError("no object store\nread more"), "MemoryError: no object store", False),
    ],
)
def test_an_image_is_charged_where_its_process_ended_and_for_nothing_else(
    alone: Any, error: Exception, why: str, charged: bool
) -> None:
    slot = a_slot(alone, Actor(render=lambda *given: [error]))
    alone.start(slot.name, [a_task()])
    assert told(alone) == [SlotLost("a/gpu0", why, charged)]


def test_an_image_is_not_charged_where_its_machine_goes_right_after_its_process(
    alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_slots, "_EVERY", 20.0)
    slot = a_slot(alone, Actor(render=lambda *given: [ActorDiedError()]))
    slot.node = "other"
    alone.start(slot.name, [a_task()])
    eventually(lambda: alone._lock._waiters or alone.events.qsize(), "its death to be known")
    alone._see_machines()
    assert told(alone) == [SlotLost("a/gpu0", "its machine is gone", charged=False)]


def with_input(path: Path) -> ImageTask:
    return a_task(inputs={"image": (InputImage(path),)})


@pytest.mark.parametrize(
    ("kept", "reason", "why"),
    [
        (FarError(OSError(errno.ENOSPC, "No space left")), "DiskFull", "No space left"),
        (FarError(OSError("it did not arrive whole")), "InputBad", "it did not arrive whole"),
    ],
)
def test_a_file_that_a_machine_cannot_keep_fails_the_image_and_not_the_slot(
    alone: Any, tmp_path: Path, kept: Exception, reason: str, why: str
) -> None:
    (tmp_path / "a.png").write_bytes(b"a picture")
    slot = a_slot(alone, actor := Actor(has=lambda name: False, keep=lambda *given: kept))
    task = with_input(tmp_path / "a.png")
    alone.start(slot.name, [task])
    message = f"a.png cannot be kept on a: {why}"
    assert told(alone) == [Failed(slot.name, task, reason, message)]
    assert (slot.state, slot.dispatch, alone._ray.killed) == (SlotState.READY, None, [])
    assert actor.calls("render") == []


def test_an_input_that_is_gone_fails_its_image_and_the_others_are_made(
    alone: Any, tmp_path: Path
) -> None:
    def render(number: int, tasks: Any) -> Any:
        return [(StoppedEarly("", task), Slot("", False)) for task in tasks]

    slot = a_slot(alone, Actor(render=render))
    gone, other = with_input(tmp_path / "gone.png"), a_task(2)
    alone.start(slot.name, [gone, other])
    message = f"gone.png cannot be read: {os.strerror(errno.ENOENT)}"
    failed = Failed(slot.name, gone, "InputBad", message)
    assert told(alone, 2) == [failed, StoppedEarly(slot.name, other)]


def test_a_lora_is_sent_by_the_hash_that_its_job_has(alone: Any, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    lora = Lora(tmp_path / "a.safetensors", sha256="ab" * 32)
    slot = a_slot(alone, actor := Actor(has=lambda name: False, render=lambda *given: []))
    alone.start(slot.name, [a_task(loras=(lora,))])
    name = "ab" * 32 + ".safetensors"
    eventually(lambda: actor.calls("render"), "the task")
    assert actor.calls("has") == [[name]] and actor.calls("keep") == [[name, b"", 0, 0]]
    ((_, (sent,)),) = actor.calls("render")
    assert sent.loras[0].path == Path(name)


def test_an_image_that_silences_its_process_again_and_again_is_charged_the_third_time(
    alone: Any,
) -> None:
    slot, task = a_slot(alone, Actor()), a_task()
    for silences in range(1, 5):
        slot.dispatch = _Dispatch(None, silences, {("job", 1): task})
        slot.state, slot.actor, slot.ping = SlotState.READY, Actor(), "silence"
        slot.heard_at = ray_slots.monotonic()
        see(alone, slot)
        assert slot.dispatch is not None, "it has not been silent for long"
        slot.asked_at = slot.heard_at = -1000.0
        see(alone, slot)
        (lost,) = told(alone)
        assert lost.charged == (silences > 2)
    assert lost.why == "its process fell silent a third time with this image"
    slot.dispatch = answered = _Dispatch(None, 9, {("job", 1): task})
    alone._hear(slot, answered, StoppedEarly("", task), Slot("", False))
    assert not alone._silences


def test_a_slot_that_is_lost_again_before_an_answer_is_made_again_after_a_pause(
    alone: Any,
) -> None:
    slot = a_slot(alone, Actor())
    states = []
    for number in range(3):
        slot.dispatch = _Dispatch(None, number, {("job", 1): a_task()})
        slot.state, slot.actor = SlotState.READY, slot.actor or Actor()
        with alone._lock:
            alone._lose(slot, "its process ended", charged=True)
        states.append(slot.state)
    assert states == [SlotState.READY, SlotState.LOST, SlotState.LOST]
    see(alone, slot)
    assert slot.state == SlotState.LOST, "not yet"
    slot.asked_at -= 8.1
    see(alone, slot)
    assert slot.state == SlotState.READY
    slot.dispatch = answered = _Dispatch(None, 9, {("job", 1): a_task()})
    alone._hear(slot, answered, StoppedEarly("", a_task()), Slot("", False))
    assert slot.failures == 0


def test_an_error_of_a_ping_costs_an_idle_slot_and_is_left_to_a_dispatch(alone: Any) -> None:
    slot = a_slot(alone, Actor())
    slot.ping, slot.asked_at = ActorDiedError(), ray_slots.monotonic()
    slot.dispatch = _Dispatch(None, 1, {("job", 1): a_task()})
    see(alone, slot)
    assert alone._ray.killed == []
    slot.dispatch = None
    see(alone, slot)
    assert len(alone._ray.killed) == 1 and slot.note == "its process ended"


def test_a_slot_without_a_gpu_is_there_again_once_no_gpu_is(alone: Any) -> None:
    alone._see_machines()
    ((name, slot),) = alone._slots.items()
    slot.dispatch = _Dispatch(None, 1, {("job", 1): a_task()})
    assert (name, slot.device, slot.state) == ("head/cpu0", "cpu", SlotState.READY)
    alone._ray.gpus["other"] = 2
    alone._see_machines()
    assert sorted(alone._slots) == ["head/cpu0", "other/gpu0", "other/gpu1"]
    assert slot.state == SlotState.DRAINED
    del alone._ray.gpus["other"]
    alone._see_machines()
    assert list(alone._slots) == ["head/cpu0"]
    assert (slot.state, slot.note) == (SlotState.READY, "")
    alone._ray.gpus["other"] = 1
    slot.dispatch = None
    alone._see_machines()
    assert list(alone._slots) == ["other/gpu0"]


def test_the_bridge_has_longer_than_another_child_to_abandon_a_slot_and_charges_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr(ray_slots, "ProcessExecutor", lambda *given, **named: made.update(named))
    of_cluster(Cluster(), Threads())
    assert made["answer_seconds"] > 10 and made["charged"] is False


def test_prompts_are_handed_to_ray_once_for_all_slots(alone: Any) -> None:
    actors = [Actor(), Actor()]
    for number, actor in enumerate(actors):
        a_slot(alone, actor, f"a/gpu{number}")
    alone.prepare([a_task()])
    assert [actor.calls("prepare") for actor in actors] == [[[("put", [a_task()])]]] * 2
