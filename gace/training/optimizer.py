"""The optimiser of a run, and how fast each parameter may change."""

from __future__ import annotations

import math

import torch

from gace.training.config import TrainConfig

SMALLEST_SIZE = 1e-3
"""Size of parameters that start at zero, for relative learning rates."""


def make_optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW in one fused kernel per group; a group's rate is the schedule's times its ``size``.

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
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(
        [{"params": members, "size": size} for size, members in groups.items()],
        lr=settings.learning_rate or 0.0,  # set anew at every step
        amsgrad=settings.amsgrad,
        weight_decay=settings.weight_decay,
        fused=True,
    )
