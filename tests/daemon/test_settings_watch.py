"""Settings that change under a running runner: taken up at idle, told, or left alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from runner.daemon.settings_watch import SettingsWatch
from runner.settings import Home, Settings, load_settings


@pytest.fixture
def home(tmp_path: Path) -> Home:
    file = tmp_path / "fluxdrop.yaml"
    file.write_text("idle_minutes: 5\ndevice: cpu\n", encoding="utf-8")
    return Home(tmp_path, load_settings(file, {}))


def change(home: Home, text: str, watch: SettingsWatch, *, idle: bool = True) -> None:
    (home.root / "fluxdrop.yaml").write_text(text, encoding="utf-8")
    # It is read once it rests.
    watch.look(idle=idle)
    watch.look(idle=idle)


def test_what_is_safe_is_taken_up_at_an_idle_moment(home: Home) -> None:
    watch = SettingsWatch(home)
    change(home, "idle_minutes: 6\nwindow: 22:00-07:00\ndevice: cpu\n", watch, idle=False)
    assert home.settings.idle_minutes == 5
    assert watch.note and "idle_minutes, window will be taken up once it is idle" in watch.note
    watch.look(idle=True)
    assert (home.settings.idle_minutes, home.settings.window) == (6, "22:00-07:00")
    assert watch.note is None


def test_for_the_others_it_says_once_that_it_has_to_be_started_again(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    watch, wanted = SettingsWatch(home), "was changed after the runner started: restart it"
    change(home, "idle_minutes: 6\ndevice: cuda\nisolate: true\n", watch)
    watch.look(idle=True)
    assert (home.settings.idle_minutes, home.settings.device) == (6, "cpu")
    assert watch.note == f"fluxdrop.yaml {wanted} for device, isolate"
    assert [r.levelno for r in caplog.records if wanted in r.message] == [logging.WARNING]
    change(home, "idle_minutes: 5\ndevice: cpu\n", watch)
    assert watch.note is None and home.settings.idle_minutes == 5


@pytest.mark.parametrize("text", ["idle_minutes: soon\n", "strict: [\n", None])
def test_a_file_that_is_wrong_or_gone_changes_nothing_and_is_told(
    home: Home, text: str | None
) -> None:
    watch, before = SettingsWatch(home), home.settings
    if text is None:
        (home.root / "fluxdrop.yaml").unlink()
        watch.look(idle=True)
        watch.look(idle=True)
    else:
        change(home, text, watch)
    assert home.settings is before
    assert watch.note and watch.note.startswith("the runner goes on with its settings from before")
    change(home, "idle_minutes: 7\ndevice: cpu\n", watch)
    assert watch.note is None and home.settings.idle_minutes == 7


def test_a_file_that_is_being_written_is_not_read(home: Home) -> None:
    watch = SettingsWatch(home)
    for text in ("idle_minutes: 6\n", "idle_minutes: 60\ndevice: cpu\n"):
        (home.root / "fluxdrop.yaml").write_text(text, encoding="utf-8")
        watch.look(idle=True)
    assert home.settings.idle_minutes == 5 and watch.note is None
    watch.look(idle=True)
    assert home.settings.idle_minutes == 60


def test_settings_that_were_read_from_no_file_stay(tmp_path: Path) -> None:
    home = Home(tmp_path, Settings(idle_minutes=3))
    watch = SettingsWatch(home)
    change(home, "idle_minutes: 6\n", watch)
    assert home.settings.idle_minutes == 3
