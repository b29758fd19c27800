"""The weights of one component as they were published: in a folder, in shards, or in one file.

Reads them tensor by tensor, so that 24 GB can be converted in little memory. Changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SHARD = 2 * 2**30


def is_stored(folder: Path) -> bool:
    """Whether a component's folder was published quantised; looks at its configuration alone."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(config.get("quantization_config"))


def size(source: Path) -> int:
    """The bytes of the weights."""
    if source.is_file():
        return source.stat().st_size
    return sum(each.stat().st_size for each in source.iterdir() if each.is_file())


def from_single(cls: Any, folder: Path, single: Path) -> Any:
    """The model of a single file, in bf16 on the CPU; `folder` says what it looks like."""
    import torch

    return cls.from_single_file(
        str(single), config=str(folder), dtype=torch.bfloat16, local_files_only=True
    )


def tensors(cls: Any, folder: Path, single: Path | None) -> Iterator[tuple[str, Any]]:
    """Every tensor with its name, one at a time where the files are safetensors."""
    import torch
    from safetensors import safe_open

    files = _files(folder)
    if single is not None:
        yield from from_single(cls, folder, single).state_dict().items()
    elif not files:
        model = cls.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
        yield from model.state_dict().items()
    else:
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    yield name, opened.get_tensor(name)


def in_shards(named: Iterator[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Groups of tensors of at most about two gibibytes."""
    shard: dict[str, Any] = {}
    total = 0
    for name, tensor in named:
        shard[name] = tensor.contiguous()
        total += tensor.nbytes
        if total >= _SHARD:
            yield shard
            shard, total = {}, 0
    if shard:
        yield shard


def _files(folder: Path) -> list[Path]:
    """The safetensors of a component, without variants that lie beside them."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({folder / name for name in names})
    return sorted(folder.glob("*.safetensors"), key=lambda each: len(each.name))[:1]
