"""Measures the engine on a GPU that is told to be a 16 GB card, on models of FLUX.1's full size.

`python -m tests.bench gpu [--cap GB] [--kinds K…] [--precisions P…] [--folder DIR] [--json]`. The
weights are random, which changes neither time nor memory, and are written once to a folder of 34
GB. Each kind and precision runs in a process of its own that may take no more than the cap: peak
memory, loading (the first time, and again from what was kept), seconds a step and their share of
the fastest matrix product of this run, decoding, a cancel in the midst of a step; the same
compiled; and a careful diffusers script beside it. `--table [--real FOLDER]` takes ten minutes: one
model in every precision, eager and compiled, beside bare diffusers. Without a GPU it says so and
measures nothing; `--tiny` runs all of it on the CPU with tiny models, to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench import gpu_table, rehearsal
from tests.bench.figures import Goal, failures, shown
from tests.bench.library import MODELS

NOTHING = "no GPU: nothing measured"
CAP_GB = 16.0
ROOM_GB = 40.0
GOAL_PEAK, GOAL_CANCEL_S = 1.0, 0.05
PRECISIONS = ("auto", "fp8", "nf4")
COMPILED = ("text2img",)
_TIMEOUT = 3600
_CHILD = "tests.bench.gpu_child"


@dataclass(frozen=True)
class Order:
    """What one process is to measure."""

    who: str
    kind: str
    precision: str
    root: str
    cap_gb: float = CAP_GB
    side: int = 1024
    steps: int = 12
    tiny: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """In a few words."""
        more = ", compiled" if self.compiled else ""
        return f"{self.who}, {self.kind}, {self.precision}{more}"


def orders(asked: argparse.Namespace, root: Path) -> list[Order]:
    """Everything that is to be measured, the runner and the script in turn."""
    base = Order("fluxdrop", "", "auto", str(root), asked.cap, asked.side, asked.steps)
    precisions = asked.precisions
    if asked.tiny:
        base = replace(base, tiny=True, side=64)
        precisions = precisions or ["auto"]
    found = []
    for kind in asked.kinds:
        for precision in precisions or PRECISIONS:
            order = replace(base, kind=kind, precision=precision)
            found.append(order)
            if precision != "fp8":  # the script's way into 16 GB is nf4; auto stands for bf16
                found.append(replace(order, who="diffusers"))
    compiled = asked.compiled if asked.compiled is not None else () if asked.tiny else COMPILED
    first = (precisions or PRECISIONS)[0]
    return found + [replace(base, kind=kind, precision=first, compiled=True) for kind in compiled]


def write_weights(root: Path, kinds: Sequence[str], *, tiny: bool) -> None:
    """The folders of what these kinds need below `root`, made unless they are there."""
    from tests.bench.gpu_child import foundry
    from tests.bench.library import PARTS, PRIOR

    room = shutil.disk_usage(root).free / 1e9
    if not tiny and room < ROOM_GB and not (root / "weights").is_dir():
        raise SystemExit(f"{root} has {room:.0f} GB free, and {ROOM_GB:.0f} are needed: --folder")
    made = foundry(root, tiny=tiny)
    priors = [PRIOR] if "redux" in kinds else []
    for part in dict.fromkeys([*(PARTS[kind] for kind in kinds), *priors]):
        print(f"weights: {part}", file=sys.stderr, flush=True)
        made.folder(part)


# -- what is shown -------------------------------------------------------------------------------

_COLUMNS = {
    "load_s": "load", "again_s": "again", "encode_s": "encode", "step_s": "step",
    "step_quartiles": "quartiles", "ceiling": "ceiling", "decode_s": "decode",
    "image_s": "image", "cancel_s": "cancel", "planned_gib": "planned", "peak_gib": "peak GiB",
}  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows, to be read by people."""
    lines = [f"{'seconds':<34}" + "".join(f"{title:>10}" for title in _COLUMNS.values())]
    for row in rows:
        if "error" in row:
            lines.append(f"{row['name']:<34}  {row['error']}")
            continue
        lines.append(f"{row['name']:<34}" + "".join(f"{_cell(row, c):>10}" for c in _COLUMNS))
        lines += [f"    {row['plan']}"] if row.get("plan") else []
    return lines


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return "-"
    if column == "step_quartiles":
        return f"{value[0]:.2g}-{value[1]:.2g}"
    return f"{value:.0%}" if column == "ceiling" else f"{value:.3g}"


def goals(rows: Sequence[Mapping[str, Any]], cap_gb: float) -> list[Goal]:
    """What is wanted of these rows."""
    ours = [row for row in rows if row["name"].startswith("fluxdrop") and "error" not in row]
    found = failures(rows)
    for row in ours:
        late = row["cancel_s"] - row["step_s"]
        found.append(Goal(f"{row['name']}: cancel beyond a step", late, GOAL_CANCEL_S, False, " s"))
        if row["peak_gib"] is not None:
            share = row["peak_gib"] * 2**30 / (cap_gb * 1e9)
            found.append(Goal(f"{row['name']}: peak, of the card", share, GOAL_PEAK, False))
    script = {row["name"].partition(", ")[2]: row for row in rows if "diffusers" in row["name"]}
    for row in ours:
        beside = script.get(row["name"].partition(", ")[2], {"error": ""})
        if "error" not in beside:
            ratio = beside["image_s"] / row["image_s"]
            found.append(Goal(f"{row['name']}: images while the script makes one", ratio, 0.97))
    return found


def main(argv: list[str]) -> int:
    """Measure and say which goals are met; 0 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gpu", description=__doc__)
    parser.add_argument("--cap", type=float, default=CAP_GB, help="GB of the card; 0: all it has")
    parser.add_argument("--kinds", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--precisions", nargs="+", help="auto, bf16, fp8, int8, nf4")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--compiled", nargs="*", choices=tuple(MODELS), help="kinds to compile")
    parser.add_argument("--folder", type=Path, help="where the weights are kept: 40 GB free")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--quick", action="store_true", help="text2img alone, as planned")
    parser.add_argument("--table", action="store_true", help="one model in every precision")
    parser.add_argument("--model", choices=rehearsal.MODELS, default="klein", help="of the table")
    parser.add_argument("--real", type=Path, help="the table's published weights, in a folder")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    if asked.quick:
        asked.kinds, asked.precisions = ("text2img",), ["auto"]
    if not asked.tiny and not _has_gpu():
        print(json.dumps({"rows": [], "note": NOTHING}) if asked.json else NOTHING)
        return 0
    if asked.table:
        return gpu_table.show(asked)
    with tempfile.TemporaryDirectory(dir=asked.folder) as own:
        root = asked.folder or Path(own)
        write_weights(root, asked.kinds, tiny=asked.tiny)
        rows = []
        for order in orders(asked, root):
            print(order.name, file=sys.stderr, flush=True)
            rows.append(
                {"name": order.name, **gpu_table.measured(order, module=_CHILD, seconds=_TIMEOUT)}
            )
    return shown(table(rows), goals(rows, asked.cap or 1e9), {"rows": rows}, as_json=asked.json)


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())
