"""`python -m tests.mutants MODULE TEST [TEST ...]`: the mistakes in a module that its tests let by.

    python -m tests.mutants runner/spool/disk/disk.py tests/spool/disk/test_disk.py

cosmic-ray, fetched into an environment of its own, makes one small mistake after another in a copy
of the checkout, and the tests run on each up to the first failure: give quick ones first. What
survives wants a test, or code that leaves no room for it, or a reason why it changes nothing. Left
out are annotations, which nobody evaluates, and all but one of the replacements of an operator.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.harness import ROOT

_OPERATORS = {"Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "FloorDiv": "Mul",
              "Mod": "Mul", "BitOr": "BitAnd", "BitAnd": "BitOr", "LShift": "RShift",
              "RShift": "LShift"}  # fmt: skip
_CONFIG = """
[cosmic-ray]
module-path = ["{module}"]
timeout = {seconds}
excluded-modules = []
test-command = '''{tests}'''
[cosmic-ray.distributor]
name = "local"
"""
_MUTANTS = """
SELECT job_id, operator_name, start_pos_row, start_pos_col FROM mutation_specs
"""
_SURVIVORS = """
SELECT start_pos_row, diff FROM work_results JOIN mutation_specs USING (job_id)
WHERE test_outcome = 'SURVIVED' ORDER BY start_pos_row
"""


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """The checkout's files, without what git ignores, in a folder that is removed in the end."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    with tempfile.TemporaryDirectory(prefix="fluxdrop-mutants-") as folder:
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                target = Path(folder, "checkout", name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        yield Path(folder)


def is_idle(operator: str, place: tuple[int, int], source: ast.Module) -> bool:
    """Whether a mutant is left out: in an annotation, or one replacement among many."""
    name, _, change = operator.rpartition("/")[2].partition("_")
    old, _, new = change.partition("_")
    if name == "ReplaceBinaryOperator" and _OPERATORS.get(old) != new:
        return True
    if (
        name == "ReplaceComparisonOperator"
        and new in ("Is", "IsNot")
        and old not in ("Is", "IsNot")
    ):
        return True
    for node in ast.walk(source):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr) and part.end_lineno is not None:
                begin, end = (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
                if begin <= place <= (end[0], end[1] or 0):
                    return True
    return False


def main(arguments: list[str]) -> int:
    """Play all mutants of one module; 1 where some survive."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("tests", nargs="+", help="files of tests, or arguments to pytest")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one mutant")
    options, more = parser.parse_known_args(arguments)
    with copied() as folder:
        venv.create(folder / "tool", with_pip=True)
        binaries = folder / "tool" / ("Scripts" if os.name == "nt" else "bin")
        subprocess.run(
            [binaries / "python", "-m", "pip", "install", "-q", "cosmic-ray"], check=True
        )
        tests = shlex.join([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
                            *options.tests, *more])  # fmt: skip
        config, session = folder / "config.toml", folder / "session.sqlite"
        config.write_text(
            _CONFIG.format(module=options.module, seconds=options.timeout, tests=tests),
            encoding="utf-8",
        )

        def play(*words: str | Path) -> None:
            # Two mutants of one second and one length would share a compiled file.
            environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
            command = [binaries / "cosmic-ray", "--verbosity", "ERROR", *words]
            subprocess.run(command, cwd=folder / "checkout", env=environment, check=True)

        play("init", config, session)
        source = ast.parse((ROOT / options.module).read_text(encoding="utf-8"))
        with contextlib.closing(sqlite3.connect(session)) as database, database:
            mutants = database.execute(_MUTANTS).fetchall()
            idle = [job for job, operator, *place in mutants
                    if is_idle(operator, (place[0], place[1]), source)]  # fmt: skip
            database.executemany(
                "INSERT INTO work_results (job_id, worker_outcome) VALUES (?, 'SKIPPED')",
                [(job,) for job in idle],
            )
        play("baseline", config)
        play("exec", config, session)
        with contextlib.closing(sqlite3.connect(session)) as database:
            survivors = database.execute(_SURVIVORS).fetchall()
    for row, diff in survivors:
        print(f"{options.module}:{row}")
        changed = (line for line in diff.splitlines() if line[:1] in ("+", "-"))
        print(*(line for line in changed if line[:3] not in ("+++", "---")), sep="\n")
    print(f"{len(mutants) - len(idle)} mutants, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
