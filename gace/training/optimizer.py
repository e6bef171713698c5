"""The optimiser of a run, and how fast each parameter may change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

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
        wide: dict[tuple[int, int], list[tuple[Tensor, Tensor, float]]] = {}
        for group in self.param_groups:
            rate, present = group["lr"], [one for one in group["params"] if one.grad is not None]
            if group["weight_decay"]:
                torch._foreach_mul_(present, 1.0 - rate * group["weight_decay"])
            self._adam([one for one in present if not is_matrix(one)], rate)
            matrices = [one for one in present if is_matrix(one)]
            for one, change in zip(matrices, self._ahead(matrices), strict=True):
                # changes are read and written through views, so that the long side always comes last
                a, b = one.shape[-2:]
                target, change = (one, change) if a <= b else (one.mT, change.mT)
                wide.setdefault((min(a, b), max(a, b)), []).append((target, change, rate))
        for (rows, columns), members in wide.items():
            # one product for all matrices of a size: most of them are one of a few, by themselves
            stacked = torch.cat([change.reshape(-1, rows, columns) for _, change, _ in members])
            changes = orthogonal(stacked).split([change.shape[:-2].numel() for _, change, _ in members])
            for (target, _, rate), change in zip(members, changes, strict=True):
                target.add_(change.reshape(target.shape), alpha=-rate * AS_ADAM * columns**0.5)

    def _ahead(self, matrices: list[Tensor]) -> list[Tensor]:
        """Gradients ahead of the momentum (Nesterov), after these gradients have joined it."""
        if not matrices:
            return []
        gradients = [one.grad for one in matrices]
        momenta = [self._state(one)["momentum"] for one in matrices]
        torch._foreach_lerp_(momenta, gradients, 1.0 - MOMENTUM)
        return list(torch._foreach_lerp(gradients, momenta, MOMENTUM))

    def _adam(self, parameters: list[Tensor], rate: float) -> None:
        """Adam's change of what is no matrix, in one kernel."""
        if not parameters:
            return
        states = [self._state(one) for one in parameters]
        adam(
            parameters,
            [one.grad for one in parameters],
            [state["momentum"] for state in states],
            [state["square"] for state in states],
            [],
            [state["number"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=0.0,
            eps=TINY,
            maximize=False,
        )

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Momentum; of what is no matrix also Adam's second moment and number of steps."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            if not is_matrix(parameter):
                state["square"] = torch.zeros_like(parameter)
                state["number"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return state


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon changes it as a matrix, or a stack of them along the leading axes."""
    return parameter.ndim >= 2 and min(parameter.shape[-2:]) >= SMALLEST_MATRIX


def orthogonal(x: Tensor) -> Tensor:
    """Matrices with the singular vectors of ``x`` ``(…, a, b)`` and singular values of 0.7 to 1.2.

    Products are of the size of the rows: ``a`` should be the short side.
    """
    a, b, c = QUINTIC
    flat = (x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-30)).reshape(-1, *x.shape[-2:])
    for _ in range(ITERATIONS):
        square = flat @ flat.mT
        flat = torch.baddbmm(flat, torch.baddbmm(square, square, square, beta=b, alpha=c), flat, beta=a)
    return flat.reshape(x.shape)
