"""One model in every precision on a GPU, eager and compiled, beside bare diffusers: `gpu --table`.

Each row is a process of its own, `python -m tests.bench.gpu_table ORDER`, which prints one line of
JSON and leaves its picture. Weights are random at their published shapes, unless `--real` names a
folder; only real ones say what a precision costs in quality.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.figures import CONTEXT_GB, KEPT_FREE_GB, PRECISIONS, PROMPT, Goal, failures, shown

BARE = "diffusers"
_TINY, _TIMEOUT = 0.02, 1200
_SELF = "tests.bench.gpu_table"


@dataclass(frozen=True)
class Order:
    """What one row is measured on. `real` is a folder of published weights, or empty."""

    who: str
    root: str
    model: str
    real: str
    cap_gb: float
    side: int
    steps: int
    tiny: bool

    @property
    def folder(self) -> Path:
        """Of the pipeline."""
        return Path(self.real) if self.real else Path(self.root) / self.model

    @property
    def picture(self) -> Path:
        """Where its picture is left."""
        return Path(self.root) / f"table-{self.who}.png"


def show(asked: argparse.Namespace) -> int:
    """Write the weights unless they are there, measure every row, print the table and the goals."""
    from tests.bench import rehearsal

    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=asked.folder) as own:
        root, real = str(asked.folder or own), str(asked.real or "")
        order = Order("", root, asked.model, real, asked.cap, asked.side, asked.steps, asked.tiny)
        if not real:
            rehearsal.build(order.folder, asked.model, _TINY if asked.tiny else 1.0)
        orders = [replace(order, who=who) for who in (*PRECISIONS, BARE)]
        rows = []
        for each in orders:
            print(each.who, file=sys.stderr, flush=True)
            rows.append({"name": each.who, **measured(each)})
        for row, each in zip(rows, orders, strict=True):
            row["psnr"] = psnr(each.picture, orders[0].picture)
    minutes = (time.monotonic() - began) / 60
    figures = {"rows": rows, "minutes": round(minutes, 2)}
    return shown([*table(rows), f"{minutes:.1f} minutes"], goals(rows), figures, as_json=asked.json)


def measured(order: Any, *, module: str = _SELF, seconds: float = _TIMEOUT) -> dict[str, Any]:
    """What a module found of an order in a process of its own; an `error` where it could not."""
    command = [sys.executable, "-m", module, json.dumps(asdict(order))]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds)
    lines = done.stdout.decode().splitlines()
    if done.returncode or not lines:
        return {"error": f"ended with {done.returncode}"}
    return dict(json.loads(lines[-1]))


_COLUMNS = {"load_s": "load s", "step_s": "eager s", "compiled_s": "compiled", "psnr": "PSNR",
            "planned_gib": "planned", "peak_gib": "peak GiB"}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows, to be read by people."""
    lines = [f"{'':<10}" + "".join(f"{title:>10}" for title in _COLUMNS.values())]
    for row in rows:
        cells = (row.get(column) for column in _COLUMNS)
        shown_cells = ("-" if cell is None else f"{cell:.3g}" for cell in cells)
        notes = [str(row[note]) for note in ("plan", "facts", "error") if row.get(note)]
        lines += [f"{row['name']:<10}" + "".join(f"{cell:>10}" for cell in shown_cells)]
        lines += [f"    {note}" for note in notes]
    return lines


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    """What is wanted of these rows."""
    found = failures(rows)
    for row in rows:
        if row.get("peak_gib") and row.get("planned_gib"):
            share = row["peak_gib"] / row["planned_gib"]
            found.append(Goal(f"{row['name']}: peak, of what is planned", share, 1.0, False))
    at: Mapping[str, Mapping[str, Any]] = {row["name"]: row for row in rows}
    for column in ("step_s", "compiled_s"):
        mine, other = at["int8"].get(column), at["bf16"].get(column)
        if mine and other:
            found.append(Goal(f"int8: {column}, of bf16's", mine / other, 1.0, False))
    return found


def psnr(picture: Path, right: Path) -> float | None:
    """The decibels between two pictures; None without one of them, or where they are equal."""
    import numpy as np
    from PIL import Image

    if not (picture.is_file() and right.is_file()):
        return None
    one, other = (np.asarray(Image.open(each), dtype=float) for each in (picture, right))
    mean = ((one - other) ** 2).mean()
    return 10 * math.log10(255**2 / mean) if mean else None


# -- one row -------------------------------------------------------------------------------------


