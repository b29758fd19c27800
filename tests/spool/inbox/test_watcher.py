"""The watch on the inbox: it wakes, it is found out when it does not, and it is armed again."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watchdog.events import FileMovedEvent, FileSystemEvent

from runner.spool.inbox.watcher import Watcher
from tests.harness import eventually

_PATIENCE = 20.0


@pytest.fixture
def wake() -> threading.Event:
    """What the watcher sets."""
    return threading.Event()


@pytest.fixture
def watcher(tmp_path: Path, wake: threading.Event) -> Iterator[Watcher]:
    """An armed watch on an empty folder."""
    made = Watcher(tmp_path, wake)
    made.tend(0.0)
    assert wake.wait(_PATIENCE)
    wake.clear()
    yield made
    made.stop()


def test_a_new_file_wakes(watcher: Watcher, wake: threading.Event, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"")
    assert wake.wait(_PATIENCE)
    assert watcher.mode == "events"


@pytest.mark.skipif(sys.platform != "linux", reason="only inotify tells a rename from a creation")
def test_only_a_file_that_is_renamed_to_its_name_counts_as_renamed_in(
    watcher: Watcher, tmp_path: Path
) -> None:
    """Seen red: a name that was renamed away counted, so what was written there next did too."""
    aside = tmp_path / "aside"
    aside.mkdir()
    written, linked, kept, left = (tmp_path / f"{name}.yaml" for name in "wlkx")
    written.write_bytes(b"")
    os.link(written, linked)
    left.write_bytes(b"")
    left.rename(aside / "x")
    (aside / "x").rename(kept)
    kept.rename(tmp_path / "k2.yaml")
    (aside / "last").write_bytes(b"")
    (aside / "last").rename(tmp_path / "last")
    names: set[str] = set()

    def take() -> bool:
        names.update(watcher.take_renamed_in())
        return "last" in names

    eventually(take, "the last event")
    assert names == {"k.yaml", "k2.yaml", "last"}
    assert watcher.take_renamed_in() == set()


def test_hidden_files_folders_and_what_is_read_or_removed_do_not_wake(
    watcher: Watcher, wake: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, seen = watcher._handler, set()
    handle = handler.on_any_event

    def see(event: FileSystemEvent) -> None:
        seen.add(os.path.basename(os.fsdecode(event.src_path)))
        handle(event)

    def until_all_was_seen(mark: str) -> None:
        (tmp_path / mark).touch()
        eventually(lambda: mark in seen, "the event of a hidden file")

    monkeypatch.setattr(handler, "on_any_event", see)
    file = tmp_path / "x.yaml"
    file.write_bytes(b"x")
    until_all_was_seen(".first")
    assert wake.is_set() and "x.yaml" in seen
    wake.clear()
    file.read_bytes()
    file.unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").rename(tmp_path / "another")
    until_all_was_seen(".second")
    assert not wake.is_set() and watcher.take_renamed_in() == set()


@pytest.mark.parametrize("how", ["removed", "moved away"])
def test_the_end_of_a_pause_wakes(tmp_path: Path, wake: threading.Event, how: str) -> None:
    """Seen red: the runner went on at the next rescan, up to a minute later."""
    inbox, aside = tmp_path / "inbox", tmp_path / "aside"
    inbox.mkdir()
    pause = inbox / "runner.pause"
    pause.touch()
    watcher = Watcher(inbox, wake)
    watcher.tend(0.0)
    wake.clear()
    pause.unlink() if how == "removed" else pause.rename(aside)
    assert wake.wait(_PATIENCE)
    watcher.stop()


def test_a_flood_of_renames_is_kept_in_bounds(
    watcher: Watcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.spool.inbox.watcher._MOST_NAMES", 2)
    for number in range(4):
        watcher._handler.on_any_event(FileMovedEvent("", str(tmp_path / f"{number}.yaml")))
    assert watcher.take_renamed_in() == {"0.yaml", "1.yaml"}


def test_a_watch_is_tried_every_minute_and_every_five_seconds_while_it_says_nothing(
    watcher: Watcher, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial is a file that is made and removed; its event has two seconds to come."""
    trials = 0

    @contextmanager
    def silent(folder: Path) -> Iterator[Path]:
        nonlocal trials
        trials += 1
        yield folder

    eventually(lambda: watcher._handler.events > 0, "the first trial's event")
    monkeypatch.setattr("runner.spool.inbox.watcher.own_file", silent)
    watcher.tend(0.5)
    for moment, tried, mode in (
        (59.5, 0, "events"), (60.0, 1, "events"), (61.5, 1, "events"), (62.0, 1, "events"),
        (64.5, 1, "events"), (65.0, 2, "events"), (67.0, 2, "events"), (70.0, 3, "events"),
        (71.5, 3, "events"), (72.0, 3, "polling"), (74.5, 3, "polling"), (75.0, 4, "polling"),
        (77.0, 4, "polling"), (80.0, 5, "polling"),
    ):  # fmt: skip
        watcher.tend(moment)
        assert (moment, trials, watcher.mode) == (moment, tried, mode)
    watcher._handler.on_any_event(FileMovedEvent("", ".own"))
    for moment, tried in ((80.5, 5), (139.5, 5), (140.0, 6)):
        watcher.tend(moment)
        assert (moment, trials, watcher.mode) == (moment, tried, "events")


