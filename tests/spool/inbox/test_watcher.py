"""The watch on the inbox: it wakes, it is found out when it does not, and it is armed again."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.spool.inbox.watcher import Watcher

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
    names, deadline = watcher.take_renamed_in(), time.monotonic() + _PATIENCE
    while "last" not in names:
        assert time.monotonic() < deadline
        names |= watcher.take_renamed_in()
    assert names == {"k.yaml", "k2.yaml", "last"}
    assert watcher.take_renamed_in() == set()


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


def test_a_missing_folder_is_polled_for_and_watched_when_it_is_back(
    watcher: Watcher, tmp_path: Path
) -> None:
    tmp_path.rmdir()
    watcher.tend(1.0)
    assert watcher.mode == "polling"
    tmp_path.mkdir()
    watcher.tend(2.0)
    assert watcher.mode == "events"
