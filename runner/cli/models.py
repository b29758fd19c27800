"""`models`: the registry with licence, gating, size, and what is on this machine."""

from __future__ import annotations

import argparse
import os
from typing import Any

from runner.cli.text import print_json
from runner.settings import find_home


def add(verbs: Any, shared: argparse.ArgumentParser) -> None:
    """Add the verbs of this file."""
    models = verbs.add_parser("models", parents=[shared], help="which models there are")
    models.set_defaults(run=run_models)


def run_models(options: argparse.Namespace) -> int:
    """List the registry."""
    from runner.engine.hub import present
    from runner.engine.registry import MODEL_REGISTRY

    home = find_home(options.home)
    os.environ.setdefault("HF_HOME", str(home.data / "hf-cache"))
    rows: list[dict[str, Any]] = []
    for model in MODEL_REGISTRY.values():
        path = present(model, home.data)
        rows.append({
            "name": model.name,
            "kinds": list(model.serves),
            "repo": model.repo,
            "licence": model.licence,
            "gated": model.gated,
            "present": path is not None,
            "path": str(path) if path else None,
            "bytes": model.bytes,
        })  # fmt: skip
    if options.json:
        print_json({"models": rows})
        return 0
    print(f"{'name':<14} {'kinds':<40} {'size':>8}  {'here':<5} licence")
    for row in rows:
        size = (
            f"{row['bytes'] / 1e9:.1f} GB"
            if row["bytes"] >= 1e8
            else f"{row['bytes'] / 1e6:.0f} MB"
        )
        here = "yes" if row["present"] else "no"
        gated = ", gated" if row["gated"] else ""
        kinds = " ".join(row["kinds"])
        print(f"{row['name']:<14} {kinds:<40} {size:>8}  {here:<5} {row['licence']}{gated}")
    return 0
