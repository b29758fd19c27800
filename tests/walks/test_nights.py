"""Nights: windows, `not_before`, `drain --until`, pauses, and the nightly example that ships.

A real runner in this process on the built-in model, with the wall clock under the test's hand.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner import clock
from runner.cli import main
from runner.daemon.daemon import Daemon
from runner.engine.batching import MAX_BATCH
from runner.engine.gpu_thread import of_home
from runner.settings import find_home
from tests.harness import PATIENCE, ROOT, sidecars, spec

pytestmark = pytest.mark.timeout(300)

NIGHTLY = ROOT / "specs" / "examples" / "nightly"
WINDOW = "23:00-07:00"
MANY = 24


class Night:
    """A home with a runner in this process, and its clock."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._shown = datetime.now().astimezone().replace(hour=12, minute=0, second=0)
        self._since = time.monotonic()
        self.speed = 1.0
        self._daemon: Daemon | None = None

    # -- the clock -------------------------------------------------------------------------------

    def seconds(self) -> float:
        """The time of day as the runner sees it."""
        passed = (time.monotonic() - self._since) * self.speed
        return self._shown.timestamp() + passed

    def jump(self, hour: int, minute: int = 0, *, days: int = 0) -> None:
        """Let the clock show an hour of today or of a later day."""
        today = datetime.fromtimestamp(self.seconds()).astimezone() + timedelta(days=days)
        self._shown = today.replace(hour=hour, minute=minute, second=1, microsecond=0)
        self._since = time.monotonic()

    # -- the runner ------------------------------------------------------------------------------

    def start(self) -> Daemon:
        """Start the runner."""
        self._daemon = Daemon(find_home(str(self.home)), of_home)
        self._daemon.open()
        return self._daemon

    def running(self) -> Daemon:
        """The runner, started unless it runs."""
        return self._daemon or self.start()

    def stop(self) -> None:
        """Stop it as a user would."""
        if self._daemon is not None:
            self._daemon.close()
        self._daemon = None

    def until(self, job: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Work until something is true of a job's status."""
        daemon = self.running()
        deadline = time.monotonic() + PATIENCE
        status: dict[str, Any] = {}
        while not (status and holds(status)):
            assert time.monotonic() < deadline, f"waited in vain: {json.dumps(status, indent=1)}"
            daemon.step(0.02)
            with suppress(FileNotFoundError):
                status = json.loads((self.home / "outbox" / job / "status.json").read_bytes())
        return status

    def drop(self, name: str, **fields: Any) -> str:
        """Put a spec into the inbox; the id it will have."""
        aside = self.home / "inbox" / ".tmp" / name
        aside.parent.mkdir(exist_ok=True)
        aside.write_text(spec(**fields), encoding="utf-8")
        aside.replace(self.home / "inbox" / f"{name}.yaml")
        return name

    def bulk(self, name: str, **fields: Any) -> str:
        """Put a bulk job of MANY images of one prompt into the inbox."""
        compose = {"pack": "shapes", "subjects": "red-circle", "variables": "on-white"}
        return self.drop(name, prompt=None, compose=compose, count=MANY, **fields)

    def made_at(self, job: str) -> list[datetime]:
        """When the images of a job were made, by the runner's clock."""
        made = (each["result"]["created_at"] for each in sidecars(self.home / "outbox" / job))
        return [datetime.fromisoformat(moment).astimezone() for moment in made]


@pytest.fixture
def night(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    """It is noon."""
    one = Night(home)
    moved = SimpleNamespace(time=one.seconds, monotonic=time.monotonic)
    monkeypatch.setattr(clock, "time", moved)
    yield one
    one.stop()


def waits(status: dict[str, Any]) -> bool:
    return bool(status["state"] == "queued" and status["reason"] == "OutsideWindow")


def is_over(status: dict[str, Any]) -> bool:
    return status["state"] not in ("queued", "running")


def test_a_night_job_works_inside_its_window_only_and_goes_on_the_next_night(night: Night) -> None:
    job = night.bulk("walks", window=WINDOW)
    status = night.until(job, waits)
    assert status["images"]["done"] == 0 and status["started_at"] is None
    night.jump(23)
    night.until(job, lambda s: s["images"]["done"] >= 2)
    night.jump(7, days=1)
    first = night.until(job, waits)["images"]["done"]
    assert 2 <= first < MANY
    kept = night.made_at(job)
    night.jump(12)
    night.until(night.drop("by-day"), is_over)
    assert night.until(job, waits)["images"]["done"] == first
    night.jump(23, 30)
    status = night.until(job, is_over)
    assert (status["state"], status["images"]["done"], status["attempt"]) == ("succeeded", MANY, 1)
    moments = night.made_at(job)
    assert moments[:first] == kept, "an image of the first night was made again"
    # What is in hand at seven is finished.
    inside = [moment.hour >= 23 or moment.hour < 7 for moment in moments]
    assert inside.count(False) <= MAX_BATCH


def test_a_window_of_the_settings_holds_for_every_job_without_its_own(night: Night) -> None:
    (night.home / "fluxdrop.yaml").write_text(f'window: "{WINDOW}"\n', encoding="utf-8")
    job = night.drop("anything")
    assert night.until(job, waits)["images"]["done"] == 0
    own = night.drop("own", window="11:00-13:00")
    assert night.until(own, is_over)["state"] == "succeeded"
    night.jump(23)
    assert night.until(job, is_over)["state"] == "succeeded"


def test_not_before_holds_a_job_back_until_its_moment(night: Night) -> None:
    day = datetime.fromtimestamp(night.seconds()).strftime("%Y-%m-%d")
    job = night.drop("late", not_before=f"{day}T20:30")
    night.until(job, waits)
    night.jump(20, 29)
    night.until(night.drop("early"), is_over)
    assert night.until(job, waits)["images"]["done"] == 0
    night.jump(20, 30)
    assert night.until(job, is_over)["state"] == "succeeded"
    assert night.made_at(job)[0].hour == 20


def opens_at(night: Night, hour: int, *, days: int = 0) -> Callable[[dict[str, Any]], bool]:
    """Whether a status says that its job waits for an hour of today or of a later day."""
    today = datetime.fromtimestamp(night.seconds()) + timedelta(days=days)
    hours = today.replace(hour=hour, minute=0, second=0, microsecond=0)
    return lambda s: waits(s) and clock.local_time(hours.timestamp()) in str(s["message"])


def test_a_clock_that_was_a_day_ahead_makes_no_job_sleep_through_its_window(night: Night) -> None:
    """Seen red: the hour was computed when the job was accepted, and never again."""
    tonight, tomorrow = opens_at(night, 23), opens_at(night, 23, days=1)
    night.jump(12, days=1)
    job = night.drop("early", window=WINDOW)
    night.until(job, tomorrow)
    (night.home / "inbox" / "runner.pause").touch()
    held = night.drop("held")
    night.until(held, lambda s: s["state"] == "queued")
    night.jump(12, days=-1)
    (night.home / "inbox" / "runner.pause").unlink()
    # Accepted in what is tomorrow now; and no hour of its own holds it.
    assert night.until(held, is_over)["state"] == "succeeded"
    assert night.until(job, tonight)["images"]["done"] == 0
    night.jump(23)
    assert night.until(job, is_over)["state"] == "succeeded"


def test_a_clock_that_was_a_day_behind_lets_no_job_begin_outside_its_window(night: Night) -> None:
    job, tonight = night.drop("late", window=WINDOW), opens_at(night, 23, days=1)
    night.until(job, opens_at(night, 23))
    night.jump(12, days=1)
    assert night.until(job, tonight)["images"]["done"] == 0
    night.jump(23)
    assert night.until(job, is_over)["state"] == "succeeded"


def test_a_clock_that_was_mended_between_two_lives_of_a_runner_holds_no_job_back(
    night: Night,
) -> None:
    tonight = opens_at(night, 23)
    night.jump(12, days=1)
    job = night.drop("early", window=WINDOW)
    night.until(job, waits)
    night.stop()
    night.jump(12, days=-1)
    assert night.until(job, tonight)["images"]["done"] == 0


def test_drain_until_waits_for_the_window_and_leaves_at_its_hour(night: Night) -> None:
    # Loads the model: the night itself takes six seconds.
    night.until(night.drop("warm"), is_over)
    daemon = night.running()
    night.jump(22, 50)
    night.bulk("walks", window=WINDOW, steps=60)
    until = datetime.fromtimestamp(night.seconds()) + timedelta(hours=8, minutes=10)
    night.speed = 3600 * 8 / 6
    night.jump(22, 50)
    outcome = daemon.drain(until=until.timestamp())
    assert night.seconds() >= until.timestamp()
    assert outcome.counts["succeeded"] == 1, "the first alone"
    night.stop()
    status = json.loads((night.home / "outbox/walks/status.json").read_bytes())
    assert status["state"] == "queued" and 0 < status["images"]["done"] < MANY
    assert all(moment.hour >= 23 or moment.hour <= 7 for moment in night.made_at("walks"))


def test_drain_until_leaves_early_when_nothing_is_left(night: Night) -> None:
    night.drop("only")
    began = night.seconds()
    outcome = night.start().drain(until=began + 36_000)
    assert outcome.counts["succeeded"] == 1 and night.seconds() < began + 3600


def test_a_pause_holds_a_bulk_job_at_an_images_end(night: Night) -> None:
    job = night.bulk("paused")
    night.until(job, lambda s: s["images"]["done"] >= 1)
    (night.home / "inbox" / "runner.pause").touch()
    done = night.until(job, lambda s: s["reason"] == "Paused")["images"]["done"]
    assert done < MANY
    (night.home / "inbox" / "runner.pause").unlink()
    status = night.until(job, is_over)
    assert (status["state"], status["images"]["done"], status["attempt"]) == ("succeeded", MANY, 1)


def test_a_daytime_job_of_higher_priority_passes_the_nights_work(night: Night) -> None:
    night.jump(23)
    bulk = night.bulk("walks", window=WINDOW, priority=-10)
    night.until(bulk, lambda s: s["images"]["done"] >= 1)
    urgent = night.drop("urgent")
    assert night.until(urgent, is_over)["state"] == "succeeded"
    done = len(night.made_at(bulk))
    assert done < MANY
    status = night.until(bulk, is_over)
    assert (status["state"], status["images"]["done"], status["attempt"]) == ("succeeded", MANY, 1)


def test_the_nightly_example_makes_new_pictures_every_night(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of the crontab itself is run, with this home's paths in it."""
    shutil.copytree(NIGHTLY / "pack" / "evening-walks", night.home / "prompts" / "evening-walks")
    shutil.copy(NIGHTLY / "night.yaml", night.home)
    entry = (NIGHTLY / "crontab.txt").read_text(encoding="utf-8").splitlines()[-1]
    minute, hour, *_ = entry.split()
    words = shlex.split(entry.replace("/srv/fluxdrop", shlex.quote(str(night.home))))
    unit = (NIGHTLY / "fluxdrop-night.service").read_text(encoding="utf-8")
    assert " ".join(entry.split()[5:]) in unit, "the timer does the same"
    seeds: list[int] = []
    for number, job in enumerate(("night", "night-2")):
        night.jump(int(hour), int(minute), days=min(number, 1))
        assert main(words[words.index("fluxdrop") + 1 :]) == 0
        night.until(job, waits)
        night.jump(23)
        status = night.until(job, is_over)
        assert (status["state"], status["images"]["done"]) == ("succeeded", 24)
        assert status["priority"] == -10 and status["tags"] == ["night"]
        seeds += [each["seed"] for each in sidecars(night.home / "outbox" / job)]
    assert len(set(seeds)) == len(seeds), "a picture came twice"
