"""The light commands stay light: their CPU time, what they import, and what they read.

Each is run in a fresh interpreter that reports, when it ends, its CPU time, its modules and the
files it opened. CPU time and not the clock: other work on the machine must not matter.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.cli import VERBS
from tests.harness import PATIENCE, clean_environment, spec

pytestmark = pytest.mark.timeout(180)

CPU_SECONDS = 0.3
TRIES = 5
HEAVY = {"torch", "diffusers", "transformers", "numpy", "mcp", "huggingface_hub", "accelerate"}

REPORTER = """
import sys
opened, listed = [], []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
    elif event in ("os.listdir", "os.scandir") and isinstance(arguments[0], str):
        listed.append(arguments[0])
sys.addaudithook(hook)
try:
    from runner.cli import main
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
import json, time
sys.stderr.write("\\n" + json.dumps({"cpu": time.process_time(), "code": code, "opened": opened,
                                   "listed": listed, "modules": sorted(sys.modules)}))
"""


@dataclass(frozen=True)
class Report:
    """What one run of a command cost."""

    cpu: float
    code: int
    modules: set[str]
    opened: list[str]
    listed: list[str]


def run(*arguments: str, cwd: Path) -> Report:
    """Run a command in a fresh interpreter and read its report."""
    done = subprocess.run(
        [sys.executable, "-c", REPORTER, *arguments], cwd=cwd, capture_output=True,
        timeout=PATIENCE, env=clean_environment(), encoding="utf-8",
    )  # fmt: skip
    told = json.loads(done.stderr.splitlines()[-1])
    return Report(told["cpu"], told["code"], set(told["modules"]), told["opened"], told["listed"])


@pytest.fixture
def used_home(home: Path) -> Path:
    """A home with many finished jobs, whose status files nobody should read."""
    for n in range(300):
        job = home / "outbox" / f"job-{n}"
        job.mkdir()
        (job / "status.json").write_text("poison", encoding="utf-8")
    recent = [{"id": f"job-{n}", "state": "succeeded", "kind": "text2img", "model": "tiny",
               "reason": None, "message": None, "total": 1, "done": 1, "failed": 0, "skipped": 0}
              for n in range(20)]  # fmt: skip
    health = {"schema": 1, "pid": 1, "host": platform.node(), "system": sys.platform,
              "state": "idle", "job": None, "updated_at": "2026-01-01T00:00:00.000Z",
              "interval_seconds": 2.0, "queued": 0, "next": [], "counts": {"succeeded": 300},
              "recent": recent}  # fmt: skip
    (home / "outbox" / "runner.json").write_text(json.dumps(health), encoding="utf-8")
    (home / "good.yaml").write_text(spec(), encoding="utf-8")
    (home / "bad.yaml").write_text(spec(stpes=1), encoding="utf-8")
    return home


LIGHT = {
    "help": (["--help"], 0),
    "version": (["--version"], 0),
    "status": (["status"], 0),
    "status-json": (["status", "--json"], 0),
    "status-one": (["status", "job-1"], 1),
    "check-good": (["check", "good.yaml"], 0),
    "check-bad": (["check", "bad.yaml"], 1),
    "submit": (["submit", "good.yaml"], 0),
    "cancel": (["cancel", "job-1"], 0),
    "pause": (["pause"], 0),
    "models": (["models"], 0),
}
QUICK = ("help", "status", "status-json", "check-good", "check-bad")


@pytest.mark.parametrize("command", LIGHT)
def test_a_light_command_imports_nothing_heavy(used_home: Path, command: str) -> None:
    """Seen red: with `import numpy` at the top of runner/cli/status.py."""
    arguments, code = LIGHT[command]
    report = run(*arguments, cwd=used_home)
    assert report.code == code
    assert report.modules & HEAVY == set()


def test_a_command_imports_its_own_verbs_alone(used_home: Path) -> None:
    """Seen red: with `from runner.cli import clean` at the top of runner/cli/status.py."""
    loaded = run("status", cwd=used_home).modules
    assert {name for name in loaded if name.startswith("runner.cli.")} == {
        "runner.cli.status",
        "runner.cli.output",
        "runner.cli.overlooked",
    }
    unused = {"logging", "subprocess", "hashlib", "plistlib", "urllib.request", "xml", "email"}
    assert loaded & unused == set()


@pytest.mark.parametrize("arguments", [["status"], ["--json", "status"], ["--home", ".", "status"]])
def test_the_verb_is_found_wherever_the_common_options_stand(
    used_home: Path, arguments: list[str]
) -> None:
    report = run(*arguments, cwd=used_home)
    assert report.code == 0 and "runner.cli.clean" not in report.modules


def test_every_verb_of_a_file_is_listed_with_it() -> None:
    for name, verbs in VERBS.items():
        parser = argparse.ArgumentParser()
        added = parser.add_subparsers()
        shared = argparse.ArgumentParser(add_help=False)
        importlib.import_module(f"runner.cli.{name}").add(added, shared)
        assert tuple(added.choices) == verbs


@pytest.mark.parametrize("loaded", [False, True])
def test_a_process_with_torch_in_it_says_all_it_has_to_say_and_leaves_at_once(
    used_home: Path, loaded: bool
) -> None:
    """Taking torch apart takes two seconds, and whoever waits for the process waits for that too.

    Seen red: with `sys.exit` alone, and with `os._exit` for every process.
    """
    script = (
        "import atexit, sys, types\n"
        "from runner.cli import program\n"
        "atexit.register(print, 'taken apart')\n"
        f"sys.modules.update({{'torch': types.ModuleType('torch')}} if {loaded} else {{}})\n"
        "sys.argv = ['fluxdrop', 'status', 'never']\n"
        "program()\n"
    )
    environment = {**clean_environment(), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=used_home, env=environment, timeout=PATIENCE,
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 1 and "unknown" in done.stdout, done
    assert ("taken apart" in done.stdout) is not loaded


@pytest.mark.parametrize("command", QUICK)
def test_a_light_command_answers_in_little_cpu_time(used_home: Path, command: str) -> None:
    arguments, _ = LIGHT[command]
    best = min(run(*arguments, cwd=used_home).cpu for _ in range(TRIES))
    assert best < CPU_SECONDS, f"{command} takes {best:.3f} s of CPU time"


@pytest.mark.parametrize("command", ["status", "status-json"])
def test_status_reads_a_summary_and_never_the_jobs(used_home: Path, command: str) -> None:
    arguments, _ = LIGHT[command]
    report = run(*arguments, cwd=used_home)
    outbox = str(used_home / "outbox")
    assert {name for name in report.opened if name.startswith(outbox)} == {f"{outbox}/runner.json"}
    assert [name for name in report.listed if name.startswith(outbox)] == []
