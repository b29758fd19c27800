"""What is installed keeps clear of other packages, and what fluxdrop starts is this copy of it.

`python -m tests.package` installs it for real, beside a foreign package called `composer`.
"""

from __future__ import annotations

import importlib
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest

from runner.launch import command
from tests.harness import PATIENCE, ROOT, clean_environment, eventually, spec

STRAYS = ("torch", "watchdog", "composer", "yaml")
COMPOSE = {"pack": "shapes", "subjects": ["red-circle"], "variables": "all"}


@pytest.fixture
def stray(tmp_path: Path) -> Path:
    """A folder of somebody's own modules, named like some that fluxdrop imports."""
    folder = tmp_path / "stray"
    folder.mkdir()
    for name in STRAYS:
        code = f"open({str(tmp_path / 'executed')!r}, 'a').write('{name}\\n')\nraise ImportError\n"
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return folder


def executed(stray: Path) -> list[str]:
    marks = stray.parent / "executed"
    return marks.read_text(encoding="utf-8").split() if marks.exists() else []


@pytest.mark.timeout(180)
def test_a_drain_runs_no_module_that_lies_in_the_current_folder(home: Path, stray: Path) -> None:
    """The runner that it starts, and the process that plans.

    Seen red: with `-m runner` in the supervisor, and with `-m` in the planner.
    """
    (home / "inbox" / "draw.yaml").write_text(spec(), encoding="utf-8")
    (home / "inbox" / "many.yaml").write_text(spec(prompt=None, compose=COMPOSE), encoding="utf-8")
    done = subprocess.run(
        [*command(), "drain", "--home", str(home)], cwd=stray, env=clean_environment(),
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert executed(stray) == [] and done.returncode == 0, done.stderr


def test_a_run_starts_no_module_that_lies_in_the_current_folder(home: Path, stray: Path) -> None:
    """Seen red: with `-m runner` in the supervisor."""
    health = home / "outbox" / "runner.json"
    with subprocess.Popen(
        [*command(), "run", "--home", str(home)], cwd=stray, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            eventually(lambda: executed(stray) or health.exists(), "the runner")
        finally:
            process.send_signal(signal.SIGTERM)
    assert executed(stray) == [] and process.returncode == 0


def test_our_packages_come_before_others_of_the_same_names(home: Path, tmp_path: Path) -> None:
    """Seen red: without `sys.path.insert` in runner/launch.py."""
    foreign = tmp_path / "composer"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("raise ImportError('foreign')", encoding="utf-8")
    done = subprocess.run(
        [*command(), "compose", "shapes", "--all", "--plan", "--home", str(home)], cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(tmp_path)), capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_wheel_puts_one_folder_and_one_line_into_site_packages(tmp_path: Path) -> None:
    """Seen red: with `packages = ["runner", "specs", "composer"]` in pyproject.toml."""
    try:
        wheel = importlib.import_module("hatchling.builders.wheel")
    except ModuleNotFoundError:
        pytest.skip("hatchling is not installed: nothing builds a wheel here")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fluxdrop", "fluxdrop.pth"}
    packed = {name.removeprefix("fluxdrop/") for name in names}
    shipped = [
        file.relative_to(ROOT).as_posix()
        for room in ("runner", "specs", "composer", "prompts/shapes")
        for file in (ROOT / room).rglob("*")
        if file.is_file() and file.suffix != ".pyc" and file.stem != "fluxdrop"
    ]
    assert "prompts/shapes/pack.json" in packed and [f for f in shipped if f not in packed] == []
