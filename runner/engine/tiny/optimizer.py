"""Muon for the inner matrices, AdamW for the rest, and the schedule all trainings share.

On two cores Muon is what makes these trainings fit into a morning: the same loss in about a third
of AdamW's steps. Convolution kernels count as matrices (out × everything else).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalised(stack: Tensor, steps: int = 4) -> Tensor:
    """The nearest orthogonal matrices of a (n, rows, columns) stack, roughly."""
    a, b, c = _NEWTON_SCHULZ
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()  # rough is enough, and twice as fast
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(stack.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal matrices for steps, scaled like AdamW's; equal shapes together."""

    def __init__(self, params: Iterable[Tensor], lr: float, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take one step; a closure is not needed and not called."""
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
    """The pair of optimizers of one model, driven as one."""

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
        """Back-propagate and step with the learning rate times a scale."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.all, 1.0)
        for optimizer in self.pair:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, object]]:
        """For a checkpoint."""
        return [optimizer.state_dict() for optimizer in self.pair]

    def restore(self, state: list[dict[str, object]]) -> None:
        """From a checkpoint."""
        for optimizer, each in zip(self.pair, state, strict=True):
            optimizer.load_state_dict(each)


def schedule(progress: float, *, flat_until: float = 0.55, last: float = 0.01) -> float:
    """The learning rate's scale at a progress of 0..1: flat, then down a straight line."""
    if progress < flat_until:
        return 1.0
    return max(last, 1 - (1 - last) * (progress - flat_until) / (1 - flat_until))


@contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """bfloat16 where it is safe; on a CPU with plain attention: its backward is 4× as fast."""
    with torch.autocast(device.type, torch.bfloat16):
        if device.type == "cpu":
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield
