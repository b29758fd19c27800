"""Jobs on file systems that are not like the usual one, with the names and owners found there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner import client
from runner.spool.store.names import receipt_names
from tests.spool.conftest import SPEC, Spool
from tests.spool.disk import mounts
from tests.spool.inbox.test_inputs import EDIT, png

_QUICK = {"settle_seconds_unknown": 0.1, "rescan_seconds": 0.1}


@contextmanager
def running(spool: Spool) -> Iterator[Spool]:
    """A spool with a daemon until the end of the block."""
    spool.start()
    try:
        yield spool
    finally:
        spool.stop()


def named(spool: Spool) -> set[str]:
    assert spool.daemon is not None
    return {fault["file"] for fault in spool.daemon.faults.listed()}


def test_where_the_outbox_cannot_hold_the_name_of_a_drop_its_receipt_has_another_name(
    tmp_path: Path,
) -> None:
    odd = "shot 12:30.yaml"
    with mounts.windows_names(tmp_path / "at"):
        spool = Spool(tmp_path / "home", outbox=str(tmp_path / "at"), **_QUICK)
        with running(spool):
            names = (odd, "good.yaml", "trailing dot..yaml", "a<b>|c.yaml", "com1.yaml")
            for name in names:
                spool.drop(name)
            jobs = ("shot-12-30", "good", "trailing-dot", "a-b-c", "job-com1")
            assert [each["state"] for each in spool.over(*jobs)] == ["succeeded"] * len(jobs)
            assert all(client.receipt(spool.home, name) for name in names)
            spool.gone(odd)
            plain, other = receipt_names(odd)
            answer = json.loads((spool.home.drops / other).read_bytes())
            assert (answer["name"], answer["job"]) == (odd, "shot-12-30")
            assert not (spool.home.drops / plain).exists() and not named(spool)


def test_on_a_disk_without_case_names_mean_what_they_mean_elsewhere(tmp_path: Path) -> None:
    with mounts.caseless(tmp_path / "at"):
        spool = Spool(tmp_path / "home", inbox=str(tmp_path / "at"), **_QUICK)
        with running(spool):
            (spool.home.inbox / "Photo.JPG").write_bytes(png())
            spool.drop("Edit.yaml", EDIT.format(image="photo.jpg"))
            assert spool.end("edit")["state"] == "succeeded"
            (spool.home.inbox / "EDIT.retry").touch()
            assert spool.end("edit-2")["state"] == "succeeded"
            spool.drop("Late.yaml", SPEC + "window: 00:00-00:01\n")
            spool.until(lambda: spool.status("late").get("state") == "queued")
            (spool.home.inbox / "Late.YAML.Cancel").touch()
            assert spool.end("late")["state"] == "cancelled"
            assert os.listdir(spool.home.inbox / ".tmp") == [] and not named(spool)


def test_in_a_sticky_inbox_the_file_of_another_user_is_made_once_and_the_others_are_made(
    spool: Spool,
) -> None:
    # The other user may not be able to read the files of Python or of this checkout: all that is
    # needed is imported before, and the home is made, with its ledger.
    spool.drop("first.yaml")
    spool.end("first")
    spool.stop()
    with mounts.sticky_folder() as (inbox, one, other):
        root = inbox.parent / "home"
        with running(Spool(root, inbox=str(inbox), **_QUICK)):
            pass
        for file in (root, *root.rglob("*"), *inbox.iterdir()):
            os.chown(file, other, other)
        _dropped_by(one, inbox / "stuck.yaml")
        with mounts.acting_as(other):
            spool = Spool(root, inbox=str(inbox), **_QUICK)
            with running(spool):
                spool.drop("good.yaml")
                states = [each["state"] for each in spool.over("stuck", "good")]
                assert states == ["succeeded"] * 2
                spool.until(lambda: named(spool) == {"inbox/stuck.yaml"})
            with running(spool):
                spool.drop("later.yaml")
                assert spool.end("later")["state"] == "succeeded"
                spool.until(lambda: named(spool) == {"inbox/stuck.yaml"})
                assert [job for job, _ in spool.device.started].count("stuck") == 1
        (inbox / "stuck.yaml").unlink()
        with mounts.acting_as(other), running(spool):
            assert not named(spool) and not (spool.home.job("stuck-2")).exists()


def test_a_file_that_the_file_system_lets_nobody_change_is_made_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home", **_QUICK)
    stuck = spool.home.inbox / "stuck.yaml"
    stuck.write_text(SPEC, encoding="utf-8")
    with _unchangeable(stuck), running(spool):
        spool.drop("good.yaml")
        assert [each["state"] for each in spool.over("stuck", "good")] == ["succeeded"] * 2
        spool.until(lambda: named(spool) == {"inbox/stuck.yaml"})
        spool.stop()
        spool.start()
        spool.drop("later.yaml")
        assert spool.end("later")["state"] == "succeeded"
        assert [job for job, _ in spool.device.started].count("stuck") == 1
    with running(spool):
        spool.gone("stuck.yaml")
        spool.until(lambda: not named(spool))


def _dropped_by(user: int, file: Path) -> None:
    file.write_text(SPEC, encoding="utf-8")
    if sys.platform != "win32":
        os.chown(file, user, user)


@contextmanager
def _unchangeable(file: Path) -> Iterator[None]:
    """Set ext4's immutable flag, which stops root too; without it, or root, skip the test."""
    chattr = shutil.which("chattr")
    if chattr is None or sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can make a file unchangeable, with chattr")
    done = subprocess.run([chattr, "+i", str(file)], capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        pytest.skip(f"chattr cannot be used here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([chattr, "-i", str(file)], check=True, timeout=30)
