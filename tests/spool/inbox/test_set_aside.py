"""Odd files and odd records beside a good spec: they are named, and the good one is made."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from runner import client
from runner.clock import now
from runner.daemon.daemon import Daemon
from runner.spool.disk.disk import Disk
from runner.spool.disk.faults import Faults
from runner.spool.disk.platform import path_of
from tests.spool.conftest import SPEC, Spool
from tests.spool.device import FlatColours
from tests.spool.faulty import FaultyDisk
from tests.spool.inbox.test_inputs import png

EDIT = SPEC.replace("text2img", "kontext") + "image: cat.png\n"


def write(name: bytes, text: str = SPEC) -> Callable[[Spool], None]:
    """Puts a file of any name into the inbox."""

    def act(spool: Spool) -> None:
        with open(os.fsencode(spool.home.inbox) + b"/" + name, "wb") as file:
            file.write(text.encode())

    return act


def a_folder(name: str) -> Callable[[Spool], None]:
    """Puts a folder into the inbox."""
    return lambda spool: (spool.home.inbox / name).mkdir()


class Stubborn(FaultyDisk):
    """Does not let the files `stuck.yaml` and `stuck.retry` be renamed, as `chattr +i` does."""

    def __init__(self) -> None:
        super().__init__("", "", errno.EPERM)

    def before(self, operation: str, path: Any, **details: Any) -> None:
        if operation == "rename" and os.path.basename(path).startswith(".taken-stuck."):
            raise OSError(self.number, os.strerror(self.number), str(path))


ODD: dict[str, tuple[Callable[[Spool], None], str]] = {
    "one that cannot leave": (write(b"stuck.yaml"), "inbox/stuck.yaml"),
    "a folder like a file on its way out": (a_folder(".taken-x"), "inbox/.taken-x"),
    "a folder like a temporary file": (a_folder(".x.writing"), "inbox/.x.writing"),
    "a folder like a spec": (a_folder("x.yaml"), "inbox/x.yaml"),
    "a folder like a cancel": (a_folder("good.cancel"), "inbox/good.cancel"),
    "a folder like a keep": (a_folder("A.keep"), "inbox/A.keep"),
    "a folder like a pause": (a_folder("runner.pause"), "inbox/runner.pause"),
    "a folder like a lend": (a_folder("runner.lend"), "inbox/runner.lend"),
}
"""What lies in the inbox for good, and how it is named."""

NAMES = {
    "a long name": b"a" * 240 + b".yaml",
    "the longest name": b"a" * 250 + b".yaml",
    "a name whose receipt is just not plain": b"b" * 196 + b".yaml",
    "60 emoji": ("🎨" * 60 + ".yaml").encode(),
    "78 signs": ("犬" * 78 + ".yaml").encode(),
    "not UTF-8": b"caf\xe9.yaml",
    "as text what another is as bytes": b"caf\\xe9.yaml",
    "nothing but bytes": bytes(range(128, 256)) + b".json",
    "lines": b"a\nb\r\x1b[31m.yaml",
}
"""Names that are taken like all others; JSON is YAML, but not the other way round."""
JSON_SPEC = json.dumps({"kind": "text2img", "model": "tiny", "prompt": "a red circle", "seed": 7})
LINUX_NAMES = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere names are UTF-8, or not so long"
)


def faults(spool: Spool) -> dict[str, Any]:
    """The faults that the health file names, by file."""
    try:
        return {each["file"]: each for each in json.loads(spool.home.health.read_bytes())["faults"]}
    except FileNotFoundError:
        return {}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_neighbour_is_named_and_the_good_spec_is_made_now_and_after_a_restart(
    idle_spool: Spool, odd: str
) -> None:
    spool = idle_spool
    put, named = ODD[odd]
    put(spool)
    for good in ("good", "later"):
        spool.start(Stubborn())
        spool.drop(f"{good}.yaml")
        assert spool.end(good)["state"] == "succeeded"
        spool.until(lambda: named in faults(spool))
        fault = faults(spool)[named]
        assert fault["reason"] in ("NotARegularFile", "Unwritable") and fault["message"]
        spool.stop()
    made = sorted(job for job, _ in spool.device.started if job != "stuck")
    assert made == ["good", "later"]


@LINUX_NAMES
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_file_of_any_name_is_answered_under_the_name_that_the_contract_gives(
    idle_spool: Spool, name: bytes
) -> None:
    """Seen red: it was set aside, or no start was possible."""
    spool = idle_spool
    write(name, JSON_SPEC)(spool)
    spool.drop("good.yaml")
    spool.start()
    assert spool.end("good")["state"] == "succeeded"
    drop = os.fsdecode(name)
    spool.gone(drop)
    receipt = client.receipt(spool.home, drop)
    assert receipt is not None and receipt["outcome"] == "accepted"
    assert receipt["name"] == name.decode(errors="backslashreplace")
    assert spool.end(receipt["job"])["state"] == "succeeded"
    assert spool.status(receipt["job"])["source"]["name"] == receipt["name"]
    safe = re.sub(rb"[^A-Za-z0-9._-]", b"_", name)[:100].decode()
    short = spool.home.drops / f"{safe}~{hashlib.sha256(name).hexdigest()[:12]}.json"
    plain = len(name) <= 200 and receipt["name"].encode() == name
    assert short.exists() != plain
    assert not faults(spool)
    # Control files go by the same name, however it is written.
    (spool.home.inbox / os.fsdecode(name[:240] + b".retry")).touch()
    write(b"x.cancel")(spool)
    spool.until(lambda: spool.daemon.intake.scans > 3)  # type: ignore[union-attr]
    spool.restart()
    spool.drop("later.yaml")
    assert spool.end("later")["state"] == "succeeded"


@LINUX_NAMES
def test_a_job_of_a_name_that_is_not_utf8_is_cancelled_and_run_again_by_that_name(
    idle_spool: Spool,
) -> None:
    spool = idle_spool
    spool.device.by_hand = True
    spool.start()
    write(b"caf\xe9.yaml")(spool)
    spool.until(lambda: spool.device.task)
    write(b"caf\xe9.yaml.cancel")(spool)
    assert spool.end("caf")["state"] == "cancelled"
    spool.device.by_hand = False
    write(b"caf\xe9.yaml.retry")(spool)
    assert spool.end("caf-2")["state"] == "succeeded"
    receipt = client.receipt(spool.home, os.fsdecode(b"caf\xe9.yaml.retry"))
    assert receipt is not None and receipt["job"] == "caf-2"


class WindowsNames(Disk):
    """Holds no names that Windows does not, as `ntfs-3g -o windows_names` and exFAT."""

    def before(self, operation: str, path: Any, **details: Any) -> None:
        if "/outbox/" in str(path) and set(os.path.basename(path)) & set('<>:"\\|?*'):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))


@LINUX_NAMES
def test_a_name_that_the_outbox_cannot_hold_has_its_receipt_under_another_one(
    idle_spool: Spool,
) -> None:
    spool = idle_spool
    names = ("shot 12:30.yaml", "plain.yaml", "what?.yaml")
    for name in names:
        write(name.encode())(spool)
    spool.start(WindowsNames())
    for name in names:
        spool.gone(name)
        receipt = client.receipt(spool.home, name)
        assert receipt is not None and receipt["name"] == name
        assert spool.end(receipt["job"])["state"] == "succeeded"
    assert (spool.home.drops / "plain.yaml.json").exists()
    assert not faults(spool)


def test_a_drop_that_cannot_leave_is_answered_run_once_and_taken_again_when_it_changes(
    idle_spool: Spool,
) -> None:
    """Seen red: it stayed queued for ever, and so did all after a restart."""
    spool, disk = idle_spool, Stubborn()
    spool.start(disk)
    file = spool.drop("stuck.yaml")
    assert spool.end("stuck")["state"] == "succeeded"
    first = spool.status("stuck")
    assert json.loads((spool.home.drops / "stuck.yaml.json").read_bytes())["job"] == "stuck"
    fault = spool.until(lambda: faults(spool).get("inbox/stuck.yaml"))
    assert fault["reason"] == "Unwritable"
    for _ in range(2):
        spool.stop()
        spool.start(disk)
        spool.until(lambda: "inbox/stuck.yaml" in faults(spool))
    assert spool.status("stuck") == first and len(spool.device.started) == 1
    file.write_text(SPEC + "steps: 3\n", encoding="utf-8")
    assert spool.end("stuck-2")["state"] == "succeeded"
    spool.stop()
    spool.start()
    spool.gone("stuck.yaml")
    spool.until(lambda: not faults(spool))
    assert len(spool.device.started) == 2
    assert spool.daemon is not None
    spool.until(lambda: not spool.daemon.ledger.stuck())  # type: ignore[union-attr]


def test_a_rejected_drop_that_cannot_leave_is_rejected_once(idle_spool: Spool) -> None:
    spool = idle_spool
    spool.start(Stubborn())
    spool.drop("stuck.yaml", "kind: nothing\n")
    assert spool.end("stuck")["state"] == "rejected"
    first = spool.status("stuck")
    # A rejected job holds no id: the next one of its name takes its place.
    spool.drop("stuck.yml")
    spool.until(lambda: spool.status("stuck").get("state") == "succeeded")
    spool.stop()
    spool.start(Stubborn())
    spool.until(lambda: "inbox/stuck.yaml" in faults(spool))
    spool.drop("next.yaml")
    spool.end("next")
    assert first["reason"] == "SchemaInvalid" and not spool.home.job("stuck-2").exists()


def test_a_link_that_cannot_leave_is_rejected_once(idle_spool: Spool) -> None:
    """Seen red: it was another rejected job each time its removal was tried."""
    spool = idle_spool
    spool.start(Stubborn())
    file = spool.home.inbox / "stuck.yaml"
    file.symlink_to("nowhere")
    assert spool.end("stuck")["reason"] == "NotARegularFile"
    daemon = spool.daemon
    assert daemon is not None
    spool.until(lambda: file in daemon.faults and daemon.faults._faulty[file].pause >= 4.0)
    assert len(daemon.ledger.rejected(after=0, limit=-1)) == 1


def test_a_control_file_that_cannot_be_removed_is_obeyed_once(idle_spool: Spool) -> None:
    """Seen red: the job that it asked for never ran."""
    spool = idle_spool
    spool.start(Stubborn())
    spool.drop("hero.yaml", SPEC + "id: stuck\n")
    spool.end("stuck")
    (spool.home.inbox / "stuck.retry").touch()
    assert spool.end("stuck-2")["state"] == "succeeded"
    spool.until(lambda: "inbox/stuck.retry" in faults(spool))
    spool.stop()
    spool.start(Stubborn())
    spool.until(lambda: "inbox/stuck.retry" in faults(spool))
    spool.drop("next.yaml")
    spool.end("next")
    assert not spool.home.job("stuck-3").exists()


def test_all_of_them_in_one_batch_cost_the_others_nothing(idle_spool: Spool) -> None:
    spool = idle_spool
    for n in range(3):
        write(f"good-{n}.yaml".encode())(spool)
    for put, _ in ODD.values():
        put(spool)
    spool.start(Stubborn())
    states = [each["state"] for each in spool.over("good-0", "good-1", "good-2")]
    assert states == ["succeeded"] * 3
    spool.until(lambda: faults(spool).keys() >= {named for _, named in ODD.values()})
    # A drop that failed with others must not be mistaken for one that ends processes.
    assert spool.daemon is not None and len(spool.daemon.intake._compose_pool) == 0


def test_a_job_whose_folder_turns_unwritable_is_set_aside_and_goes_on_when_it_is_mended(
    idle_spool: Spool,
) -> None:
    """Seen red: it failed `Internal`."""
    spool, disk = idle_spool, FaultyDisk("write", r"outbox/odd/", errno.EACCES, broken=False)
    spool.device.by_hand = True
    spool.start(disk)
    spool.drop("odd.yaml", SPEC.replace("seed: 7", "count: 3"))
    spool.until(lambda: spool.device.task)
    spool.device.finish()
    spool.until(lambda: spool.device.task and spool.device.task.index == 2)
    spool.until(lambda: spool.status("odd")["images"]["done"] == 1)
    disk.broken = True
    spool.device.by_hand = False
    spool.device.step()
    spool.device.finish()
    spool.drop("good.yaml")
    assert spool.end("good")["state"] == "succeeded"
    assert spool.until(lambda: faults(spool).get("outbox/odd"))["reason"] == "Unwritable"
    begun = len(spool.device.started)
    assert spool.daemon is not None
    ledger = spool.daemon.ledger
    odd = spool.until(lambda: [r for r in ledger.queued() if r.put_back == "Unwritable"])[0]
    assert (odd.id, odd.failed) == ("odd", 0)
    refused = disk.failed
    spool.until(lambda: disk.failed >= refused + 2)
    assert "outbox/odd" in faults(spool)
    assert len(spool.device.started) == begun, "no image is made that cannot be saved"
    disk.broken = False
    status = spool.end("odd")
    assert (status["state"], status["images"]["done"]) == ("succeeded", 3)
    spool.until(lambda: not faults(spool))


@LINUX_NAMES
def test_a_file_that_cannot_be_read_is_refused_and_the_good_one_is_made(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(handle: int, mode: str, **how: bool) -> BinaryIO:
        if path_of(handle) == spool.home.inbox / "cloud.yaml":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return cast(BinaryIO, open(handle, mode, **how))

    spool = idle_spool
    monkeypatch.setattr("runner.spool.inbox.settle.open", failing, raising=False)
    write(b"cloud.yaml")(spool)
    spool.start()
    spool.drop("good.yaml")
    assert spool.end("good")["state"] == "succeeded"
    assert (spool.home.inbox / "cloud.yaml").exists(), "it is given a while"
    monkeypatch.setattr("runner.spool.inbox.settle._UNREADABLE_SECONDS", 0.0)
    status = spool.end("cloud")
    assert (status["state"], status["reason"]) == ("rejected", "Unreadable")


def test_a_drop_is_taken_when_what_was_wrong_with_it_is_mended(idle_spool: Spool) -> None:
    spool, disk = idle_spool, FaultyDisk("rename", r"\.taken-hero", errno.EPERM)
    spool.start(disk)
    spool.drop("hero.yaml")
    spool.until(lambda: faults(spool))
    disk.broken = False
    assert spool.end("hero")["state"] == "succeeded"
    spool.until(lambda: not faults(spool))
    assert not spool.home.job("hero-2").exists()


def test_a_drop_that_somebody_removes_by_hand_is_run_once(idle_spool: Spool) -> None:
    spool, disk = idle_spool, FaultyDisk("rename", r"\.taken-hero", errno.EPERM)
    spool.start(disk)
    file = spool.drop("hero.yaml")
    spool.until(lambda: faults(spool))
    file.unlink()
    assert spool.end("hero")["state"] == "succeeded"
    spool.restart()
    spool.drop("next.yaml")
    spool.end("next")
    assert not spool.home.job("hero-2").exists()


@pytest.mark.parametrize("operation", ["remove", "rename_to_free"])
def test_no_file_on_its_way_out_is_lost_or_run_twice(idle_spool: Spool, operation: str) -> None:
    """Seen red: with a rename over what is still on its way out."""
    spool, disk = idle_spool, FaultyDisk(operation, r"hero\.yaml", errno.EPERM)
    if operation == "rename_to_free":
        # What is renamed is another file than the one that was read.
        refuse = disk.before

        def swap(which: str, path: Any, **details: Any) -> None:
            if which == "rename" and str(path).endswith(".taken-hero.yaml") and not disk.failed:
                other = spool.home.inbox / ".other"
                other.write_text(SPEC + "steps: 3\n", encoding="utf-8")
                os.replace(other, spool.home.inbox / "hero.yaml")
            refuse(which, path, **details)

        disk.before = swap  # type: ignore[method-assign]
    spool.start(disk)
    spool.drop("hero.yaml")
    spool.until(lambda: disk.failed >= 2)
    spool.drop("hero.yaml", SPEC + "steps: 5\n")
    spool.until(lambda: disk.failed >= 4)
    disk.broken = False
    # Given back beside another `hero.yaml`, the third is `hero-2.yaml`, whose id is taken.
    jobs = ["hero", "hero-2", "hero-2-2"][: 2 if operation == "remove" else 3]
    spool.over(*jobs)
    spool.restart()
    spool.drop("next.yaml")
    spool.end("next")
    made = {(spool.home.job(job) / "spec.yaml").read_bytes() for job in jobs}
    assert len(made) == len(jobs) == len(list(spool.home.outbox.glob("hero*")))


def test_a_drop_that_makes_the_intake_stumble_is_rejected_alone(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.spool.inbox import intake

    true = intake.record_of

    def stumble(drop: Any, verdict: Any, *more: Any) -> Any:
        if drop.name == "odd.yaml" and verdict.reason is None:
            raise ZeroDivisionError("a bug")
        return true(drop, verdict, *more)

    monkeypatch.setattr(intake, "record_of", stumble)
    spool = idle_spool
    for name in ("a", "odd", "z"):
        write(f"{name}.yaml".encode())(spool)
    spool.start()
    assert [each["state"] for each in spool.over("a", "odd", "z")] == [
        "succeeded", "rejected", "succeeded",
    ]  # fmt: skip
    assert spool.status("odd")["reason"] == "Internal"


@pytest.fixture
def paused(idle_spool: Spool) -> Iterator[Spool]:
    """A paused home with two queued jobs, `odd` and `good`."""
    # Before the start: it is obeyed before the first job begins.
    (idle_spool.home.inbox / "runner.pause").touch()
    idle_spool.start()
    for job in ("odd", "good"):
        idle_spool.drop(f"{job}.yaml")
        idle_spool.receipt(f"{job}.yaml")
    daemon = idle_spool.daemon
    assert daemon is not None
    idle_spool.until(lambda: not daemon.ledger.unanswered())
    yield idle_spool


def change(paused: Spool, **columns: object) -> None:
    """Change the record of `odd` as no move of the ledger would."""
    assert paused.daemon is not None
    with paused.daemon.ledger.transaction():
        for name, value in columns.items():
            query = f"UPDATE job SET {name} = ? WHERE id = 'odd'"
            paused.daemon.ledger._connection.execute(query, (value,))


def test_a_job_whose_hours_cannot_be_worked_out_fails_and_the_next_one_runs(paused: Spool) -> None:
    assert paused.daemon is not None
    odd = paused.daemon.ledger.newest("odd")
    assert odd is not None
    hours = {**odd.realised, "not_before": "9999-12-31T23:59:59-14:00"}
    change(paused, realised=json.dumps(hours))
    paused.stop()
    (paused.home.inbox / "runner.pause").unlink()
    paused.start()
    good, status = paused.over("good", "odd")
    assert good["state"] == "succeeded"
    assert (status["state"], status["reason"]) == ("failed", "Internal")
    assert "not_before" in status["message"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("realised", "{"), ("errors", b"[\xff]"), ("state", "happy"), ("end_message", b"\xff"),
        ("id", b"\xffdd"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_named_at_every_start_and_the_others_run(
    paused: Spool, column: str, value: object
) -> None:
    """Seen red: no start, or a runner that does nothing any more."""
    if column == "end_message":
        value = "x"
    change(paused, **{column: value})
    if column == "end_message":
        assert paused.daemon is not None
        with paused.daemon.ledger.transaction():
            query = "UPDATE job SET end_message = CAST(x'ff' AS TEXT) WHERE id = 'odd'"
            paused.daemon.ledger._connection.execute(query)
    paused.stop()
    (paused.home.inbox / "runner.pause").unlink()
    for good in ("good", "later"):
        paused.start()
        if good == "later":
            paused.drop("later.yaml")
        assert paused.end(good)["state"] == "succeeded"
        (file,) = paused.until(lambda: faults(paused))
        assert file.startswith("outbox/")
        assert "cannot be read" in faults(paused)[file]["message"]
        paused.stop()
    assert "odd" not in [job for job, _ in paused.device.started]
    if column != "id":
        # While it runs, as its message says.
        paused.start()
        assert "move this folder away, then drop its spec again" in faults(paused)[file]["message"]
        (paused.home.job("odd")).rename(paused.home.root / "away")
        paused.until(lambda: not faults(paused))
        paused.drop("odd.yaml")
        assert paused.end("odd")["state"] == "succeeded"
        return
    paused.start()
    assert "move it away, drop its spec" in faults(paused)[file]["message"]
    paused.stop()
    with pytest.MonkeyPatch.context() as patch:
        wall = now()
        patch.setattr("runner.spool.startup.opening.now", lambda: wall + 8 * 86_400)
        paused.start()
        # Nobody can move a folder that is not known.
        paused.until(lambda: not faults(paused))


def test_a_record_that_recovery_stumbles_over_is_tried_again_and_the_others_run(
    paused: Spool,
) -> None:
    """Seen red: the runner could not be started again, and then it was named for ever."""
    assert paused.daemon is not None
    odd = paused.daemon.ledger.newest("odd")
    assert odd is not None
    change(paused, shown=0)
    paused.stop()
    (paused.home.inbox / "runner.pause").unlink()
    status = paused.home.job("odd") / "status.json"
    status.write_text('{"revision": "many"}', encoding="utf-8")
    paused.start()
    assert [each["state"] for each in paused.over("good", "odd")] == ["succeeded"] * 2
    # It was mended by being written again.
    paused.until(lambda: not faults(paused))


def test_a_job_whose_inputs_make_the_wait_stumble_fails_and_the_others_go_on(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.spool.inbox import waiting

    true = waiting.place_of

    def stumble(text: str, home: Any) -> Path:
        if text == "cat.png":
            raise ZeroDivisionError("a bug")
        return true(text, home)

    monkeypatch.setattr(waiting, "place_of", stumble)
    spool.drop("odd.yaml", EDIT)
    (spool.home.inbox / "dog.png").write_bytes(png())
    spool.drop("good.yaml", EDIT.replace("cat.png", "dog.png"))
    odd, good = spool.over("odd", "good")
    assert (odd["state"], odd["reason"]) == ("failed", "Internal")
    assert good["state"] == "succeeded"


def test_a_drain_beside_a_file_that_is_set_aside_ends_and_names_it(idle_spool: Spool) -> None:
    a_folder("x.yaml")(idle_spool)
    idle_spool.drop("good.yaml")
    with Daemon(idle_spool.home, FlatColours()) as daemon:
        outcome = daemon.drain()
    assert idle_spool.status("good")["state"] == "succeeded"
    assert not outcome.all_well and "inbox/x.yaml" in str(outcome.note)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_a_fault_of_the_whole_place_is_taken_for_nobodys(idle_spool: Spool, number: int) -> None:
    found = Faults(idle_spool.home)
    with pytest.raises(OSError), found.isolated(idle_spool.home.inbox / "x.yaml"):
        raise OSError(number, os.strerror(number))
    os.rename(idle_spool.home.outbox, idle_spool.home.root / "away")
    with pytest.raises(OSError), found.isolated(idle_spool.home.inbox / "x.yaml"):
        Disk().sync_folder(idle_spool.home.outbox)
    assert found.listed() == []
