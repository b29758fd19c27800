"""Measures each precision on a small FLUX.1 of random weights: how near it is to bf16, how quick.

`python -m tests.bench precision [--compiled] [--rounds N] [--threads N] [--json]`. A transformer of
40 M parameters over 256 tokens of a picture and 64 of text is loaded as the runner loads it, and
all precisions compute in turn. Seconds are of this CPU, those in which it was not at other work;
`gpu --table` has those of a GPU. Random weights have no outliers, so real ones lose more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.bench.figures import PRECISIONS, Goal, shown


def main(argv: Sequence[str] = ()) -> int:
    """Load, compare, print; 1 where int8 is further from bf16 than fp8, or much larger."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench precision")
    parser.add_argument("--compiled", action="store_true", help="compile the blocks too: minutes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12, help="of 64 numbers: the width")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    import torch

    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        models = _models(Path(folder), asked.heads)
        given = _inputs(64 * asked.heads)
        made = {name: _made(model, given) for name, model in models.items()}
        eager = _seconds(models, given, asked.rounds)
        compiled: dict[str, float] = {}
        if asked.compiled:
            for model in models.values():
                model.compile_repeated_blocks(fullgraph=True)
            compiled = _seconds(models, given, asked.rounds)
    parameters = sum(each.numel() for each in models["bf16"].parameters())
    rows = [
        {
            "precision": name,
            "error": float((made[name] - made["bf16"]).norm() / made["bf16"].norm()),
            "seconds": eager[name],
            "compiled": compiled.get(name),
            "bytes": _bytes(model) / parameters,
        }
        for name, model in models.items()
    ]
    lines = [f"{'precision':<10}{'error':>9}{'eager s':>9}{'compiled':>9}{'bytes':>7}"]
    for row in rows:
        quick = "-" if row["compiled"] is None else f"{row['compiled']:.3f}"
        lines.append(
            f"{row['precision']:<10}{row['error']:>9.4f}{row['seconds']:>9.3f}{quick:>9}"
            f"{row['bytes']:>7.2f}"
        )
    at = {row["precision"]: row for row in rows}
    goals = [
        Goal("int8: error, of that of fp8", at["int8"]["error"] / at["fp8"]["error"], 1, False),
        Goal("int8: bytes of a parameter", at["int8"]["bytes"], 1.2, False),
    ]
    return shown(lines, goals, {"rows": rows, "parameters": parameters}, as_json=asked.json)


def _models(folder: Path, heads: int) -> dict[str, Any]:
    """One transformer in every precision, by the runner's own loader."""
    import torch
    from diffusers import FluxTransformer2DModel
    from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer

    from runner.engine.memory import devices
    from runner.engine.weights.quantise import load_transformer

    devices.frameworks()
    torch.manual_seed(0)
    wide = 64 * heads
    FluxTransformer2DModel(
        num_layers=1, num_single_layers=2, num_attention_heads=heads, attention_head_dim=64,
        joint_attention_dim=wide, pooled_projection_dim=wide, axes_dims_rope=(16, 24, 24),
        guidance_embeds=True,
    ).to(torch.bfloat16).save_pretrained(folder / "transformer")  # fmt: skip
    cpu = torch.device("cpu")
    # It asks for a GPU, though it computes on a CPU as well.
    with patch.object(BnB4BitDiffusersQuantizer, "validate_environment", lambda *a, **k: None):
        return {
            name: load_transformer(
                FluxTransformer2DModel, folder / "transformer", name, cpu, folder / "kept", "a" * 64
            ).eval()
            for name in PRECISIONS
        }


def _inputs(wide: int) -> dict[str, Any]:
    import torch

    drawn = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Any:
        return torch.randn(shape, generator=drawn).to(torch.bfloat16)

    return {
        "hidden_states": random(1, 256, 64),
        "encoder_hidden_states": random(1, 64, wide),
        "pooled_projections": random(1, wide),
        "timestep": torch.tensor([0.5], dtype=torch.bfloat16),
        "guidance": torch.tensor([3.5], dtype=torch.bfloat16),
        "img_ids": torch.zeros(256, 3),
        "txt_ids": torch.zeros(64, 3),
    }


def _made(model: Any, given: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():
        return model(**given)[0].float()


def _seconds(models: dict[str, Any], given: dict[str, Any], rounds: int) -> dict[str, float]:
    """The least CPU seconds of a forward pass, the models in turn, after one that warms up."""
    took: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            began = time.process_time()
            _made(model, given)
            took[name].append(time.process_time() - began)
    return {name: min(each[1:]) for name, each in took.items()}


def _bytes(model: Any) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    states = (getattr(each, "quant_state", None) for each in tensors)  # of bitsandbytes
    kept = [state.absmax for state in states if state is not None]
    return sum(each.nbytes for each in (*tensors, *kept))
