"""LoRA files in a home's roots and in the hub's cache, and what is recorded of those in a spec."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.engine.hub import library as hub
from runner.settings import Home, Settings
from runner.spool.inbox import loras

recorded = functools.partial(loras.recorded, cached=hub.snapshot)
settled = functools.partial(loras.settled, cached=hub.snapshot)
for_task = functools.partial(loras.for_task, cached=hub.snapshot)


def with_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with two roots for LoRA files, one outside it, and a hub's cache of its own."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home/loras/styles").mkdir(parents=True)
    return Home(tmp_path / "home", Settings(lora_roots=("loras", str(tmp_path / "more"))))


def content(seed: int = 0, key: str = "transformer.x.lora_A.weight") -> bytes:
    """A whole safetensors file with one tensor, made of bytes and not by the library."""
    data = bytes([seed]) * 64
    tensors = {key: {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, len(data)]}}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    return len(header).to_bytes(8, "little") + header + data


def put(file: Path, data: bytes) -> str:
    """Write a file; its hash."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def pulled(home: Home, repo: str, files: Mapping[str, bytes], commit: str = "c0ffee") -> None:
    """A repository in the hub's cache, as huggingface_hub lays it out."""
    base = hub.repo_folder(repo, home.data)
    (base / "refs").mkdir(parents=True, exist_ok=True)
    (base / "refs/main").write_text(commit, encoding="utf-8")
    for name, data in files.items():
        blob = base / "blobs" / hashlib.sha256(data).hexdigest()
        put(blob, data)
        link = base / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def only(spec: Mapping[str, Any], home: Home) -> dict[str, Any]:
    """What is recorded of the one LoRA of a spec, which has no fault."""
    found, faults = recorded(spec, home)
    assert faults == []
    assert len(found) == 1
    return found[0]


def fault(lora: Mapping[str, Any], home: Home) -> tuple[str, str, str]:
    """The reason, the path and the message of the one fault that a LoRA has."""
    _, faults = recorded({"loras": [lora]}, home)
    ((path, error),) = faults
    return error.reason, path, str(error)
