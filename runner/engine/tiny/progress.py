"""Counts a training's steps, writes its checkpoints aside and says how it goes.

A training that was stopped goes on from its checkpoint. Steps count, not minutes, so that a slow
machine makes the same model, only later.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

CHECKPOINT_EVERY = 120.0
_NOTE_EVERY = 50


class Stateful(Protocol):
    """What a checkpoint keeps beside the weights."""

    def state(self) -> list[dict[str, object]]: ...
    def restore(self, state: list[dict[str, object]]) -> None: ...


class Progress:
    """The count, the log and the checkpoint of one training."""

    def __init__(
        self, name: str, checkpoint: Path, limit: int, model: nn.Module, optimizers: Stateful
    ) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.limit = limit
        self.model = model
        self.optimizers = optimizers
        self.step = 0
        self.spent = 0.0
        self.sums: dict[str, float] = {}
        self.counted = 0
        if checkpoint.exists():
            kept = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(kept["model"])
            optimizers.restore(kept["optimizers"])
            self.step, self.spent = kept["step"], kept["spent"]
            print(f"{name}: goes on at step {self.step} of {limit}", flush=True)

    @property
    def over(self) -> bool:
        """True when all steps are done."""
        return self.step >= self.limit

    def steps(self) -> Iterator[tuple[int, float]]:
        """Numbers of the steps left, each with the part that is done; then a checkpoint."""
        began = saved = time.monotonic()
        before = self.spent
        while self.step < self.limit:
            yield self.step, self.step / self.limit
            self.step += 1
            now = time.monotonic()
            self.spent = before + now - began
            if now - saved > CHECKPOINT_EVERY:
                self.save()
                saved = now
        if self.spent > before:
            self.save()

    def save(self) -> None:
        """Write the checkpoint aside, then rename."""
        aside = self.checkpoint.with_suffix(".partial")
        kept = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state(),
            "step": self.step,
            "spent": self.spent,
        }
        torch.save(kept, aside)
        os.replace(aside, self.checkpoint)

    def note(self, step: int, **values: Tensor | float) -> None:
        """Add figures to the log; their means are printed now and then."""
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
        self.counted += 1
        if self.counted == _NOTE_EVERY:
            means = {key: total / self.counted for key, total in self.sums.items()}
            shown = "  ".join(f"{key} {mean:.4f}" for key, mean in means.items())
            print(f"{self.name} step {step} at {self.spent:.0f} s  {shown}", flush=True)
            self.sums, self.counted = {}, 0
