"""What all trainings share: their optimizers, their schedule, their steps and checkpoints.

Muon reaches the same loss in about a third of AdamW's steps, so that the trainings take a morning
on two cores. Convolution kernels count as matrices (output channels × everything else). A training
that was stopped continues from its checkpoint. Its length is a number of steps and not a time, so
that a slow machine trains the same model.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_CHECKPOINT_SECONDS = 120.0
_STEPS_PER_LINE = 50
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalised(stack: Tensor, steps: int = 4) -> Tensor:
    """About the nearest orthogonal matrices of a (n, rows, columns) stack, in its dtype."""
    a, b, c = _NEWTON_SCHULZ
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()  # exact enough, and twice as fast
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(stack.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, scaled like AdamW's; equal shapes are batched."""

    def __init__(self, params: Iterable[Tensor], lr: float, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take one step; `closure` is not called."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[(weight.shape[0], weight[0].numel())].append(weight)
            for (rows, columns), weights in alike.items():
                self._step_alike(weights, rows, columns, group)

    def _step_alike(
        self, weights: list[Tensor], rows: int, columns: int, group: dict[str, float]
    ) -> None:
        updates = []
        for weight in weights:
            assert weight.grad is not None
            memory = self.state[weight]
            if not memory:
                memory["momentum"] = torch.zeros_like(weight)
            memory["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            updates.append(weight.grad.lerp(memory["momentum"], group["momentum"]).flatten(1))
        scale = 0.2 * max(rows, columns) ** 0.5 * group["lr"]
        for weight, update in zip(weights, orthogonalised(torch.stack(updates)), strict=True):
            weight.mul_(1 - group["lr"] * group["decay"])
            weight.add_(update.view_as(weight), alpha=-scale)


class Optimizers:
    """Muon and AdamW for one model, used as one optimizer.

    AdamW also trains the matrices whose parameter name `plain` accepts.
    """

    def __init__(
        self, model: nn.Module, lr: float, *, plain: Callable[[str], bool] = lambda _: False
    ) -> None:
        matrices: list[Tensor] = []
        rest: list[Tensor] = []
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                inner = weight.ndim >= 2 and min(weight.shape[0], weight[0].numel()) > 1
                (matrices if inner and not plain(name) else rest).append(weight)
        self.all = matrices + rest
        self.pair: list[torch.optim.Optimizer] = [Muon(matrices, lr)] if matrices else []
        self.pair.append(torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.97), weight_decay=0.0))
        self.lr = lr

    def step(self, loss: Tensor, scale: float) -> None:
        """Back-propagate, and take a step with the learning rate times `scale`."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.all, 1.0)
        for optimizer in self.pair:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, object]]:
        """The state for a checkpoint."""
        return [optimizer.state_dict() for optimizer in self.pair]

    def restore(self, state: list[dict[str, object]]) -> None:
        """Restore the state of a checkpoint."""
        for optimizer, own_state in zip(self.pair, state, strict=True):
            optimizer.load_state_dict(own_state)


def schedule(progress: float, *, flat_until: float = 0.55, last: float = 0.01) -> float:
    """The learning rate's scale at a progress of 0..1: constant at 1, then falling linearly."""
    if progress < flat_until:
        return 1.0
    return max(last, 1 - (1 - last) * (progress - flat_until) / (1 - flat_until))


@contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """Autocast to bfloat16; on a CPU with plain attention, whose backward pass is 4× as fast."""
    with torch.autocast(device.type, torch.bfloat16):
        if device.type == "cpu":
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield


class Progress:
    """The steps, the log and the checkpoint of one training."""

    def __init__(
        self, name: str, checkpoint: Path, limit: int, model: nn.Module, optimizers: Optimizers
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