def test_a_trial_that_cannot_make_its_file_is_a_trial_all_the_same(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError("no room")

    monkeypatch.setattr("runner.spool.inbox.watcher.own_file", fail)
    watcher.tend(60.0)
    assert watcher.mode == "events"


def test_without_a_watch_to_be_had_the_folder_is_polled(
    tmp_path: Path, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(observer: object) -> None:
        raise OSError("inotify watch limit reached")

    watcher = Watcher(tmp_path, wake)
    with monkeypatch.context() as patch:
        patch.setattr("watchdog.observers.api.BaseObserver.start", fail)
        watcher.tend(0.0)
        assert watcher.mode == "polling" and not wake.is_set()
    watcher.tend(1.0)
    assert watcher.mode == "events" and wake.is_set()
    watcher.stop()


def test_a_watch_that_ended_leaves_no_ear_and_no_thread(
    tmp_path: Path, wake: threading.Event
) -> None:
    logger, threads = logging.getLogger("watchdog.observers"), threading.active_count()
    before = list(logger.handlers)
    watcher = Watcher(tmp_path, wake)
    for _ in range(2):
        watcher.tend(0.0)
        assert len(logger.handlers) == len(before) + 1
        watcher.stop()
        watcher.stop()
        assert logger.handlers == before and threading.active_count() == threads


def test_another_warning_of_the_watch_does_not_wake(
    watcher: Watcher, wake: threading.Event
) -> None:
    logging.getLogger("watchdog.observers.inotify_c").warning("something else")
    assert not wake.is_set()


def test_trying_the_watch_writes_through_no_planted_link(
    wake: threading.Event, tmp_path: Path
) -> None:
    """Seen red: the target of the link was created."""
    inbox, target = tmp_path / "inbox", tmp_path / "target"
    inbox.mkdir()
    (inbox / f".cookie-{os.getpid()}.writing").symlink_to(target)
    made = Watcher(inbox, wake)
    made.tend(0.0)
    made.stop()
    assert not target.exists() and len(list(inbox.iterdir())) == 1


def test_a_watch_that_takes_the_folder_and_says_nothing_is_found_out(
    tmp_path: Path, wake: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(tmp_path, wake)
    monkeypatch.setattr(watcher._handler, "on_any_event", lambda event: None)
    moment = 0.0
    for _ in range(3):
        watcher.tend(moment)
        assert watcher.mode == "events"
        watcher.tend(moment + 3.0)
        moment += 61.0
    assert watcher.mode == "polling"
    monkeypatch.undo()
    watcher.tend(moment)
    wake.clear()
    (tmp_path / "x.yaml").write_bytes(b"")
    assert wake.wait(_PATIENCE)
    watcher.tend(moment + 1.0)
    assert watcher.mode == "events"
    watcher.stop()


def test_a_full_queue_whose_events_are_lost_wakes(watcher: Watcher, wake: threading.Event) -> None:
    logger = logging.getLogger("watchdog.observers.inotify_c")
    logger.warning("Inotify queue overflowed; filesystem events were lost")
    assert wake.is_set()


def test_a_dead_watch_is_armed_again(watcher: Watcher, wake: threading.Event) -> None:
    assert watcher._observer is not None
    watcher._observer.stop()
    watcher._observer.join(_PATIENCE)
    assert watcher.mode == "polling"
    wake.clear()
    watcher.tend(1.0)
    assert wake.is_set()
    assert watcher.mode == "events"


def test_a_folder_that_another_took_the_place_of_is_watched_no_more(tmp_path: Path) -> None:
    folder, other, wake = tmp_path / "inbox", tmp_path / "other", threading.Event()
    folder.mkdir()
    other.mkdir()
    watcher = Watcher(folder, wake)
    watcher.tend(0.0)
    # Twice, for one of the two has the higher number.
    for moment in (1.0, 2.0):
        folder.rename(tmp_path / "aside")
        other.rename(folder)
        (tmp_path / "aside").rename(other)
        wake.clear()
        watcher.tend(moment)
        assert wake.is_set()
        wake.clear()
        (folder / f"{moment}.yaml").touch()
        assert wake.wait(_PATIENCE)
    watcher.stop()


def test_a_missing_folder_is_polled_for_and_watched_when_it_is_back(
    watcher: Watcher, tmp_path: Path
) -> None:
    tmp_path.rmdir()
    watcher.tend(1.0)
    assert watcher.mode == "polling"
    tmp_path.mkdir()
    watcher.tend(2.0)
    assert watcher.mode == "events"
