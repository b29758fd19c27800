"""The images that a spec names: found, waited for, copied, or refused."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.files import open_regular
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.inbox import acknowledge, waiting
from runner.spool.inbox.inputs import Folders, Snapshot, take
from runner.spool.inbox.waiting import InputWait
from runner.spool.store.record import Record
from tests.spool.conftest import Spool

EDIT = "kind: kontext\nmodel: tiny\nprompt: make it green\nimage: {image}\nseed: 1\n"


def png(colour: str = "red") -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_input_is_copied_and_the_callers_file_is_left_alone(spool: Spool) -> None:
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    assert spool.end("edit")["state"] == "succeeded"
    assert (spool.home.job("edit") / "inputs" / "cat.png").read_bytes() == png()
    assert (spool.home.inbox / "cat.png").read_bytes() == png()
    sidecar = json.loads((spool.home.job("edit") / "edit-0001.json").read_bytes())
    assert sidecar["image"] == "outbox/edit/inputs/cat.png"


def test_an_image_that_comes_after_its_spec_is_waited_for(spool: Spool) -> None:
    spool.drop("edit.yaml", EDIT.format(image="inbox/cat.png"))
    spool.until(lambda: spool.status("edit").get("reason") == "WaitingForInput")
    assert "cat.png" in spool.status("edit")["message"]
    (spool.home.inbox / "cat.png").write_bytes(png())
    assert spool.end("edit")["state"] == "succeeded"


@pytest.mark.parametrize(
    ("named", "lying"),
    [
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("photo.jpg", "photo.JPG"),
        ("Album/photo.png", "album/Photo.png"),
    ],
    ids=["composed", "apart", "case", "folder"],
)
def test_an_image_is_found_in_another_unicode_form_and_in_another_case(
    spool: Spool, named: str, lying: str
) -> None:
    """Seen red: each waited ten minutes and failed."""
    file = spool.home.inbox / lying
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(png())
    spool.drop("edit.yaml", EDIT.format(image=named))
    assert spool.end("edit")["state"] == "succeeded"


def test_an_image_that_several_files_may_be_is_waited_for_with_their_names(spool: Spool) -> None:
    for name in ("Cat.png", "CAT.png"):
        (spool.home.inbox / name).write_bytes(png())
    if (spool.home.inbox / "cat.png").exists():
        pytest.skip("this file system makes no difference between cases")
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    spool.until(lambda: spool.status("edit").get("reason") == "WaitingForInput")
    message = spool.status("edit")["message"]
    assert message.startswith("waiting for cat.png (there is ") and "'CAT.png'" in message
    (spool.home.inbox / "cat.png").write_bytes(png())
    assert spool.end("edit")["state"] == "succeeded"


def test_a_near_miss_is_named_at_once_and_never_a_file_behind_a_link(
    spool: Spool, tmp_path: Path
) -> None:
    (spool.home.inbox / "portrait.jpeg").write_bytes(png())
    (spool.home.inbox / "portrait.yaml.part").write_bytes(b"")
    spool.drop("edit.yaml", EDIT.format(image="portrait.jpg"))
    spool.until(lambda: "(there is 'portrait.jpeg'" in spool.status("edit").get("message", ""))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "secrets.png").write_bytes(png())
    (spool.home.inbox / "link").symlink_to(tmp_path / "secret")
    spool.drop("spy.yaml", EDIT.format(image="LINK/secret.png"))
    spool.until(lambda: spool.status("spy").get("reason") == "WaitingForInput")
    assert spool.status("spy")["message"] == "waiting for LINK/secret.png"


def test_a_pointer_of_git_lfs_is_told_as_what_it_is(spool: Spool) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (spool.home.inbox / "cat.png").write_bytes(pointer)
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert "Git LFS" in status["message"] and "git lfs pull" in status["message"]


def test_an_absolute_path_into_the_inbox_or_the_outbox_is_taken(spool: Spool) -> None:
    """Seen red: `outside the inbox`; and a picture yet to be made was not waited for."""
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.drop("edit.yaml", EDIT.format(image=json.dumps(str(spool.home.inbox / "cat.png"))))
    assert spool.end("edit")["state"] == "succeeded"
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    made = spool.home.outbox / "hero" / "hero-0001.png"
    spool.drop("next.yaml", EDIT.format(image=json.dumps(str(made))))
    spool.until(lambda: "waiting for job hero" in (spool.status("next").get("message") or ""))
    spool.until(lambda: spool.device.task)
    spool.device.by_hand = False
    spool.device.finish()
    assert spool.end("next")["state"] == "succeeded"


def test_a_missing_image_fails_the_job_when_the_wait_is_over(idle_spool: Spool) -> None:
    spool = Spool(idle_spool.home.root, input_wait_seconds=0.2, rescan_seconds=0.1)
    spool.start()
    spool.drop("edit.yaml", EDIT.format(image="never.png"))
    status = spool.end("edit")
    spool.stop()
    assert (status["state"], status["reason"]) == ("failed", "InputMissing")
    assert "never.png" in status["message"]


def test_of_a_picture_that_stays_empty_it_is_said_that_it_is_empty(idle_spool: Spool) -> None:
    spool = Spool(idle_spool.home.root, input_wait_seconds=0.2, rescan_seconds=0.1)
    spool.start()
    (spool.home.inbox / "never.png").write_bytes(b"")
    spool.drop("edit.yaml", EDIT.format(image="never.png"))
    status = spool.end("edit")
    spool.stop()
    assert status["reason"] == "InputMissing"
    assert status["message"].startswith("never.png is empty or still open after ")


def test_a_picture_that_an_unfinished_job_will_make_is_waited_for(spool: Spool) -> None:
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.drop("edit.yaml", EDIT.format(image="outbox/hero/hero-0001.png"))
    spool.until(lambda: spool.status("edit").get("reason") == "WaitingForInput")
    spool.until(lambda: spool.device.task)
    spool.device.by_hand = False
    spool.device.finish()
    assert spool.end("edit")["state"] == "succeeded"
    made = (spool.home.job("hero") / "hero-0001.png").read_bytes()
    assert (spool.home.job("edit") / "inputs" / "hero-0001.png").read_bytes() == made


def test_a_job_that_ends_while_its_picture_is_looked_for_is_no_missing_input(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, ended = threading.Event(), threading.Event()

    def look_while_it_ends(place: Path, home: Home) -> Snapshot | None:
        found = take(place, home)
        if looked.is_set():
            return found
        looked.set()
        assert found is None and ended.wait(20)
        return None

    monkeypatch.setattr("runner.spool.inbox.waiting.take", look_while_it_ends)
    spool.device.by_hand = True
    spool.drop("hero.yaml")
    spool.until(lambda: spool.device.task)
    spool.drop("edit.yaml", EDIT.format(image="outbox/hero/hero-0001.png"))
    spool.until(looked.is_set)
    spool.device.by_hand = False
    spool.device.finish()
    spool.end("hero")
    ended.set()
    assert spool.end("edit")["state"] == "succeeded"


def test_a_chain_whose_head_fails_ends_with_a_sentence_that_says_so(spool: Spool) -> None:
    spool.device.failing["hero", 1] = ("OutOfMemory", "no memory")
    spool.drop("hero.yaml")
    spool.drop("edit.yaml", EDIT.format(image="outbox/hero/hero-0001.png"))
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "InputMissing")
    assert "job hero" in status["message"] and "failed" in status["message"]


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "/etc/passwd", "a/../../b.png", "C:x.png", "//host/share/x.png",
     "outbox/../data/ledger.sqlite", "file:///etc/passwd", "inbox/../../x.png"],
)  # fmt: skip
def test_a_path_that_leaves_the_roots_is_rejected(spool: Spool, path: str) -> None:
    spool.drop("edit.yaml", EDIT.format(image=json.dumps(path)))
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("rejected", "PathNotAllowed")
    assert status["errors"][0]["line"] == 4


def test_a_link_that_leaves_the_roots_is_rejected(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    (spool.home.inbox / "link.png").symlink_to(tmp_path / "secret.png")
    spool.drop("edit.yaml", EDIT.format(image="link.png"))
    assert spool.end("edit")["reason"] == "PathNotAllowed"
    assert not (spool.home.job("edit") / "inputs").exists()


def test_an_absolute_path_inside_the_input_roots_is_taken(tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    (album / "cat.png").write_bytes(png())
    spool = Spool(tmp_path / "home", input_roots=(str(album),))
    spool.start()
    spool.drop("edit.yaml", EDIT.format(image=album / "cat.png"))
    assert spool.end("edit")["state"] == "succeeded"
    spool.stop()


def test_an_input_root_may_begin_with_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "cat.png").write_bytes(png())
    spool = Spool(tmp_path / "home", input_roots=("~/album",))
    spool.start()
    spool.drop("edit.yaml", EDIT.format(image=tmp_path / "album" / "cat.png"))
    assert spool.end("edit")["state"] == "succeeded"
    spool.stop()


def test_two_inputs_of_one_name_are_both_kept(spool: Spool) -> None:
    for folder in ("a", "b"):
        (spool.home.inbox / folder).mkdir()
        (spool.home.inbox / folder / "x.png").write_bytes(png("red" if folder == "a" else "blue"))
    text = "kind: redux\nmodel: tiny\nimage: [a/x.png, b/x.png]\nseed: 1\n"
    spool.drop("mix.yaml", text)
    assert spool.end("mix")["state"] == "succeeded"
    copies = {path.read_bytes() for path in (spool.home.job("mix") / "inputs").iterdir()}
    assert copies == {png("red"), png("blue")}


def test_one_content_is_copied_once_however_it_is_spelt(spool: Spool) -> None:
    """Seen red: four spellings of one file made four copies."""
    for name in ("x.png", "other.png"):
        (spool.home.inbox / name).write_bytes(png())
    names = "x.png, inbox/x.png, ./x.png, other.png"
    spool.drop("mix.yaml", f"kind: redux\nmodel: tiny\nimage: [{names}]\nseed: 1\n")
    assert spool.end("mix")["state"] == "succeeded"
    assert [path.name for path in (spool.home.job("mix") / "inputs").iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"<script>alert(1)</script>", "evil.html is a web page and no picture: save the"),
        (png()[:-40], "evil.html cannot be read as a picture"),
        (bytes(1 << 20), "evil.html cannot be read as a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "evil.html cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>script", "evil.html is a web page and no picture: save the"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC picture: install pillow-heif beside"),
    ],
)
def test_what_is_no_picture_never_reaches_the_outbox(spool: Spool, data: bytes, says: str) -> None:
    """Seen red: the copy was made, and refused when the job began."""
    (spool.home.inbox / "evil.html").write_bytes(data)
    spool.drop("edit.yaml", EDIT.format(image="evil.html"))
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert says in status["message"] and "script" not in status["message"]
    assert not (spool.home.job("edit") / "inputs").exists()


def test_the_copies_of_one_job_are_bounded(idle_spool: Spool) -> None:
    def noise() -> bytes:
        buffer = io.BytesIO()
        Image.effect_noise((700, 700), 90).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    spool = Spool(idle_spool.home.root, job_inputs_mb=1)
    spool.start()
    for name in ("a.png", "b.png", "c.png"):
        (spool.home.inbox / name).write_bytes(noise())
    spool.drop("all.yaml", "kind: redux\nmodel: tiny\nimage: [a.png, b.png, c.png]\nseed: 1\n")
    spool.drop("two.yaml", "kind: redux\nmodel: tiny\nimage: [a.png, b.png]\nseed: 1\n")
    status = spool.end("all")
    assert status["reason"] == "InputBad" and "`job_inputs_mb`" in status["message"]
    assert spool.end("two")["state"] == "succeeded"
    spool.stop()


@pytest.mark.skipif(os.name == "nt", reason="there only who may change a file can link it")
def test_another_name_of_a_private_file_is_refused_and_not_copied(spool: Spool) -> None:
    """Seen red: a picture that its owner keeps to himself came back with mode 0644."""
    secret = spool.home.root.parent / "secret.png"
    secret.write_bytes(png())
    secret.chmod(0o600)
    os.link(secret, spool.home.inbox / "cat.png")
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "PathNotAllowed")
    assert "use a copy" in status["message"]
    assert not (spool.home.job("edit") / "inputs").exists()
    os.link(secret, spool.home.inbox / "text.yaml")
    assert spool.end("text")["reason"] == "NotARegularFile"
    assert (spool.home.job("text") / "spec.yaml").exists() is False
    secret.chmod(0o644)
    (spool.home.inbox / "edit.retry").touch()
    assert spool.end("edit-2")["state"] == "succeeded", "all may read it anyway"


@pytest.mark.skipif(os.name == "nt", reason="few users may make links there")
@pytest.mark.parametrize("planted", ["inputs", ""])
def test_a_folder_that_is_replaced_by_a_link_while_an_input_is_awaited_is_not_followed(
    spool: Spool, planted: str
) -> None:
    """Seen red: the copy was written into the folder that the link names."""
    elsewhere = spool.home.root.parent / "elsewhere"
    elsewhere.mkdir()
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    spool.until(lambda: spool.status("edit").get("reason") == "WaitingForInput")
    folder = spool.home.job("edit")
    if not planted:
        folder.rename(folder.with_name("moved"))
    (folder / planted).symlink_to(elsewhere)
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.drop("good.yaml")
    assert spool.end("good")["state"] == "succeeded"
    spool.until(lambda: spool.daemon and spool.daemon.faults.listed())
    assert spool.daemon is not None
    (fault,) = spool.daemon.faults.listed()
    assert fault["file"].startswith("outbox/edit") and "a link or a file stands" in fault["message"]
    assert not list(elsewhere.iterdir())
    (folder / planted).unlink()
    # A folder that was moved away is made anew.
    assert spool.end("edit")["state"] == "succeeded"


@pytest.mark.skipif(os.name == "nt", reason="few users may make links or named pipes there")
@pytest.mark.parametrize("planted", ["link", "pipe", "folder link"])
def test_a_copy_that_was_replaced_is_not_read(spool: Spool, planted: str) -> None:
    """Seen red: the picture that the link names was read, and the pipe held the GPU thread."""
    elsewhere = spool.home.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cat.png").write_bytes(png("blue"))
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.device.by_hand = True
    spool.drop("first.yaml")
    spool.until(lambda: spool.device.task)
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    copy = spool.home.job("edit") / "inputs" / "cat.png"
    spool.until(lambda: spool.status("edit").get("state") == "queued" and copy.is_file())
    copy.unlink()
    if planted == "link":
        copy.symlink_to(elsewhere / "cat.png")
    elif planted == "pipe":
        os.mkfifo(copy)
    else:
        copy.parent.rmdir()
        copy.parent.symlink_to(elsewhere)
    spool.device.by_hand = False
    spool.device.finish()
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert "was replaced" in status["message"]


def test_a_retried_job_brings_its_inputs_with_it(spool: Spool) -> None:
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    spool.end("edit")
    (spool.home.inbox / "cat.png").write_bytes(png("blue"))
    (spool.home.inbox / "edit.retry").touch()
    assert spool.end("edit-2")["state"] == "succeeded"
    assert (spool.home.job("edit-2") / "inputs" / "cat.png").read_bytes() == png()


def test_a_job_that_missed_an_input_can_be_run_again_once_the_file_is_there(
    idle_spool: Spool,
) -> None:
    """Seen red: the retry raised, for the job had no copy of what it had missed."""
    spool = Spool(idle_spool.home.root, input_wait_seconds=0.1)
    try:
        spool.start()
        spool.drop("edit.yaml", EDIT.format(image="late.png"))
        assert spool.end("edit")["reason"] == "InputMissing"
        (spool.home.inbox / "late.png").write_bytes(png())
        spool.drop("edit.retry", "")
        assert spool.end("edit-2")["state"] == "succeeded"
    finally:
        spool.stop()


def test_a_retry_has_the_warnings_of_the_spec_and_not_those_of_the_run_before(spool: Spool) -> None:
    (spool.home.inbox / "good.png").write_bytes(png())
    (spool.home.inbox / "bad.png").write_bytes(b"no picture")
    spec = EDIT.format(image="good.png").replace("image: good.png", "")
    spool.drop("edit.yaml", spec + "matrix: {image: [good.png, bad.png]}\n")
    run = spool.end("edit")["warnings"]
    (spool.home.inbox / "bad.png").write_bytes(png())
    spool.drop("edit.retry", "")
    again = spool.end("edit-2")
    assert again["state"] == "succeeded"
    assert again["warnings"] == [text for text in run if not text.startswith("bad.png: ")] != run


def test_a_job_that_was_cancelled_while_it_waited_can_be_run_again(spool: Spool) -> None:
    spool.drop("edit.yaml", EDIT.format(image="late.png"))
    spool.until(lambda: spool.status("edit").get("reason") == "WaitingForInput")
    spool.drop("edit.cancel", "")
    assert spool.end("edit")["state"] == "cancelled"
    (spool.home.inbox / "late.png").write_bytes(png())
    spool.drop("edit.retry", "")
    assert spool.end("edit-2")["state"] == "succeeded"


def test_a_job_of_which_one_of_two_inputs_was_copied_can_be_run_again(spool: Spool) -> None:
    (spool.home.inbox / "here.png").write_bytes(png())
    spool.drop("vary.yaml", "kind: redux\nmodel: tiny\nimage: [here.png, late.png]\n")
    spool.until(lambda: spool.status("vary").get("reason") == "WaitingForInput")
    spool.drop("vary.cancel", "")
    assert spool.end("vary")["state"] == "cancelled"
    (spool.home.inbox / "late.png").write_bytes(png())
    spool.drop("vary.retry", "")
    assert spool.end("vary-2")["state"] == "succeeded"


def test_spec_with_an_input_never_starts_before_the_copy_is_made(spool: Spool) -> None:
    def copied(task: object) -> None:
        assert (spool.home.job("edit") / "inputs" / "cat.png").is_file()

    spool.device.on_start = copied
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.drop("edit.yaml", EDIT.format(image="cat.png"))
    assert spool.end("edit")["state"] == "succeeded"


def test_a_folder_swapped_for_a_link_between_check_and_open_is_refused_unread(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x.png").write_bytes(png())
    album = spool.home.inbox / "album"
    album.mkdir()
    (album / "x.png").write_bytes(png())

    def swap_then_open(path: Path) -> int:
        if path.name == "x.png" and not album.is_symlink():
            album.rename(spool.home.inbox / "away")
            album.symlink_to(secret)
        return open_regular(path)

    monkeypatch.setattr("runner.spool.inbox.inputs.open_regular", swap_then_open)
    spool.drop("edit.yaml", EDIT.format(image="album/x.png"))
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "PathNotAllowed")
    assert not (spool.home.job("edit") / "inputs").exists()


def test_pictures_are_copied_for_a_second_at_a_time_and_every_job_has_its_turn(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: cancels and drops waited until the pictures of all waiting jobs were decoded."""
    monkeypatch.setattr(waiting, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(acknowledge, "GATHER_SECONDS", -1.0)
    jobs = [f"edit{number}" for number in range(5)]
    for job in jobs:
        (spool.home.inbox / f"{job}.png").write_bytes(png())
    gathered: list[list[str]] = []
    gather, gather_all = InputWait.gather, InputWait.gather_all

    def one(self: InputWait, record: Record) -> bool:
        gathered[-1].append(record.id)
        return gather(self, record)

    def all_of_them(self: InputWait) -> bool:
        gathered.append([])
        return gather_all(self)

    monkeypatch.setattr(InputWait, "gather", one)
    monkeypatch.setattr(InputWait, "gather_all", all_of_them)
    for job in jobs:
        spool.drop(f"{job}.yaml", EDIT.format(image=f"{job}.png"))
    assert [each["state"] for each in spool.over(*jobs)] == ["succeeded"] * 5
    assert max(map(len, gathered)) == 1


@pytest.mark.parametrize("circle", [("own",), ("a", "b"), ("a", "b", "c")])
def test_jobs_that_wait_for_each_other_fail_at_once_and_say_so(
    spool: Spool, circle: tuple[str, ...]
) -> None:
    """Seen red: they were waited for for ever, and a drain did not end."""
    for job, maker in zip(circle, (*circle[1:], circle[0]), strict=True):
        spool.drop(f"{job}.yaml", EDIT.format(image=f"outbox/{maker.upper()}/{maker}-0001.png"))
        if job != circle[-1]:
            spool.until(lambda job=job: spool.status(job).get("message"))
    spool.drop("chain.yaml", EDIT.format(image="outbox/good/good-0001.png"))
    spool.drop("good.yaml")
    ends = spool.over(*circle)
    assert [(end["state"], end["reason"]) for end in ends] == [("failed", "InputMissing")] * len(
        circle
    )
    assert "waits for a picture that waits for its own" in ends[-1]["message"]
    assert spool.end("chain")["state"] == "succeeded"


def test_blank_steps_of_a_path_are_no_link(spool: Spool) -> None:
    (spool.home.inbox / "cat.png").write_bytes(png())
    spool.drop("edit.yaml", EDIT.format(image="inbox//cat.png"))
    assert spool.end("edit")["state"] == "succeeded"


def test_a_picture_is_suggested_for_its_name_not_for_its_ending(tmp_path: Path) -> None:
    """Seen red: 'svg.png' for 'missing.png', for both end alike."""
    home = Home(tmp_path)
    home.prepare()
    for name in ("svg.png", "thin.png", "portrait.jpg"):
        (home.inbox / name).touch()
    folders = Folders(home)
    assert folders.find(home.inbox / "missing.png") == (home.inbox / "missing.png", [])
    assert folders.find(home.inbox / "portrait.png")[1] == ["portrait.jpg"]
    assert folders.find(home.inbox / "portait.png")[1] == ["portrait.jpg"]


def test_a_chain_whose_folders_were_removed_waits_for_its_head_as_on_the_first_night(
    spool: Spool,
) -> None:
    """Seen red: `hero ended succeeded without it`, of the job of the night before."""
    for _ in range(2):
        spool.drop("edit.yaml", EDIT.format(image="outbox/hero/hero-0001.png"))
        spool.until(lambda: spool.status("edit").get("reason"))
        assert spool.status("edit")["reason"] == "WaitingForInput"
        spool.drop("hero.yaml")
        assert [end["state"] for end in spool.over("hero", "edit")] == ["succeeded"] * 2
        for job in ("hero", "edit"):
            shutil.rmtree(spool.home.job(job))


def test_an_image_in_a_folder_that_may_not_be_searched_ends_its_job_with_a_sentence(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the drop was never answered."""
    closed = spool.home.inbox / "closed"
    closed.mkdir()
    look, read = os.stat, os.open

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(path: Any, *given: Any, **named: Any) -> Any:
            if isinstance(path, (str, os.PathLike)) and "closed/" in os.fspath(path):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return real(path, *given, **named)

        return act

    monkeypatch.setattr(os, "stat", refusing(look))
    monkeypatch.setattr(os, "open", refusing(read))
    spool.drop("edit.yaml", EDIT.format(image="closed/cat.png"))
    status = spool.end("edit")
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert "Permission denied" in status["message"]


def test_more_pictures_than_are_remembered_or_looked_at_in_one_pass_all_come(
    idle_spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: the signatures of all were forgotten at every pass, and none ever settled."""
    monkeypatch.setattr(waiting, "_MOST_REMEMBERED", 3)
    monkeypatch.setattr(waiting, "GATHER_SECONDS", 0.0)
    (idle_spool.home.inbox / "p").mkdir()
    for number in range(7):
        (idle_spool.home.inbox / "p" / f"{number}.png").write_bytes(png(f"#0{number}0000"))
    idle_spool.start()
    spec = "kind: kontext\nmodel: tiny\nprompt: make it green\nmatrix: {image: 'p/*.png'}\n"
    idle_spool.drop("edit.yaml", spec)
    assert idle_spool.end("edit")["images"]["done"] == 7
    copies = sorted(path.name for path in (idle_spool.home.job("edit") / "inputs").iterdir())
    assert copies == [f"{number}.png" for number in range(7)]


def test_a_pass_stops_where_pictures_are_missing_too_and_goes_on_there(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: thousands of missing pictures were all looked for at each pass."""
    monkeypatch.setattr(waiting, "GATHER_SECONDS", 0.0)
    passes: list[list[str]] = []
    gather = InputWait.gather

    def beginning(self: InputWait, record: Record) -> bool:
        passes.append([])
        return gather(self, record)

    def noting(place: Path, home: Home) -> Snapshot | None:
        passes[-1].append(place.name)
        return take(place, home)

    monkeypatch.setattr(InputWait, "gather", beginning)
    monkeypatch.setattr(waiting, "take", noting)
    spool.drop("mix.yaml", "kind: redux\nmodel: tiny\nimage: [a.png, b.png, c.png]\nseed: 1\n")
    spool.until(lambda: len(passes) > 4)
    assert passes[:4] == [["a.png"], ["b.png"], ["c.png"], ["a.png"]]


def test_the_copies_of_one_pass_are_written_together(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: each was synced alone."""
    together: list[int] = []
    replace_many = Disk.replace_many

    def noting(disk: Disk, files: Any, **options: Any) -> None:
        if any("inputs" in str(path) for path, _ in files):
            together.append(len(files))
        replace_many(disk, files, **options)

    monkeypatch.setattr(Disk, "replace_many", noting)
    for number in range(4):
        (spool.home.inbox / f"{number}.png").write_bytes(png(f"#0{number}0000"))
    spool.drop("mix.yaml", "kind: redux\nmodel: tiny\nimage: [0.png, 1.png, 2.png, 3.png]\n")
    assert spool.end("mix")["state"] == "succeeded"
    assert sum(together) == 4 and len(together) < 4


def test_a_picture_that_the_rows_of_another_job_keep_is_waited_for(spool: Spool) -> None:
    """Seen red: `a will not be made: night has no keep_original`."""
    rows = "prompt,upscale,keep_original\na red circle,2,true\n"
    (spool.home.inbox / "p.csv").write_text(rows)
    spool.device.by_hand = True
    spool.drop("night.yaml", "kind: text2img\nmodel: tiny\ntable: p.csv\n")
    spool.until(lambda: spool.device.task)
    spool.drop("edit.yaml", EDIT.format(image="outbox/night/night-0001.original.png"))
    spool.until(lambda: spool.status("edit").get("message"))
    assert "waiting for job night" in spool.status("edit")["message"]


def test_one_picture_that_is_none_costs_its_own_images_and_no_others(spool: Spool) -> None:
    """Seen red: of three hundred photos with a damaged one, none was made."""
    (spool.home.inbox / "p").mkdir()
    for name, data in (("a.png", png()), ("b.png", b"text"), ("c.png", png("blue"))):
        (spool.home.inbox / "p" / name).write_bytes(data)
    spool.drop("night.yaml", "kind: redux\nmodel: tiny\nseed: 1\nmatrix: {image: 'p/*.png'}\n")
    status = spool.end("night")
    assert (status["state"], status["images"]["done"], status["images"]["failed"]) == (
        "failed", 2, 1,
    )  # fmt: skip
    assert any("p/b.png" in warning for warning in status["warnings"])
    assert "p/b.png could not be had" in status["message"]
    (spool.home.inbox / "p" / "b.png").write_bytes(png("green"))
    spool.drop("night.retry", b"")
    assert spool.end("night-2")["state"] == "succeeded"


def test_a_row_whose_picture_never_comes_costs_its_own_image_and_no_others(
    idle_spool: Spool,
) -> None:
    spool = Spool(idle_spool.home.root, input_wait_seconds=0.2, rescan_seconds=0.1)
    spool.start()
    (spool.home.inbox / "a.png").write_bytes(png())
    (spool.home.inbox / "t.csv").write_text("prompt,image\ngreen,a.png\nblue,gone.png\n")
    spool.drop("t.yaml", "kind: kontext\nmodel: tiny\nseed: 1\ntable: t.csv\n")
    status = spool.end("t")
    spool.stop()
    assert (status["images"]["done"], status["images"]["failed"]) == (1, 1)
    assert any("gone.png did not arrive" in warning for warning in status["warnings"])
