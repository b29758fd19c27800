"""`python -m tests.bench` lists the benchmarks; `python -m tests.bench NAME [--json]` runs one.

A benchmark is a module of this folder with a docstring and `main(argv) -> int`.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """The name of every benchmark, with the first line of what it says of itself."""
    found = {}
    for file in sorted(HERE.glob("[a-z]*.py")):
        # Read, not imported: listing them must not load torch.
        tree = ast.parse(file.read_text(encoding="utf-8"))
        has_main = any(
            isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body
        )
        if has_main:
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main(argv: list[str]) -> int:
    """List the benchmarks, or run the one that is named."""
    known = benchmarks()
    if not argv or argv[0] in ("-h", "--help"):
        for name, says in known.items():
            print(f"{name:<12} {says}")
        return 0
    if argv[0] not in known:
        print(f"there is no benchmark {argv[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"tests.bench.{argv[0]}").main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
