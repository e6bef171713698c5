"""The optimiser of a run, and how fast each parameter may change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gace.training.config import TrainConfig

SMALLEST_SIZE = 1e-3
"""Size of parameters that start at zero, for relative learning rates."""


def make_optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW, one fused kernel per group, or Muon; a rate is the schedule's times a group's ``size``.

    Where rates are relative, a parameter's size is its root mean square at the start, rounded to a
    power of √2 so that groups are few. Wide and narrow products then learn at the same pace, as if
    all parameters had been of order one with fixed factors (neural-tangent parametrisation).
    """
    settings = config.training
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for one in parameters:
        size = 1.0
        if settings.learning_rate_unit == "relative" and one.numel():
            mean_square = float(one.detach().double().square().mean())
            size = 2.0 ** (round(math.log2(mean_square)) / 2) if mean_square > 1e-6 else SMALLEST_SIZE
        groups.setdefault(size, []).append(one)
    sized = [{"params": members, "size": size} for size, members in groups.items()]
    rate = settings.learning_rate or 0.0  # set anew at every step
    if settings.optimizer == "muon":
        return Muon(sized, rate, settings.weight_decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(
        sized,
        lr=rate,
        amsgrad=settings.amsgrad,
        weight_decay=settings.weight_decay,
        fused=True,
    )


MOMENTUM, BETAS, TINY = 0.95, (0.9, 0.999), 1e-8
"""Of Muon; and of Adam for what is no matrix."""

SMALLEST_MATRIX = 8
"""Rows and columns below which a matrix is left to Adam."""

AS_ADAM = 0.3
"""Root mean square of a change over the rate: about what Adam's is, so that one rate serves both."""

QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Polynomial that takes singular values towards one, and how often."""


class Muon(torch.optim.Optimizer):
    """Changes of matrices along their momentum with all singular values about one; Adam for all else.

    [Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024)], with a scale that lets
    Adam's rates be kept [as in Liu et al., arXiv:2502.16982]. PyTorch's takes matrices only; here weights
    are stacks of them, one for each path ``(paths, K, K)``, and each is made orthogonal by itself.

    Args:
        groups: of parameters, as of :class:`torch.optim.Adam`.
        lr: rate.
        weight_decay: share of the rate by which parameters shrink.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that are there."""
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is not None:
                    one.mul_(1.0 - group["lr"] * group["weight_decay"])
                    one.add_(self._change(one, one.grad), alpha=-group["lr"])

    def _change(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        state, matrix = self.state[parameter], is_matrix(parameter)
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            if not matrix:
                state["square"] = torch.zeros_like(parameter)
                state["number"] = torch.zeros((), dtype=parameter.dtype)
        first = state["momentum"]
        if matrix:
            first.lerp_(gradient, 1.0 - MOMENTUM)
            ahead = torch.lerp(gradient, first, MOMENTUM)
            return orthogonal(ahead) * (AS_ADAM * max(parameter.shape[-2:]) ** 0.5)
        second, number = state["square"], state["number"]
        number += 1.0
        first.lerp_(gradient, 1.0 - BETAS[0])
        second.lerp_(gradient.square(), 1.0 - BETAS[1])
        root = (second / (1.0 - BETAS[1] ** float(number))).sqrt_()
        return first / (1.0 - BETAS[0] ** float(number)) / root.add_(TINY)


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon changes it as a matrix, or a stack of them along the leading axes."""
    return parameter.ndim >= 2 and min(parameter.shape[-2:]) >= SMALLEST_MATRIX


def orthogonal(x: Tensor) -> Tensor:
    """Matrices with the singular vectors of ``x`` ``(…, a, b)`` and singular values of 0.7 to 1.2."""
    a, b, c = QUINTIC
    tall = x.shape[-2] > x.shape[-1]
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-30)
    if tall:
        x = x.mT
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
