"""Counts a training's steps, writes its checkpoints and prints its figures.

A training that was stopped continues from its checkpoint. Its length is a number of steps and not
a time, so that a slow machine trains the same model.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

_CHECKPOINT_SECONDS = 120.0
_STEPS_PER_LINE = 50


class Stateful(Protocol):
    """What a checkpoint contains besides the weights."""

    def state(self) -> list[dict[str, object]]: ...
    def restore(self, state: list[dict[str, object]]) -> None: ...


class Progress:
    """The steps, the log and the checkpoint of one training."""

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
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            optimizers.restore(state["optimizers"])
            self.step, self.spent = state["step"], state["spent"]
            print(f"{name}: goes on at step {self.step} of {limit}", flush=True)

    @property
    def over(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.limit

    def steps(self) -> Iterator[tuple[int, float]]:
        """The numbers of the steps left, each with the fraction done; saves every two minutes."""
        began = saved = time.monotonic()
        before = self.spent
        while self.step < self.limit:
            yield self.step, self.step / self.limit
            self.step += 1
            now = time.monotonic()
            self.spent = before + now - began
            if now - saved > _CHECKPOINT_SECONDS:
                self.save()
                saved = now
        if self.spent > before:
            self.save()

    def save(self) -> None:
        """Write the checkpoint aside, then rename it."""
        aside = self.checkpoint.with_suffix(".partial")
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state(),
            "step": self.step,
            "spent": self.spent,
        }
        torch.save(state, aside)
        os.replace(aside, self.checkpoint)

    def note(self, step: int, **values: Tensor | float) -> None:
        """Add the figures of a step; their means over 50 steps are printed."""
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
        self.counted += 1
        if self.counted == _STEPS_PER_LINE:
            means = {key: total / self.counted for key, total in self.sums.items()}
            shown = "  ".join(f"{key} {mean:.4f}" for key, mean in means.items())
            print(f"{self.name} step {step} at {self.spent:.0f} s  {shown}", flush=True)
            self.sums, self.counted = {}, 0
