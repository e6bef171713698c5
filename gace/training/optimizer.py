"""The optimiser of a run, and how fast each parameter may change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from gace.training.config import TrainConfig

SMALLEST_SIZE = 1e-3
"""Size of parameters that start at zero, for relative learning rates."""


def make_optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> Optimizer:
    """Adam, AdamW or Muon; a rate is the schedule's times a group's ``size``.

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
    muon = settings.optimizer == "muon"
    return Optimizer(
        [{"params": members, "size": size} for size, members in groups.items()],
        lr=settings.learning_rate or 0.0,  # set anew at every step
        weight_decay=settings.weight_decay,
        decoupled=settings.optimizer != "adam",
        amsgrad=settings.amsgrad and not muon,
        muon=muon,
    )


MOMENTUM, BETAS, TINY = 0.95, (0.9, 0.999), 1e-8
"""Of Muon; of Adam."""

SMALLEST_MATRIX = 8
"""Rows and columns below which a matrix is left to Adam."""

AS_ADAM = 0.3
"""Root mean square of Muon's change over the rate: about what Adam's is, so that one rate serves both."""

QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Polynomial that takes singular values towards one, and how often."""


class Optimizer:
    """Adam in one kernel; with ``muon`` matrices change along their momentum, all singular values about one.

    Adam: [Kingma and Ba, arXiv:1412.6980; AMSGrad: Reddi et al., arXiv:1904.09237; decoupled decay:
    Loshchilov and Hutter, arXiv:1711.05101] by PyTorch's functions. Muon: [Jordan et al., Muon: an optimizer
    for hidden layers in neural networks (2024)], with a scale that lets Adam's rates be kept [as in
    Liu et al., arXiv:2502.16982]; weights are stacks of matrices here, one for each path ``(paths, K, K)``,
    and each is made orthogonal by itself.

    Not a ``torch.optim.Optimizer``: to make one of those loads PyTorch's compiler, a hundred megabytes that a
    training without it has no use for.

    Args:
        groups: dictionaries with ``params`` and whatever else the caller keeps there.
        lr: rate; a group's ``lr`` may be set between steps.
        weight_decay: share of the parameters that joins the gradients or, decoupled, share of the rate by
            which parameters shrink.
        decoupled: which of the two.
        amsgrad: divide by the largest second moment so far.
        muon: whether matrices change by Muon.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        amsgrad: bool = False,
        muon: bool = False,
    ) -> None:
        self.param_groups = [{"lr": lr} | group for group in groups]
        self.weight_decay, self.decoupled, self.amsgrad, self.muon = weight_decay, decoupled, amsgrad, muon
        self._slots: dict[Tensor, dict[str, Tensor]] = {}

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, in the order of the groups."""
        return [one for group in self.param_groups for one in group["params"]]

    def slots(self) -> dict[int, dict[str, Tensor]]:
        """Moments and step counters by parameter number, of those that have changed so far."""
        return {index: self._slots[one] for index, one in enumerate(self.parameters) if one in self._slots}

    def load_slots(self, slots: dict[int, dict[str, Tensor]]) -> None:
        """Go on from what :meth:`slots` gave."""
        parameters = self.parameters
        self._slots = {parameters[index]: slot for index, slot in slots.items()}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for one in self.parameters:
            one.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients that are there."""
        matrices: list[tuple[Tensor, float]] = []
        for group in self.param_groups:
            rate, present = group["lr"], [one for one in group["params"] if one.grad is not None]
            if self.decoupled and self.weight_decay and present:
                torch._foreach_mul_(present, 1.0 - rate * self.weight_decay)
            own = [one for one in present if self.muon and is_matrix(one)]
            matrices += [(one, rate) for one in own]
            self._adam([one for one in present if not (self.muon and is_matrix(one))], rate)
        if matrices:
            self._muon(*zip(*matrices, strict=True))

    def _adam(self, parameters: list[Tensor], rate: float) -> None:
        if not parameters:
            return
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.amsgrad else [])]
        for one in parameters:
            if one not in self._slots:
                step = torch.zeros((), dtype=torch.float32, device=one.device)
                self._slots[one] = {"step": step} | {name: torch.zeros_like(one) for name in names}
        slots = [self._slots[one] for one in parameters]
        adam(
            parameters,
            _gradients(parameters),
            [slot["exp_avg"] for slot in slots],
            [slot["exp_avg_sq"] for slot in slots],
            [slot["max_exp_avg_sq"] for slot in slots] if self.amsgrad else [],
            [slot["step"] for slot in slots],
            fused=True,
            amsgrad=self.amsgrad,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=0.0 if self.decoupled else self.weight_decay,
            eps=TINY,
            maximize=False,
        )

    def _muon(self, parameters: tuple[Tensor, ...], rates: tuple[float, ...]) -> None:
        gradients = _gradients(parameters)
        for one in parameters:
            if one not in self._slots:
                self._slots[one] = {"momentum": torch.zeros_like(one)}
        momenta = [self._slots[one]["momentum"] for one in parameters]
        torch._foreach_lerp_(momenta, gradients, 1.0 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov
        wide: dict[tuple[int, int], list[tuple[Tensor, Tensor, float]]] = {}
        for one, change, rate in zip(parameters, ahead, rates, strict=True):
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


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [one.grad for one in parameters if one.grad is not None]


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
