"""`python -m tests`: everything that must hold, for people and for CI alike.

ruff's rules, ruff's format, mypy --strict, pytest: it stops at the first that fails. Arguments go
to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
)


def main(arguments: list[str]) -> int:
    """Run every check, stopping at the first that fails; its exit code."""
    # A missing `encoding=` reads differently on another machine: make it a warning, thus an error.
    environment = {**os.environ, "PYTHONWARNDEFAULTENCODING": "1"}
    for check in (*CHECKS, ("pytest", "-n", "logical", *arguments)):
        print(f"── {' '.join(check)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, env=environment).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
