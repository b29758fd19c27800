"""The versions of what is installed: the newest, the oldest, and the set that is known to work.

    python -m tests.versions newest [pytest arguments]   # whatever pip finds today
    python -m tests.versions oldest [pytest arguments]   # the lower bounds in pyproject.toml
    python -m tests.versions renew                       # write constraints.txt again

The first two run the tests in a virtual environment of their own, with today's torch: only one
build of it fits a machine. Neither touches the environment that it is called from.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
OURS = re.compile(r"fluxdrop|torch|setuptools|triton|(nvidia|cuda)-.*")
"""What no constraint names: this project, and what follows from which torch somebody chooses."""

SYSTEMS = {
    "win32": (
        "win_amd64",
        {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows"},
    ),
    "darwin": ("macosx_14_0_arm64", {"sys_platform": "darwin", "platform_system": "Darwin"}),
}
HEAD = """\
# What the commands of README.md install: the newest versions of {day}, and those that the tests are
# run with. torch is left open within the range that pyproject.toml gives, so that a build for a CPU
# or for a GPU can be chosen. `python -m tests.versions renew` writes this file again.
"""


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, with what the tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        Requirement(line)
        for line in (*project["dependencies"], *project["optional-dependencies"]["dev"])
    ]


def oldest() -> list[str]:
    """A constraint for each lower bound, torch aside."""
    found = []
    for wanted in requirements():
        bounds = [each.version for each in wanted.specifier if each.operator == ">="]
        if bounds and wanted.name != "torch":
            marker = f"; {wanted.marker}" if wanted.marker else ""
            found.append(f"{wanted.name}=={bounds[0]}{marker}")
    return found


def resolved(*arguments: str) -> list[dict[str, Any]]:
    """What pip would install into an empty environment: the metadata of each, with its extras."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    done = subprocess.run(
        [*command, "--ignore-installed", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    found = json.loads(done.stdout)["install"]
    return [each["metadata"] | {"extras": each.get("requested_extras", [])} for each in found]


def lines() -> Iterator[str]:
    """A line for each package of today's newest set, on whatever system it is installed."""
    here = resolved("-e", ".[dev]")
    known = {canonicalize_name(each["name"]) for each in here}
    for each in here:
        if not OURS.fullmatch(canonicalize_name(each["name"])):
            yield f"{each['name']}=={each['version']}"
    for system, (platform, environment) in SYSTEMS.items():
        elsewhere = {
            canonicalize_name(wanted.name)
            for each in here
            for wanted in map(Requirement, each.get("requires_dist", ()))
            if wanted.marker
            and any(
                wanted.marker.evaluate(environment | {"extra": e}) for e in ("", *each["extras"])
            )
        }
        names = [name for name in sorted(elsewhere - known) if not OURS.fullmatch(name)]
        if names:
            with tempfile.TemporaryDirectory() as target:
                fitting = ("--no-deps", "--only-binary=:all:", "--platform", platform)
                for each in resolved(*fitting, "--target", target, *names):
                    yield f'{each["name"]}=={each["version"]}; sys_platform == "{system}"'


def renew() -> int:
    """Write constraints.txt again."""
    found = sorted(lines(), key=str.lower)
    text = HEAD.format(day=date.today().isoformat()) + "".join(f"{line}\n" for line in found)
    CONSTRAINTS.write_text(text, encoding="utf-8")
    print(f"{CONSTRAINTS.name}: {len(found)} packages; now `python -m tests.versions newest`")
    return 0


def run(constraints: list[str], arguments: list[str]) -> int:
    """Install under these constraints into a new environment and run the tests there."""
    with tempfile.TemporaryDirectory(prefix="versions-") as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("".join(f"{line}\n" for line in constraints), encoding="utf-8")
        venv.create(Path(folder, "venv"), with_pip=True)
        python = Path(folder, "venv", "Scripts" if sys.platform == "win32" else "bin", "python")
        pip = [str(python), "-m", "pip"]
        subprocess.run([*pip, "install", "-q", "-c", file, "-e", ".[dev]"], cwd=ROOT, check=True)
        subprocess.run([*pip, "list", "--format", "freeze"], check=True)
        return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT).returncode


def main(arguments: list[str]) -> int:
    """Do what the first argument says; the exit code of the tests."""
    match arguments:
        case ["newest", *rest]:
            return run([], rest)
        case ["oldest", *rest]:
            return run(oldest(), rest)
        case ["renew"]:
            return renew()
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
