"""Whether a runner is running: by its lock or by a file that changes, whatever the clocks say."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runner import client
from runner.files import text_of
from runner.settings import Home
from runner.spool.disk.disk import Disk
from runner.spool.disk.locks import home_lock
from tests.spool.conftest import SPEC, Spool
from tests.spool.faulty import refused

INTERVAL = 0.1
NOW = datetime.now(UTC)
TIMES = pytest.mark.parametrize(
    "shown", [NOW - timedelta(hours=1), NOW, NOW + timedelta(hours=1), NOW + timedelta(days=30_000)]
)

Says = Callable[..., None]


@pytest.fixture
def place(home: Path) -> Home:
    return Home(home)


@pytest.fixture
def says(place: Home) -> Says:
    """Writes a health file as a runner of this machine does, or with other values."""

    def write(shown: datetime = NOW, **other: object) -> None:
        health = {
            "pid": 1, "host": platform.node(), "system": sys.platform, "state": "idle",
            "updated_at": shown.isoformat(), "interval_seconds": INTERVAL, **other,
        }  # fmt: skip
        Disk().replace(place.health, json.dumps(health).encode())

    return write


@contextmanager
def held(home: Home) -> Iterator[None]:
    """The home's lock, as a runner has it."""
    lock = home_lock(home)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def going_on(says: Says, **other: object) -> Iterator[None]:
    """A runner somewhere, by a clock that stands still for an hour at a time."""
    over = threading.Event()

    def write() -> None:
        hours = 0
        while not over.wait(INTERVAL):
            hours += 1
            # Found out at the next change, however long a busy machine takes for that.
            says(NOW - timedelta(hours=hours), interval_seconds=10.0, **other)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever waits fail."""

    def wait(seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(time, "sleep", wait)


@TIMES
@pytest.mark.parametrize("host", [platform.node(), "another"])
def test_a_runner_that_holds_its_lock_is_running_whatever_the_clocks_say(
    place: Home, says: Says, monkeypatch: pytest.MonkeyPatch, shown: datetime, host: str
) -> None:
    """Seen red: one whose clock was an hour behind."""
    at_once(monkeypatch)
    says(shown, host=host)
    with held(place):
        health = client.runner_health(place)
    assert health is not None and health["updated_at"] == shown.isoformat()


@TIMES
def test_a_runner_that_has_ended_is_not_running_whatever_the_clocks_say(
    place: Home, says: Says, monkeypatch: pytest.MonkeyPatch, shown: datetime
) -> None:
    """Seen red: one that was killed while its clock was an hour ahead."""
    at_once(monkeypatch)
    with held(place):
        pass
    says(shown)
    assert client.runner_health(place) is None


def test_without_a_health_file_or_while_it_stops_none_is_running(place: Home, says: Says) -> None:
    with held(place):
        assert client.runner_health(place) is None
        says(state="stopping")
        assert client.runner_health(place) is None


ELSEWHERE = pytest.mark.parametrize("other", [{"host": "another"}, {"system": "plan9"}])


@ELSEWHERE
def test_a_runner_elsewhere_is_running_while_its_file_changes(
    place: Home, says: Says, other: dict[str, object]
) -> None:
    says(interval_seconds=10.0, **other)
    with going_on(says, **other):
        for _ in range(3):
            assert client.runner_health(place) is not None
    says(**other)
    began = time.monotonic()
    while client.runner_health(place) is not None:
        assert time.monotonic() < began + 60
    assert time.monotonic() >= began + 5 * INTERVAL, "it may be starting again"


@ELSEWHERE
@TIMES
def test_a_runner_elsewhere_whose_file_stays_as_it_is_is_not_running(
    place: Home,
    says: Says,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, object],
    shown: datetime,
) -> None:
    says(shown, **other)
    assert client.runner_health(place) is None
    at_once(monkeypatch)
    assert client.runner_health(place) is None, "that is known by now"


def test_of_a_lock_that_nobody_here_may_look_at_nothing_is_concluded(
    place: Home, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "is_held", lambda home: None)
    says(interval_seconds=10.0)
    with going_on(says):
        assert client.runner_health(place) is not None


def test_a_change_that_came_at_some_time_since_the_last_look_is_no_sign_of_life(
    place: Home, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: with every change since the last look taken for one of a moment ago."""
    says(host="another")
    assert client.runner_health(place) is None
    says(NOW + timedelta(seconds=1), host="another")
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: later + time.perf_counter())
    later = began + 3600.0 - time.perf_counter()
    assert client.runner_health(place) is None


