"""Runs a training against a clock: counts steps, writes checkpoints aside, says how it goes.

A training that was stopped goes on from its checkpoint; the clock counts only time spent training.
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
    """The clock, the log and the checkpoint of one training."""

    def __init__(
        self, name: str, checkpoint: Path, minutes: float, model: nn.Module, optimizers: Stateful
    ) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self.limit = minutes * 60
        self.model = model
        self.optimizers = optimizers
        self.first = 0
        self.spent = 0.0
        self.sums: dict[str, float] = {}
        self.counted = 0
        if checkpoint.exists():
            kept = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(kept["model"])
            optimizers.restore(kept["optimizers"])
            self.first, self.spent = kept["step"], kept["spent"]
            print(f"{name}: goes on at step {self.first}", flush=True)

    @property
    def over(self) -> bool:
        """True when the time was spent before."""
        return self.spent >= self.limit

    def steps(self) -> Iterator[tuple[int, float]]:
        """Step numbers with the part of the time that is over, until it is; then a checkpoint."""
        began = saved = time.monotonic()
        before = self.spent
        step = self.first
        while not self.over:
            yield step, self.spent / self.limit
            step += 1
            now = time.monotonic()
            self.spent = before + now - began
            if now - saved > CHECKPOINT_EVERY:
                self.save(step)
                saved = now
        if step > self.first:
            self.save(step)

    def save(self, step: int) -> None:
        """Write the checkpoint aside, then rename."""
        aside = self.checkpoint.with_suffix(".partial")
        kept = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state(),
            "step": step,
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
