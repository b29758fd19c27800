"""Files and jobs that are set aside: for how long, what is said of them, and what stops all."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.errors import DiskFull
from runner.settings import Home
from runner.spool.disk.faults import Faults
from tests.fakes import FakeClock

_DENIED = PermissionError(errno.EACCES, "Permission denied")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The monotonic clock of the faults; the date is its number."""
    made = FakeClock()
    made.now = 0.0
    monkeypatch.setattr("runner.spool.disk.faults.monotonic", made)
    monkeypatch.setattr("runner.spool.disk.faults.timestamp", lambda: f"at {made.now}")
    return made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with one file in its inbox."""
    made = Home(tmp_path / "home")
    made.prepare()
    (made.inbox / "x.yaml").touch()
    return made


@pytest.fixture
def faults(home: Home, clock: FakeClock) -> Faults:
    """Nothing is at fault yet."""
    return Faults(home)


def test_a_file_is_left_alone_for_pauses_that_double_up_to_a_minute(
    home: Home, faults: Faults, clock: FakeClock
) -> None:
    file = home.inbox / "x.yaml"
    assert faults.seconds_left(file) == 0.0 and faults.seconds_to_next_try == float("inf")
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        faults.add(file, _DENIED)
        assert faults.seconds_left(file) == faults.seconds_to_next_try == pause
        clock.now += pause - 0.5
        assert faults.seconds_left(file) == faults.seconds_to_next_try == 0.5
        clock.now += 1.0
        assert faults.seconds_left(file) == 0.0 and faults.seconds_to_next_try == float("inf")
    assert faults.listed()[0]["since"] == "at 0.0"


@pytest.mark.parametrize("change", [b"", b"changed"])
def test_a_file_that_changed_is_tried_at_once_and_its_pauses_begin_anew(
    home: Home, faults: Faults, clock: FakeClock, change: bytes
) -> None:
    file = home.inbox / "x.yaml"
    file.write_bytes(b"spec")
    for _ in range(3):
        faults.add(file, _DENIED)
    file.write_bytes(change)
    assert faults.seconds_left(file) == 0.0
    clock.now = 9.0
    faults.add(file, _DENIED)
    assert faults.seconds_left(file) == 1.0
    assert faults.listed()[0]["since"] == "at 9.0", "it is another file"
    faults.forget(file)
    faults.forget(file)
    assert faults.listed() == [] and faults.seconds_left(file) == 0.0


def test_the_next_try_is_that_of_the_file_whose_pause_ends_first(
    home: Home, faults: Faults, clock: FakeClock
) -> None:
    for times, name in enumerate(("a.yaml", "b.yaml", "c.yaml"), 1):
        (home.inbox / name).touch()
        for _ in range(times):
            faults.add(home.inbox / name, _DENIED)
    assert faults.seconds_to_next_try == 1.0
    clock.now = 1.0
    assert faults.seconds_to_next_try == 1.0, "a pause that is over is no time to wait"


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (_DENIED, "Unwritable", "Permission denied: see that the runner's user may change it"),
        (OSError("odd"), "Unwritable", "odd: see that"),
        (OSError(errno.ENAMETOOLONG, "too long"), "BadName", "too long: give it another name"),
        (ZeroDivisionError("oh"), "Internal", "ZeroDivisionError: a mistake of fluxdrop"),
    ],
)
def test_a_fault_names_its_file_its_reason_and_what_to_do(
    home: Home, faults: Faults, error: Exception, reason: str, message: str
) -> None:
    with faults.isolated(home.inbox / "x.yaml"):
        _fail(error)
    with faults.isolated(home.outbox / "hero"):
        pass
    (fault,) = faults.listed()
    assert (fault["file"], fault["reason"]) == ("inbox/x.yaml", reason)
    assert fault["message"].startswith(message)
    assert faults.note == f"set aside: inbox/x.yaml: {fault['message']}"


@pytest.mark.skipif(os.name == "nt", reason="on Windows every name is text")
def test_a_job_is_named_by_its_folder_and_a_name_that_is_no_text_by_its_bytes(
    home: Home, faults: Faults
) -> None:
    faults.add(home.outbox / "hero", _DENIED)
    faults.add(home.inbox / os.fsdecode(b"\xff.yaml"), _DENIED)
    job, file = faults.listed()
    assert job["file"] == "outbox/hero"
    assert (file["file"], file["reason"]) == ("inbox/\\xff.yaml", "BadName")
    assert faults.note == f"set aside: outbox/hero: {job['message']}; inbox/\\xff.yaml: " + (
        "its name is not UTF-8: rename it"
    )


def test_a_fault_is_logged_when_it_is_new_and_a_mistake_of_ours_with_its_traceback(
    home: Home, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    file = home.inbox / "x.yaml"
    for error in (_DENIED, _DENIED, ZeroDivisionError("oh"), OSError(errno.EINVAL, "odd")):
        faults.add(file, error)
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, False]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_the_newest_twenty_faults_are_listed_and_the_others_are_counted(
    home: Home, faults: Faults
) -> None:
    assert faults.note is None and not faults
    for number in range(20):
        faults.add(home.outbox / f"{number}", _DENIED)
    assert faults.note is not None and "before these" not in faults.note
    for number in range(20, 23):
        faults.add(home.outbox / f"{number}", _DENIED)
    assert [fault["file"] for fault in faults.listed()] == [f"outbox/{n}" for n in range(3, 23)]
    assert faults and faults.note.endswith("; and 3 before these")


@pytest.mark.parametrize(
    ("culprit", "named"),
    [
        ("outbox/drops/x.yaml.json", "outbox/drops/x.yaml.json: "),
        ("outbox/drops/.1f2e.writing", "outbox/drops: "),
        ("inbox/x.yaml", ""),
        ("inbox/.taken-x.yaml", ""),
        ("inbox/photo.png", "inbox/photo.png: "),
        ("elsewhere", ""),
    ],
)
def test_an_error_about_another_file_than_the_one_set_aside_names_that_file(
    home: Home, faults: Faults, culprit: str, named: str
) -> None:
    faults.add(home.inbox / "x.yaml", PermissionError(1, "No", str(home.root / culprit)))
    (fault,) = faults.listed()
    assert fault["file"] == "inbox/x.yaml"
    assert fault["message"].startswith(f"{named}No: see that the runner's user")


def test_what_left_the_inbox_is_forgotten_and_a_job_is_not(home: Home, faults: Faults) -> None:
    file = home.inbox / "x.yaml"
    for place in (file, home.outbox / "hero", home.inbox / "kept.yaml"):
        faults.add(place, _DENIED)
    (home.inbox / "kept.yaml").symlink_to("nowhere")
    assert not Faults(home).forget_gone()
    file.unlink()
    assert faults.forget_gone()
    assert [fault["file"] for fault in faults.listed()] == ["outbox/hero", "inbox/kept.yaml"]
    assert not faults.forget_gone()


@pytest.mark.parametrize("error", [DiskFull("no room"), OSError(errno.EROFS, "read-only")])
def test_what_concerns_the_whole_home_is_raised_and_sets_no_file_aside(
    home: Home, faults: Faults, error: Exception
) -> None:
    with pytest.raises(type(error)), faults.isolated(home.inbox / "x.yaml"):
        _fail(error)
    assert faults.listed() == []


@pytest.mark.parametrize("folder", ["inbox", "outbox", "data"])
def test_while_a_folder_of_the_home_cannot_be_written_no_file_is_to_blame(
    home: Home, faults: Faults, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    closed: Path = getattr(home, folder)
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and mode == os.W_OK)
    with pytest.raises(PermissionError):
        faults.add(home.inbox / "x.yaml", _DENIED)
    faults.add(home.inbox / "x.yaml", ValueError())
    assert len(faults.listed()) == 1


def test_of_many_items_only_those_that_fail_alone_are_told(faults: Faults) -> None:
    failed: list[int] = []
    calls: list[Sequence[int]] = []

    def act(items: Sequence[int]) -> None:
        calls.append(list(items))
        if {3, 6} & set(items):
            raise ValueError

    faults.all_or_each(range(8), act, lambda item, error: failed.append(item))
    assert failed == [3, 6]
    assert calls[0] == [*range(8)] and calls[1] == [0, 1, 2, 3]
    assert len(calls) == 11, "halves, down to single items"
    with pytest.raises(DiskFull):
        faults.all_or_each(
            [1], lambda items: _fail(DiskFull("no room")), lambda item, error: failed.append(item)
        )
    assert failed == [3, 6]


def _fail(error: Exception) -> None:
    raise error


def test_a_fault_that_another_file_has_under_its_name_is_the_newest(
    home: Home, faults: Faults, clock: FakeClock
) -> None:
    """Seen red: it stood among the oldest, and was not listed."""
    file = home.inbox / "x.yaml"
    faults.add(file, _DENIED)
    for number in range(20):
        faults.add(home.outbox / f"{number}", _DENIED)
    file.write_bytes(b"another")
    clock.now = 1.0
    faults.add(file, _DENIED)
    assert faults.listed()[-1]["file"] == "inbox/x.yaml"


def test_a_long_message_is_cut_and_logged_once(
    home: Home, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        faults.add(home.inbox / "x.yaml", OSError("x" * 5000))
    assert len(faults.listed()[0]["message"]) == 1000 and len(caplog.records) == 1


def test_an_error_that_names_an_open_file_by_its_number_is_a_fault_like_any(
    home: Home, faults: Faults
) -> None:
    """Seen red: TypeError, out of what keeps faults apart."""
    faults.add(home.inbox / "x.yaml", IsADirectoryError(errno.EISDIR, "Is a directory", 5))
    assert faults.listed()[0]["reason"] == "NotARegularFile"
