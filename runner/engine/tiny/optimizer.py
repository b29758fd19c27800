"""Muon for the inner matrices, AdamW for the rest, and the schedule of all trainings.

Muon reaches the same loss in about a third of AdamW's steps, so that the trainings take a morning
on two cores. Convolution kernels count as matrices (output channels × everything else).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

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
