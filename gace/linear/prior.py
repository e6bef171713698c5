"""The smoothness prior: how large each coefficient may be before the data speak."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gace.linear.model import LinearACE

Array = NDArray[np.float64]


class Prior(NamedTuple):
    """Settings of the prior: a coefficient of order ν has width ``order_decay^(ν-1) (1 + h)^-p / s_ν``."""

    smoothness: float
    """p."""
    order_decay: float
    """Share of the energy variation that each further order is expected to have."""


class Shape(NamedTuple):
    """What the widths of the prior depend on, one entry per coefficient ``(C,)``."""

    height: Array
    """h = Σ n + degree_weight Σ l."""
    order: NDArray[np.int64]
    """ν."""
    size: Array
    """s_ν, the typical size of a column of order ν in the data."""

    def widths(self, prior: Prior) -> Array:
        """Standard deviation of each coefficient in units of the ridge ``(C,)``."""
        falling = (1.0 + self.height) ** -prior.smoothness
        return np.asarray(falling * prior.order_decay ** (self.order - 1.0) / self.size)


def shape_of(model: LinearACE, mean_square: Array) -> Shape:
    """The prior's shape for a model with columns of this mean square in the data ``(C,)``.

    Columns are scaled order by order, not one by one: how small a column is within its order says how
    little it matters.
    """
    weight = model.hyperparameters()["degree_weight"]
    n_elements = len(model.elements)
    height = np.tile(
        [sum(one.n + weight * one.l for one in q.factors) for q in model.invariants], n_elements
    ).astype(float)
    order = np.tile([one.order for one in model.invariants], n_elements).astype(np.int64)
    size = np.ones(len(order))
    for nu in np.unique(order):
        own = (order == nu) & (mean_square > 0)
        if own.any():
            size[order == nu] = np.sqrt(mean_square[own].mean())
    return Shape(height, order, size)
