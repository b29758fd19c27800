"""Files of an outbox as anybody who may write there can plant them: each value of another type."""

from __future__ import annotations

import copy
import platform
import sys
from collections.abc import Iterator
from math import nan
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 10**400, 2.5, nan, "", "\udc80", "a\0b", "../../x",
    "0001-01-01T00:00:00+23:59", [], ["x"], {}, {"x": None},
)  # fmt: skip
NOW = "2026-11-29T07:00:00.000Z"
STATUS: dict[str, Any] = {
    "schema": 1, "id": "cat", "kind": "text2img", "model": "tiny", "state": "succeeded",
    "reason": "OutOfMemory", "message": "it is full", "revision": 3, "attempt": 1, "priority": 0,
    "tags": ["a"], "source": {"name": "cat.yaml", "sha256": "0" * 64, "bytes": 10},
    "accepted_at": NOW, "started_at": NOW, "finished_at": NOW, "updated_at": NOW,
    "images": {"total": 2, "done": 1, "failed": 0, "skipped": 0, "reused": 0},
    "progress": {
        "phase": "denoising", "image": 1, "step": 1, "steps": 2, "fraction": 0.5,
        "eta_seconds": 1.0,
    },
    "errors": [{"line": 1, "column": 2, "path": "steps", "message": "no"}],
    "warnings": ["careful"], "kept": False,
    "outputs": [
        {
            "file": "cat-0001.png", "sidecar": "cat-0001.json", "thumbnail": None, "seed": 1,
            "sha256": "0" * 64, "width": 64, "height": 64, "original": None,
        }
    ],
}  # fmt: skip
HEALTH: dict[str, Any] = {
    "schema": 1, "pid": 1, "host": platform.node(), "system": sys.platform, "version": "1",
    "state": "idle", "note": "a note", "settings": "a note",
    "faults": [{"file": "inbox/x", "reason": "Internal", "message": "odd", "since": NOW}],
    "job": "cat", "models": ["tiny"],
    "slots": [
        {
            "name": "cuda:1", "host": "here", "device": "cuda:1", "model": "tiny", "job": "cat",
            "image": 1, "step": 2, "steps": 3, "memory": 1 << 30, "state": "lost", "note": "odd",
        }
    ],
    "queued": 1, "next": ["cat"], "counts": {"succeeded": 1},
    "recent": [
        {
            "id": "cat", "state": "failed", "kind": "text2img", "model": "tiny",
            "reason": "Timeout", "message": "late", "total": 1, "done": 0, "failed": 1,
            "skipped": 0, "reused": 0,
        }
    ],
    "watch": "events", "threads": {"main": 0.1}, "gpu": None, "started_at": NOW,
    "receivers": [{"name": "phone", "error": None, "dropped": 0}],
    "lent": {"until": NOW, "pid": 1, "host": "x", "space": "abc", "since": NOW, "now": False},
    "updated_at": NOW, "interval_seconds": 0.05,
}  # fmt: skip
RECEIPT: dict[str, Any] = {
    "schema": 1, "name": "cat.yaml", "sha256": "0" * 64, "job": "cat", "outcome": "accepted",
    "at": NOW,
}  # fmt: skip
SIDECAR: dict[str, Any] = {
    "kind": "text2img", "model": "tiny", "prompt": "a cat", "seed": 1, "tags": ["a"], "width": 64,
    "height": 64,
    "result": {
        "job": "cat", "file": "cat-0001.png", "index": 1, "pack": "cats", "subject": "s",
        "variable": "v", "width": 64, "height": 64, "seconds": 1.0, "created_at": NOW,
        "sha256": "0" * 64, "versions": {"fluxdrop": "1"},
    },
}  # fmt: skip


def variants(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document with one value, however deep, replaced or gone: each in turn, by each."""
    for path in list(_paths(whole)):
        for odd in (*ODD, _GONE):
            changed: Any = copy.deepcopy(whole)
            place = changed
            for step in path[:-1]:
                place = place[step]
            if odd is _GONE:
                del place[path[-1]]
            else:
                place[path[-1]] = odd
            yield changed


_GONE = object()


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps = value if isinstance(value, dict) else range(len(value))
    for step in steps:
        yield (*above, step)
        if isinstance(value[step], (dict, list)):
            yield from _paths(value[step], (*above, step))
