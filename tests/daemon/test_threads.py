"""Every thread of the runner is watched: with one that ended by a mistake, the process ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import exit_codes
from runner.clock import monotonic
from runner.daemon.writer import Writer
from runner.engine.gpu_thread import GpuThread
from runner.spool.inbox.compose_pool import ComposePool
from runner.spool.inbox.intake import Intake
from runner.threads import Threads
from tests.daemon.columns import daemon_of
from tests.harness import PATIENCE, clean_environment, eventually, spec
from tests.spool.composing import SMALL
from tests.spool.conftest import SPEC, Spool


def end(*given: Any) -> Any:
    """What no thread expects: not even an `Exception`."""
    raise SystemExit("a mistake")


@pytest.mark.parametrize(
    ("owner", "method", "name"),
    [
        (Writer, "_write", "writer"),
        (Intake, "scan", "intake"),
        (ComposePool, "_assess", "compose 1"),
    ],
    ids=["writer", "intake", "compose"],
)
def test_a_thread_that_ends_by_a_mistake_ends_the_runner_with_a_code_and_a_sentence(
    packed: Spool, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, name: str
) -> None:
    monkeypatch.setattr(owner, method, end)
    packed.drop("small.yaml", SMALL if name.startswith("compose") else SPEC)
    daemon = daemon_of(packed)
    packed.until(lambda: daemon.worker.exit_code)
    assert daemon.worker.exit_code == exit_codes.BROKEN
    fault = daemon.home.threads.broken
    assert fault == f"its thread {name} ended by a mistake (SystemExit)"
    assert name not in daemon.home.threads.still()


def test_the_gpu_thread_is_watched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads()
    executor = GpuThread(tmp_path, threads=threads)
    assert "gpu0" in threads.still()
    monkeypatch.setattr("runner.engine.gpu_thread._log_failure", end)
    executor.release()
    eventually(lambda: threads.broken, "the end of the thread")
    assert threads.broken == "its thread gpu0 ended by a mistake (SystemExit)"


def test_a_runner_whose_thread_ended_ends_with_70_and_says_which(home: Path) -> None:
    (home / "inbox" / "hero.yaml").write_text(spec(), encoding="utf-8")
    broken = (
        "from runner.daemon import writer\n"
        "def end(*given): raise SystemExit\n"
        "writer.Writer._write = end\n"
        "from runner.cli import main\n"
        f"main(['run', '--one-process', '--home', {str(home)!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken], env=clean_environment(), timeout=PATIENCE,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == exit_codes.BROKEN == 70, done.stderr
    assert "its thread writer ended by a mistake (SystemExit)" in done.stderr


def test_health_says_for_how_long_each_thread_has_not_moved(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = 3600.0

    def told(stands: set[str]) -> bool:
        file = spool.home.health
        still = json.loads(file.read_bytes()).get("threads", {}) if file.exists() else {}
        return {name for name, seconds in still.items() if seconds > hour / 2} == stands

    over = threading.Event()
    spool.home.threads.start("stands", over.wait)
    spool.drop("hero.yaml")
    spool.end("hero")
    monkeypatch.setattr("runner.threads.monotonic", lambda: monotonic() + hour)
    spool.drop("next.yaml")
    spool.end("next")
    spool.until(lambda: told({"stands"}))
    over.set()


@pytest.mark.parametrize(
    "write",
    [
        lambda told: {**told, "tags": 7},
        lambda told: {**told, "prompt": ["a", 1], "model": {}, "kind": 1, "seed": "x"},
        lambda told: {**told, "result": {**told["result"], "width": "wide", "created_at": [1]}},
        lambda told: {**told, "result": {**told["result"], "index": {"a": 1}, "pack": [], "x": {}}},
        lambda told: "[" * 100_000,
    ],
    ids=["tags", "fields", "result", "index", "deep"],
)
def test_a_strange_json_file_in_a_jobs_folder_costs_no_later_job_its_pictures(
    spool: Spool, write: Callable[[dict[str, Any]], Any]
) -> None:
    """Seen red: it ended the writer's thread, and nothing was ever saved again."""
    spool.drop("hero.yaml", SPEC.replace("seed: 7", "count: 2"))
    spool.end("hero")
    folder = spool.home.job("hero")
    strange = write(json.loads((folder / "hero-0001.json").read_bytes()))
    text = strange if isinstance(strange, str) else json.dumps(strange)
    (folder / "hero-0001.json").write_text(text, encoding="utf-8")
    (folder / "hero-0009.json").write_text(text, encoding="utf-8")
    spool.restart()
    spool.drop("next.yaml")
    assert spool.end("next")["images"]["done"] == 1
    spool.until(lambda: daemon_of(spool).writer.is_idle)
    assert daemon_of(spool).home.threads.broken is None
