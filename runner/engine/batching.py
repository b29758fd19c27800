"""Decides how many images are made in one call: more than one only where a trial has proven it.

A small model spends its time between the matrix products rather than in them, so a batch of four
takes little longer than two images. Layers that take one vector per image are computed row by row
(`batch_layers`). Whether all other numbers stay the same depends on the kernels of this machine,
so it is tried once for each model and size, on real prompts: the latents of one call are compared,
bit by bit, with those of single calls, and so is the time of both.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from runner.engine import gpu
from runner.engine.gpu import Piece, Stages, StopSign
from runner.engine.resolved_task import ResolvedTask
from runner.engine.speed import Speed

log = logging.getLogger(__name__)

MAX_BATCH = 4
"""A larger batch gains little more; all its images are lost with the process, and others wait."""

_TRIAL_STEP_SECONDS = 0.05
"""No trial where a step takes longer: the device is then busy computing."""

Key = tuple[object, ...]


class Batching:
    """How many images like the last one may be made in one call; for one thread.

    `size` may be read by any thread.
    """

    def __init__(self) -> None:
        self.size = 1
        self._proven: dict[Key | None, int] = {}
        self._last: Key | None = None
        self._in_a_row = 0

    def record(self, stages: Stages, resolved: ResolvedTask, piece: Piece, seconds: float) -> None:
        """Count an image that was made alone in `seconds`; after some alike, run the trial."""
        quick = seconds / piece.task.steps <= _TRIAL_STEP_SECONDS
        key = _key(resolved, piece) if quick else None
        self._in_a_row = self._in_a_row + 1 if key == self._last else 1
        self._last = key
        # A trial pays only after some images alike in a row.
        if key is not None and key not in self._proven and self._in_a_row >= 3:
            self._proven[key] = MAX_BATCH if _passes(stages, piece) else 1
        self.size = self._proven.get(key, 1)

    def is_proven(self, resolved: ResolvedTask, pieces: Sequence[Piece]) -> bool:
        """Whether one call was proven to make these images as they would be made alone."""
        keys = {_key(resolved, piece) for piece in pieces}
        return len(keys) == 1 and self._proven.get(keys.pop(), 1) >= len(pieces)

    def forget(self) -> None:
        """Forget every trial: it holds only for the pipelines that are loaded."""
        self._proven.clear()
        self._last, self._in_a_row, self.size = None, 0, 1


def _key(resolved: ResolvedTask, piece: Piece) -> Key | None:
    """All that decides the shapes of the tensors; None for an image that is always made alone."""
    task, tensors = piece.task, list(piece.encoded.embeddings.values())
    plain = resolved.plan.placement == "resident" and not task.inputs and not task.loras
    if not plain or task.timeout is not None:
        return None
    if any(isinstance(tensor, list | tuple) or tensor.shape[0] != 1 for tensor in tensors):
        return None  # these cannot be concatenated to a batch
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    size = (piece.prepared.width, piece.prepared.height)
    scales = (task.guidance, task.options.get("true_cfg"))
    return (resolved.model.name, resolved.kind.name, resolved.plan, scales, size, shapes)


def _passes(stages: Stages, piece: Piece) -> bool:
    """The trial, of one step: whether a batch gives equal bits in less time."""
    import torch

    if stages.speed != Speed():
        return False
    tasks = [
        replace(piece.task, seed=(piece.task.seed + number) % 2**32, steps=1)
        for number in range(MAX_BATCH)
    ]
    pieces = [replace(piece, task=task) for task in tasks]
    began = time.perf_counter()
    alone = _latents(stages, pieces[:1])
    between = time.perf_counter()
    batch = _latents(stages, pieces)
    share = (time.perf_counter() - between) / (between - began) / MAX_BATCH
    # Every row is compared: the last ones may be computed by another kernel.
    others = (_latents(stages, [piece]) for piece in pieces[1:])
    same = all(map(torch.equal, (alone, *others), batch.split(1)))
    log.info("%d at once: %s, %.2f of the time", MAX_BATCH, "equal" if same else "not equal", share)
    # A batch has to be worth it: with less than a tenth of the time saved it is not.
    return same and share < 0.9


def _latents(stages: Stages, pieces: Sequence[Piece]) -> Any:
    """The latents of a batch without its progress, as `gpu.denoised` returns them."""
    try:
        return gpu.denoised(stages, pieces, StopSign(), lambda *_: None)
    finally:
        stages.main.maybe_free_model_hooks()
