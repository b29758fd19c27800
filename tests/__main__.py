"""`python -m tests`: everything that must hold, for people and for CI alike.

ruff's rules, ruff's format, mypy --strict for each system, pytest: it stops at the first that
fails. Arguments go to pytest.
"""

from __future__ import annotations

import subprocess
import sys
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


def main(arguments: list[str]) -> int:
    """Run every check, stopping at the first that fails; its exit code."""
    for check in (*CHECKS, ("pytest", "-n", "logical", *arguments)):
        print(f"── {' '.join(check)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *check], cwd=ROOT).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
