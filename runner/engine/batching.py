"""Several images in one call, where that is faster and changes no pixel: proven, never assumed.

A small model spends its time between the matrices rather than in them, and then four images cost
little more than two. Layers that take one vector an image go row by row (batch_layers.py); whether
all numbers stay the same then depends on the machine's own kernels, so it is tried once for each
model and size, on real prompts: latents of one call beside those of single calls, bit by bit, and
the time of both. Nothing is batched that has not passed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.engine import gpu
from runner.engine.gpu import Piece, Stages
from runner.engine.resolved_task import ResolvedTask
from runner.engine.speed import Speed
from runner.engine.stop_sign import StopSign
from runner.job import Phase

log = logging.getLogger(__name__)

MOST = 4
"""More gain little, and all of them are lost when the process dies, or waited for by others."""

_QUICK = 0.05
"""Seconds that a step takes at most, to be worth a trial: a longer one is busy computing."""
_AFTER = 3
"""So many images alike in a row before a trial pays."""
_FASTER = 0.9

Key = tuple[object, ...]


class Batching:
    """How many images of the kind that was made last may be made at once; for one thread.

    `size` may be read by any.
    """

    def __init__(self) -> None:
        self.size = 1
        self._known: dict[Key, int] = {}
        self._last: Key | None = None
        self._row = 0

    def made(self, stages: Stages, resolved: ResolvedTask, piece: Piece, seconds: float) -> None:
        """An image was made alone, in so many seconds: after some alike, more at once are tried."""
        quick = seconds / piece.task.steps <= _QUICK
        key = _key(resolved, piece) if quick else None
        self._row = self._row + 1 if key == self._last else 1
        self._last = key
        if key is not None and key not in self._known and self._row >= _AFTER:
            self._known[key] = MOST if _passes(stages, piece) else 1
        self.size = self._known.get(key, 1) if key is not None else 1

    def may(self, resolved: ResolvedTask, pieces: Sequence[Piece]) -> bool:
        """Whether these have been proven to come out as if each were made alone."""
        keys = {_key(resolved, piece) for piece in pieces}
        (key,) = keys if len(keys) == 1 else (None,)
        return key is not None and self._known.get(key, 1) >= len(pieces)

    def forget(self) -> None:
        """What was proven holds for what is loaded now."""
        self._known.clear()
        self._last, self._row, self.size = None, 0, 1


def _key(resolved: ResolvedTask, piece: Piece) -> Key | None:
    """What decides the shapes of all matrices; None for what is always made alone."""
    task = piece.task
    plain = resolved.plan.placement == "resident" and not resolved.kind.reads and not task.loras
    shapes = _shapes(piece.encoded.embeddings)
    if not plain or task.timeout is not None or shapes is None:
        return None
    size = (piece.prepared.width, piece.prepared.height)
    return (resolved.model.name, resolved.kind.name, resolved.plan, task.guidance, size, shapes)


def _shapes(embeddings: Mapping[str, Any]) -> tuple[tuple[int, ...], ...] | None:
    """The shapes of the embeddings, where they can be put on top of each other."""
    values = list(embeddings.values())
    if any(isinstance(value, list | tuple) or value.shape[0] != 1 for value in values):
        return None
    return tuple(tuple(value.shape) for value in values)


def _passes(stages: Stages, piece: Piece) -> bool:
    """The trial: equal to the last bit, and faster."""
    import torch

    if stages.speed != Speed():
        return False
    tasks = [
        replace(piece.task, seed=(piece.task.seed + number) % 2**32, steps=1)
        for number in range(MOST)
    ]
    pieces = [replace(piece, task=task) for task in tasks]
    began = time.perf_counter()
    alone = _latents(stages, pieces[:1])
    between = time.perf_counter()
    at_once = _latents(stages, pieces)
    share = (time.perf_counter() - between) / (between - began) / MOST
    # Every row: those at the end may be computed by another kernel.
    others = (_latents(stages, [piece]) for piece in pieces[1:])
    same = all(map(torch.equal, (alone, *others), at_once.split(1)))
    log.info("%d at once: %s, %.2f of the time", MOST, "equal" if same else "not equal", share)
    return same and share < _FASTER


def _latents(stages: Stages, pieces: Sequence[Piece]) -> Any:
    try:
        return gpu.denoised(stages, pieces, StopSign(), _quiet)
    finally:
        stages.main.maybe_free_model_hooks()


def _quiet(phase: Phase, step: int, steps: int) -> None:
    pass