def test_a_runner_that_died_counts_for_five_intervals_for_who_has_seen_it(
    place: Home, says: Says
) -> None:
    """Its supervisor starts it again; who waits for a job goes on waiting."""
    says(interval_seconds=4 * INTERVAL)
    with held(place):
        assert client.runner_health(place) is not None
    began = time.monotonic()
    assert client.runner_health(place) is not None
    while client.runner_health(place) is not None:
        assert time.monotonic() < began + 60
    assert time.monotonic() >= began + 4 * INTERVAL


@pytest.mark.parametrize("stem", ["a" * 150, "a" * 181, "a" * 190, "猫" * 66, "a" * 230])
def test_a_submitted_file_is_found_by_its_name_however_long_that_is(
    tmp_path: Path, stem: str
) -> None:
    """Seen red: from 183 to 199 bytes the receipt had a name that nobody looked for."""
    spool = Spool(tmp_path / "home")
    spool.start()
    spool.until(lambda: client.runner_health(spool.home))
    drop = client.submit(spool.home, SPEC.encode(), f"{stem}.yaml")
    spool.gone(drop)
    job = client.job_of(spool.home, f"{stem}.yaml")
    assert spool.until(lambda: spool.status(job))["source"]["name"] == text_of(drop)
    spool.stop()


def test_a_folder_named_like_a_rejected_job_is_not_taken_for_its_spec(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home")
    spool.start()
    for name in ("photos", "photos.yml"):
        (spool.home.inbox / name).mkdir()
    spool.drop("photos.yaml", "kind: nonsense\n")
    spool.gone("photos.yaml")
    assert client.wait_until_over(spool.home, "photos", 0)["state"] == "rejected"
    spool.stop()


class Refusing:
    """An answer that the system refuses to give so often; `on` is when it counts."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> str | None:
        self.left -= 1
        if self.left >= 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return "here"


def test_who_waits_takes_a_refusal_for_nothing_yet() -> None:
    """Seen red: one ESTALE ended `submit --wait` with a traceback."""
    assert client._wait(Refusing(3), None, check=Refusing(2)) == "here"


def test_a_refusal_that_lasts_is_raised_and_one_at_the_end_of_a_wait_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end it does not pass for "none has come"."""
    with pytest.raises(OSError, match="[Ss]tale"):
        client._wait(Refusing(1 << 30), 0.0)
    monkeypatch.setattr(client, "_REFUSED_SECONDS", 0.2)
    with pytest.raises(OSError, match="[Ss]tale"):
        client._wait(Refusing(1 << 30), None)


def test_a_refusal_that_comes_again_later_is_waited_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = iter(range(0, 1000, 9))
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    answers = iter([None, OSError(), None, OSError(), None, OSError(), None])

    def poll() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    look = client.patient(poll)
    assert [look() for _ in range(7)] == [None] * 7


def test_a_picture_beside_a_spec_is_found_though_its_folder_cannot_be_listed(
    tmp_path: Path,
) -> None:
    """Seen red: the command ended."""
    with refused(tmp_path, errno.EACCES, reads=["listdir"]):
        assert client.beside(tmp_path / "spec.yaml", "cat.png") == tmp_path / "cat.png"
    with refused(tmp_path, reads=["listdir"]), pytest.raises(OSError, match="/"):
        client.beside(tmp_path / "spec.yaml", "cat.png")
