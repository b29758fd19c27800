"""A transformer loaded in any precision, and how far what it makes is from what is right."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from runner.engine.weights import quantise
from runner.engine.weights.fingerprint import combined


def load(
    folder: Path, precision: str, store: Path, single: Path | None = None, cls: Any = None
) -> Any:
    """The transformer in a folder, of FLUX.1 without `cls`, in this precision, on the CPU."""
    import torch
    from diffusers import FluxTransformer2DModel

    mark = combined({file.name: digest(file) for file in [single] if file} or digests(folder))
    return quantise.load_transformer(
        cls or FluxTransformer2DModel, folder, precision, torch.device("cpu"), store, mark, single
    )


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder."""
    return {file.name: digest(file) for file in folder.iterdir()}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def published(folder: Path) -> Any:
    """The transformer in a folder as diffusers alone loads it."""
    import torch
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel.from_pretrained(folder, dtype=torch.bfloat16)


def forward(model: Any) -> Any:
    """What a transformer makes of fixed numbers."""
    import torch

    def drawn(*shape: int) -> Any:
        numbers = torch.Generator().manual_seed(sum(shape))
        return torch.randn(shape, generator=numbers).to(torch.bfloat16)

    wide = model.config.joint_attention_dim
    with torch.no_grad():
        return model(
            hidden_states=drawn(1, 16, 64),
            encoder_hidden_states=drawn(1, 8, wide),
            pooled_projections=drawn(1, wide),
            timestep=torch.tensor([0.5], dtype=torch.bfloat16),
            img_ids=torch.zeros(16, 3),
            txt_ids=torch.zeros(8, 3),
            guidance=torch.tensor([3.5], dtype=torch.bfloat16),
        )[0].float()


def put_into_int8(model: Any) -> None:
    """Hold the matrices of a model in memory in int8."""
    from runner.engine.weights import checkpoints, fp8, int8

    exact = checkpoints.in_float32(model)
    state = dict(fp8.cast(model.state_dict().items(), fp8.matrices(model), exact, int8.rounded))
    int8.multiply_in_int8(model)
    model.load_state_dict(state, strict=True, assign=True)


def far(made: Any, right: Any) -> float:
    """How far numbers are from the right ones, relative to these."""
    return float((made - right).norm() / right.norm())


def kept_in(store: Path) -> list[Path]:
    """The folders that are kept in a store."""
    return sorted(each for each in store.iterdir() if not each.name.startswith("."))
