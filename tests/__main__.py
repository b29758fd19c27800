"""`python -m tests`: everything that must hold, for people and for CI alike.

ruff's rules, ruff's format, mypy --strict for each system, pytest: it stops at the first that
fails. Arguments go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    # A cache for each, or every check would begin from nothing: 7 s instead of 0.2 s.
    *(
        ("mypy", "--platform", system, "--cache-dir", f".mypy_cache/{system}")
        for system in ("linux", "win32", "darwin")
    ),
)


_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 8 * 2**30


@contextmanager
def _temporary() -> Iterator[dict[str, str]]:
    """The environment for the tests: their folders lie in memory where there is plenty of it.

    Half of what a test of the spool takes are otherwise waits for a disk to write down files that
    nobody reads again. A container may have next to no memory there: then the disk serves.
    """
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _MEMORY_BYTES:
        yield dict(os.environ)
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY, ignore_cleanup_errors=True) as folder:
        yield {**os.environ, "TMPDIR": folder}


def main(arguments: list[str]) -> int:
    """Run every check, stopping at the first that fails; its exit code."""
    with _temporary() as environment:
        for check in (*CHECKS, ("pytest", "-n", "logical", *arguments)):
            print(f"── {' '.join(check)}", flush=True)
            code = subprocess.run(
                [sys.executable, "-m", *check], cwd=ROOT, env=environment
            ).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
