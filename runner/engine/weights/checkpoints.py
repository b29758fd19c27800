"""Reads the weights of one component as they were published: in a folder, in shards, in one file.

Tensor by tensor, so that 24 GB can be converted in little memory. Writes nothing.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.engine.hub.sources import read_json

_SHARD_BYTES = 2 * 2**30


def is_stored(folder: Path) -> bool:
    """Whether a component's folder was published quantised; reads its configuration only."""
    config = read_json(folder / "config.json") or {}
    return bool(config.get("quantization_config"))


def size(source: Path) -> int:
    """The bytes of a file, or of the files right inside a folder."""
    if source.is_file():
        return source.stat().st_size
    return sum(file.stat().st_size for file in source.iterdir() if file.is_file())


def from_single(cls: Any, folder: Path, single: Path, **options: Any) -> Any:
    """The model of a single file, in bf16 on the CPU unless `options` say otherwise.

    `folder` holds its configuration; `options` go to diffusers' `from_single_file`.
    """
    import torch

    options = {"dtype": torch.bfloat16, **options}
    return cls.from_single_file(str(single), config=str(folder), local_files_only=True, **options)


def tensors(cls: Any, folder: Path, single: Path | None) -> Iterator[tuple[str, Any]]:
    """Every tensor on the CPU with its name, one at a time where the files are safetensors.

    Shapes are those of the model's state dict; dtypes those of the safetensors files, else bf16.
    """
    import torch
    from safetensors import safe_open

    files = _files(folder)
    if single is not None:
        yield from from_single(cls, folder, single).state_dict().items()
    elif not files:
        model = cls.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
        )
        yield from model.state_dict().items()
    else:
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    yield name, opened.get_tensor(name)


def in_shards(named: Iterator[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Contiguous tensors by name, in groups: one ends with the tensor that brings it to 2 GiB."""
    shard: dict[str, Any] = {}
    total = 0
    for name, tensor in named:
        shard[name] = tensor.contiguous()
        total += tensor.nbytes
        if total >= _SHARD_BYTES:
            yield shard
            shard, total = {}, 0
    if shard:
        yield shard


def _files(folder: Path) -> list[Path]:
    """The safetensors of a component, without variants (`model.fp16.safetensors`)."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({folder / name for name in names})
    return sorted(folder.glob("*.safetensors"), key=lambda file: len(file.name))[:1]
