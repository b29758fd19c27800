"""How fast a device can multiply, and how many operations a step takes: what speed is held against.

The first is measured, the second counted on shapes alone.
"""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path

import torch


def fastest_product(device: torch.device) -> float:
    """Operations a second of the fastest of several large matrix products."""
    big = device.type == "cuda"
    rows, inner, columns = (4608, 3072, 12288) if big else (256, 256, 256)
    dtype = torch.bfloat16 if big else torch.float32
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    best = 0.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(10):
            product = left @ right
        if big:
            torch.cuda.synchronize(device)
        best = max(best, 10 * 2 * rows * inner * columns / (time.perf_counter() - began))
    del left, right, product
    gc.collect()
    if big:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return best


def operations_of_a_step(transformer: Path, image: int, text: int) -> float:
    """The operations of one step of a FLUX.1 transformer over so many image and text tokens."""
    from diffusers import FluxTransformer2DModel
    from torch.utils.flop_counter import FlopCounterMode

    config = json.loads((transformer / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        FluxTransformer2DModel.from_config(config)(
            hidden_states=torch.empty(1, image, config["in_channels"]),
            encoder_hidden_states=torch.empty(1, text, config["joint_attention_dim"]),
            pooled_projections=torch.empty(1, config["pooled_projection_dim"]),
            timestep=torch.empty(1),
            guidance=torch.empty(1),
            img_ids=torch.empty(image, 3),
            txt_ids=torch.empty(text, 3),
        )
    return float(counter.get_total_flops())
