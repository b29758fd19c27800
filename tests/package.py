"""`python -m tests.package`: fluxdrop installed for real, beside another package `composer`.

As a wheel, as a wheel made from the sdist, and editable, each in an environment of its own, with
PyPI's `composer` installed before it and after it. In each: the commands work, as `python -m
runner` and from the script, which others called `runner` and `specs` do not disturb either; the
files of the other package stay as they were; `pip uninstall` leaves nothing. Fetches `composer` and
hatchling from PyPI; the other dependencies are those of this Python.

`--only wheel` (or `sdist`, `editable`) plays one of them. Half a minute each on two cores.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import PATIENCE, ROOT, clean_environment, spec

FOREIGN = "composer==0.32.1"
WAYS = ("wheel", "sdist", "editable")
MANY = {"pack": "shapes", "subjects": ["red-circle"], "variables": "all"}
BUILD = """
import sys
import hatchling.build as build
from pathlib import Path
import os
kind, source, target = sys.argv[1:]
os.chdir(source)
print(getattr(build, f"build_{kind}")(target))
"""


class Environment:
    """A virtual environment that borrows the dependencies of this Python, last on its path."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        self._scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self._scripts / "python"
        said = run([self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
        self.packages = Path(said.strip())
        self._line = self.packages / "zz-borrowed.pth"

    def pip(self, *arguments: str | Path) -> None:
        """Run pip, which must not see what is borrowed."""
        run([self.python, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"])

    @contextmanager
    def borrowing(self) -> Iterator[None]:
        """Let programs find the dependencies while the `with` lasts."""
        self._line.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        yield
        self._line.unlink()

    def script(self) -> Path:
        """The command that was installed."""
        return self._scripts / ("fluxdrop.exe" if os.name == "nt" else "fluxdrop")

    def files(self) -> set[str]:
        """What is installed, without what Python and pip write by running."""
        rooms = (self.packages, self._scripts)
        found = (
            file for room in rooms for file in room.rglob("*") if "__pycache__" not in str(file)
        )
        return {str(file) for file in found}


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    """What a command prints; ends the play where it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=clean_environment(), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=5 * PATIENCE, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def built(way: str, tools: Environment, folder: Path) -> list[str | Path]:
    """What pip is told to install."""

    def build(kind: str, source: Path) -> Path:
        said = run([tools.python, "-c", BUILD, kind, source, folder])
        return folder / said.split()[-1]

    if way == "editable":
        return ["-e", ROOT]
    source = ROOT
    if way == "sdist":
        run([sys.executable, "-m", "tarfile", "-e", build("sdist", ROOT), folder / "unpacked"])
        (source,) = (folder / "unpacked").iterdir()
    return [build("wheel", source)]


def install(environment: Environment, what: list[str | Path], tools: Environment) -> None:
    """Install without dependencies; an editable one is built with the hatchling of `tools`."""
    line = environment.packages / "zz-tools.pth"
    line.write_text(f"{tools.packages}\n", encoding="utf-8")
    environment.pip("install", "--no-deps", "--no-build-isolation", *what)
    line.unlink()


def damaged(environment: Environment) -> list[str]:
    """The files of the foreign package that are not as its RECORD says."""
    (record,) = environment.packages.glob("composer-*.dist-info/RECORD")
    wrong = []
    with record.open(encoding="utf-8", newline="") as rows:
        for name, digest, _ in csv.reader(rows):
            if digest:
                data = (environment.packages / name).read_bytes()
                found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
                wrong += [name] if digest != f"sha256={found.decode()}" else []
    return wrong


def use(environment: Environment, folder: Path) -> None:
    """Do what a user does, in a folder of his own; a picture and planned ones must come out."""
    home = folder / "home"
    others = [environment.packages / name for name in ("runner", "specs")]
    script, module = [environment.script()], [environment.python, "-m", "runner"]
    run([*script, "init", home], cwd=folder)
    for command in (module, script):
        for verb in (
            ["--help"],
            ["--version"],
            ["check", home / "specs" / "examples" / "draw.yaml"],
            ["audit", "--term", "logo", "a red circle"],
            ["compose", "shapes", "--all", "--plan"],
            ["models"],
        ):
            run([*command, *verb, "--home", home], cwd=folder)
        for other in others:
            other.mkdir(exist_ok=True)
            (other / "__init__.py").write_text("raise ImportError", encoding="utf-8")
    (home / "inbox" / "one.yaml").write_text(spec(), encoding="utf-8")
    (home / "inbox" / "many.yaml").write_text(spec(prompt=None, compose=MANY), encoding="utf-8")
    run([*script, "drain", "--home", home], cwd=folder)
    made = sorted(file.parent.name for file in (home / "outbox").glob("*/*-000?.png"))
    if made != ["many"] * 3 + ["one"]:
        sys.exit(f"the drain made {made}")
    run([*script, "demo", "--home", home], cwd=folder)
    for other in others:
        shutil.rmtree(other)


def play(way: str, first: bool, tools: Environment, folder: Path) -> None:
    """One environment from its making to the end; `first`: the foreign package comes first."""
    environment = Environment(folder / "venv")
    what = built(way, tools, folder)
    untouched = environment.files()
    if first:
        environment.pip("install", "--no-deps", FOREIGN)
        untouched = environment.files()
    install(environment, what, tools)
    added = environment.files() - untouched
    if not first:
        environment.pip("install", "--no-deps", FOREIGN)
        untouched = environment.files() - added
    with environment.borrowing():
        use(environment, folder)
    if wrong := damaged(environment):
        sys.exit(f"files of the other package have changed: {wrong[:5]}")
    environment.pip("uninstall", "-y", "fluxdrop")
    if left := environment.files() ^ untouched:
        sys.exit(f"after the uninstall these are left, or gone: {sorted(left)[:5]}")
    if wrong := damaged(environment):
        sys.exit(f"the uninstall took files of the other package: {wrong[:5]}")


def main() -> None:
    """Play all, saying what holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.package", description=__doc__)
    parser.add_argument("--only", choices=WAYS, action="append")
    ways = parser.parse_args().only or WAYS
    with tempfile.TemporaryDirectory() as name:
        tools = Environment(Path(name) / "tools")
        tools.pip("install", "hatchling")
        for way in ways:
            for first in (True, False):
                began = time.monotonic()
                folder = Path(name) / f"{way}-{first}"
                folder.mkdir()
                play(way, first, tools, folder)
                order = f"{'after' if first else 'before'} {FOREIGN}"
                print(f"{way}, installed {order}: holds ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
