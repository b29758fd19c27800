"""Fixtures for every test: fresh homes and real runners. See `tests/harness.py`."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from logging.handlers import RotatingFileHandler as FileHandler
from pathlib import Path

import hypothesis as _early  # noqa: F401 it looks at who refers to whom, which freezing hides
import pytest

from runner.cli.init import make_home
from runner.engine.memory.devices import defer_import
from tests.harness import Runner

_SHOWN = 6000

# Workers share the cores: where several compute, their threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests import diffusers, and it that: seconds of torch's compiler, as the runner knows.
defer_import("bitsandbytes")


def pytest_configure() -> None:
    """Let Ctrl-C and hangups reach the processes that tests start.

    A shell without job control ignores the one for what it starts in the background, `nohup` the
    other, and that is handed on to every child.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> None:
    """Leave what earlier modules have imported out of garbage collections, as the runner does.

    Each release of a model collects, and traversing torch and its company takes half a second.
    """
    if "torch" in sys.modules:
        gc.collect()
        gc.freeze()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home, at a place with a blank and letters that not every code page has."""
    # `prepare` sets it for this process; the next test must find it as it was.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "my höme ☂"
    make_home(folder)
    return folder


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """No test logs to the file of another one's home, which `main(["demo"])` opens."""
    ours = logging.getLogger("runner")
    level = ours.level
    yield
    ours.setLevel(level)
    for handler in [each for each in logging.root.handlers if isinstance(each, FileHandler)]:
        logging.root.removeHandler(handler)
        with suppress(OSError):
            handler.close()


@pytest.fixture(scope="session")
def shared_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One runner for all tests that need nothing special of it: starting one costs seconds."""
    folder = tmp_path_factory.mktemp("shared") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "hf"))
        make_home(folder)
    runner = Runner(folder).start()
    yield runner
    runner.stop()


@pytest.fixture
def runner(shared_runner: Runner) -> Runner:
    """The shared runner: drop under names of your own."""
    assert shared_runner in Runner.alive, "an earlier test ended the shared runner"
    return shared_runner


@pytest.fixture
def runner_of() -> Iterator[Callable[..., Runner]]:
    """Makes runners of one's own, to be paused, killed or settled otherwise; ends them."""
    made: list[Runner] = []

    def make(home: Path, **environment: str) -> Runner:
        made.append(Runner(home, **environment))
        return made[-1]

    yield make
    for each in made:
        if each in Runner.alive:
            each.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failing test shows what the runners of this moment printed."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]  # hook wrappers are untyped
        for each in Runner.alive:
            report.sections.append((f"runner {each.pid}", each.log[-_SHOWN:]))  # type: ignore[attr-defined]
    return report  # type: ignore[return-value]
