"""LoRA files as tools write them, small and random, made for a module that is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.task import Lora

ATTENTION = ("to_q", "to_k", "to_v")


def tensors_for(
    module: Any, *, only: tuple[str, ...] = ATTENTION, prefix: str = "transformer.", seed: int = 0
) -> dict[str, Any]:
    """Both halves of rank 4 for each linear layer whose name ends with one of these."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Any] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(only):
            down = torch.randn(4, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, 4, generator=generator)
            tensors[f"{prefix}{name}.lora_A.weight"] = down
            tensors[f"{prefix}{name}.lora_B.weight"] = up
    assert tensors
    return tensors


def written(
    file: Path, tensors: Mapping[str, Any], *, weight: float = 1.0, **metadata: str
) -> Lora:
    """These tensors as a file."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), file, metadata=metadata or None)
    return Lora(file, weight)


def wider(transformer: Any) -> dict[str, Any]:
    """A control LoRA: the input layer reads 128 channels, and norms are written over."""
    import torch

    tensors = tensors_for(transformer, only=("to_q", "to_k"))
    tensors["transformer.x_embedder.lora_A.weight"] = torch.randn(4, 128) / 10
    tensors["transformer.x_embedder.lora_B.weight"] = torch.randn(32, 4) / 10
    tensors["transformer.transformer_blocks.0.attn.norm_q.weight"] = torch.full((16,), 1.5)
    return tensors


def text_tensors(pipe: Any) -> dict[str, Any]:
    return tensors_for(pipe.text_encoder, only=("q_proj", "v_proj"), prefix="text_encoder.")