def row(order: Order) -> dict[str, Any]:
    """Measure one row in this process."""
    import torch

    device = torch.device("cpu" if order.tiny else "cuda")
    if device.type == "cuda" and order.cap_gb:
        total = torch.cuda.get_device_properties(device).total_memory
        bound = min((order.cap_gb - CONTEXT_GB) * 1e9 / total, 1.0)
        torch.cuda.set_per_process_memory_fraction(bound, device)
    found: dict[str, Any] = {}
    for compiled in (False, True):
        try:
            make = _bare if order.who == BARE else _ours
            made = make(order, device, compiled)
        except Exception as error:  # noqa: BLE001 what was measured is still shown
            found["error"] = f"{'compiled: ' if compiled else ''}{type(error).__name__}: {error}"
            break
        found |= {"compiled_s": made["step_s"]} if compiled else made
    return found


def entry(order: Order) -> Any:
    """The entry of the weights in the order's folder: of its own, or of random ones."""
    from runner.engine.entries import MODEL_REGISTRY
    from tests.bench import rehearsal

    if order.real:
        return replace(MODEL_REGISTRY[order.model], repo=order.real)
    return rehearsal.entry(order.folder, order.model)


def _ours(order: Order, device: Any, compiled: bool) -> dict[str, Any]:
    from runner.engine.gpu_thread import GpuThread
    from runner.engine.hub.library import Disk
    from runner.engine.registry import realise
    from runner.engine.speed import Speed
    from runner.engine.weights.pipeline_cache import PipelineCache
    from runner.executor import Progressed, Rendered
    from runner.job import Phase
    from tests.bench import gpu_child

    model = entry(order)
    free = None if order.tiny or not order.cap_gb else order.cap_gb - CONTEXT_GB - KEPT_FREE_GB
    pipelines = PipelineCache(
        Disk(Path(order.root) / "data", {order.model: model}), device=str(device),
        speed=Speed(compile=compiled), gpu_memory_gb=free and free * 1e9 / 2**30,
    )  # fmt: skip
    executor = GpuThread(Path(order.root) / "data", pipelines=pipelines)
    line = executor.events = gpu_child.Timeline(device)
    spec = {"kind": "text2img", "model": order.model, "prompt": PROMPT, "seed": 1,
            "steps": order.steps, "precision": order.who, "width": order.side,
            "height": order.side}  # fmt: skip
    task = realise(spec, job="table", index=1, inputs={}, models={order.model: model})
    try:
        executor.start("gpu0", [task])
        while isinstance(event := line.get(timeout=_TIMEOUT), Progressed):
            pass
        if not isinstance(event, Rendered):
            raise RuntimeError(getattr(event, "message", str(event)))
        plan = pipelines.resolve(task, order.side**2).plan
    finally:
        executor.close()
        pipelines.clear()
    if not compiled:
        event.image.save(order.picture)
    return {
        "load_s": line.seconds(Phase.LOADING), "step_s": _middle(line.steps()),
        "planned_gib": plan.bytes / 2**30, "peak_gib": gpu_child.peak(device),
        "plan": plan.summary,
        "facts": {name: each for name, each in event.facts.items() if name == "weight_only"},
    }  # fmt: skip


def _bare(order: Order, device: Any, compiled: bool) -> dict[str, Any]:
    """What few lines of diffusers do in bf16: whole on the device, or offloaded where it is not."""
    import torch

    from runner.engine.entries import MODEL_REGISTRY
    from runner.engine.weights import assembly
    from tests.bench import gpu_child

    serving = MODEL_REGISTRY[order.model].serves["text2img"]
    cls = assembly.class_of("diffusers", serving.pipeline)
    began = time.perf_counter()
    pipe = cls.from_pretrained(order.folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    if device.type == "cuda" and not _fits(pipe, order.cap_gb):
        pipe.enable_model_cpu_offload()
    else:
        pipe.to(device)
    load_s = time.perf_counter() - began
    if compiled:
        torch._dynamo.config.recompile_limit = 64
        pipe.transformer.compile_repeated_blocks(fullgraph=True)
    at: list[float] = []

    def on_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        gpu_child.settle(device)
        at.append(time.perf_counter())
        return tensors

    image = pipe(
        prompt=PROMPT, width=order.side, height=order.side, num_inference_steps=order.steps,
        guidance_scale=serving.guidance, generator=torch.Generator("cpu").manual_seed(1),
        callback_on_step_end=on_step,
    ).images[0]  # fmt: skip
    if not compiled:
        image.save(order.picture)
    steps = [later - before for before, later in zip(at, at[1:], strict=False)]
    return {"load_s": load_s, "step_s": _middle(steps), "peak_gib": gpu_child.peak(device)}


def _fits(pipe: Any, cap_gb: float) -> bool:
    import torch

    free, total = torch.cuda.mem_get_info()
    room = min(free, (cap_gb or total) * 1e9)
    modules = (each for each in pipe.components.values() if isinstance(each, torch.nn.Module))
    return sum(t.nbytes for module in modules for t in module.parameters()) + 6e9 < room


def _middle(steps: list[float]) -> float:
    from statistics import median

    return median(steps)


if __name__ == "__main__":
    print(json.dumps(row(Order(**json.loads(sys.argv[1])))), flush=True)
