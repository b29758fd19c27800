"""What of Ray needs no Ray: the setting, what is refused, a machine's files and versions."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.cli import main
from runner.errors import UsageProblem
from runner.executor import Rendered, Slot, SlotLost, SlotState, Woken
from runner.settings import Home, load_settings
from runner.slots import ray_cluster
from runner.slots.ray_cluster import Cluster, cluster_of, token_place
from runner.slots.ray_slots import RayExecutor, _Order, _Place
from runner.slots.ray_worker import Files, RayWorker, versions
from runner.task import ImageTask, InputImage


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
    assert cluster_of(Home(tmp_path)).token, "a local one makes its own"


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
    files.keep(name, content[:2], True, False)
    files.keep(name, content[2:], False, True)
    return name


def test_files_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    files = Files(tmp_path)
    name = kept(files, b"a picture")
    other = "0" * 64 + ".png"
    assert files.lacking([name, other]) == [other]
    with pytest.raises(OSError, match="did not arrive whole"):
        files.keep(other, b"another picture", True, True)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"a picture"


def test_the_files_not_asked_for_the_longest_make_room_and_those_in_use_stay(
    tmp_path: Path,
) -> None:
    files = Files(tmp_path, most=25)
    names = [kept(files, bytes([n]) * 10) for n in range(2)]
    for age, name in zip((9000, 8000), names, strict=True):
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    files.lacking(names[:1])
    newest = kept(files, b"z" * 10)
    assert files.lacking([*names, newest]) == [names[1]]
    more = kept(files, b"y" * 10)
    assert files.lacking([names[0], newest, more]) == [], "an image may be about to read them"


def test_a_task_gets_the_paths_of_its_machine(tmp_path: Path) -> None:
    far = InputImage(tmp_path / "unreadable.png")
    task = ImageTask(
        "job", 1, "fill", "tiny", "a circle", seed=1, steps=1, guidance=1.0,
        inputs={"image": (InputImage(Path("abc.png")),), "mask": (far,)},
    )  # fmt: skip
    found = Files(tmp_path / "files").found(task)
    assert found.inputs["image"][0].path == tmp_path / "files" / "abc.png"
    assert found.inputs["mask"] == (far,), "one that the head could not read"


class FakeRay:
    """Ends any actor."""

    def kill(self, actor: Any) -> None:
        pass


def test_what_a_slot_says_of_an_order_that_it_no_longer_has_is_not_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen red: the late picture was saved beside the one that was made in its place."""
    monkeypatch.setattr(RayExecutor, "_watch", lambda self: None)
    executor: Any = RayExecutor(Cluster())
    executor._ray, executor._make = FakeRay(), lambda place: None
    task = ImageTask("job", 1, "text2img", "tiny", "a circle", seed=1, steps=1, guidance=1.0)
    place = _Place("a/gpu0", "a", "a", "cuda:0", 1, SlotState.READY, actor="the first")
    executor._places[place.name] = place
    place.order = late = _Order(1, {("job", 1): task})
    assert executor.abandon(place.name, "it hung")
    place.order = again = _Order(2, {("job", 1): task})
    picture = Image.new("RGB", (8, 8))
    for order in (late, again):
        executor._hear(place, order, Rendered("", task, picture, order.number), Slot("", False))
    heard = []
    while not executor.events.empty():
        heard.append(executor.events.get())
    told = [each for each in heard if not isinstance(each, Woken)]
    assert told == [SlotLost("a/gpu0", "it hung"), Rendered("a/gpu0", task, picture, 2)]
    executor.close()
