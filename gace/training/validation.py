"""Errors of a model on a data set, in the units people compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gace.potential.graph_ace import GraphACE
from gace.training.batches import Packed
from gace.training.losses import Weights, residuals


class _Errors:
    """Running sums of absolute and squared residuals of one quantity, in double precision."""

    def __init__(self) -> None:
        self.count, self.absolute, self.squared = 0.0, 0.0, 0.0

    def add(self, residual: Tensor | None, label: Tensor) -> None:
        if residual is None:
            return
        values = residual.detach()[~torch.isnan(label)].double()
        self.count += values.numel()
        self.absolute += float(values.abs().sum())
        self.squared += float(values.square().sum())

    @property
    def mean_square(self) -> float:
        return self.squared / self.count if self.count else 0.0

    def summary(self) -> dict[str, float] | None:
        """MAE and RMSE times 1000 (milli-units), or None without labels."""
        if not self.count:
            return None
        return {"mae": 1e3 * self.absolute / self.count, "rmse": 1e3 * self.mean_square**0.5}


def validate(model: GraphACE, data: Packed, weights: Weights, max_atoms: int = 512) -> dict[str, Any]:
    """Errors on a data set and one score, the weighted mean square as the square loss has it.

    Returns:
        ``energy_per_atom`` [meV/atom], ``forces`` [meV/Å, per component], ``stress`` [meV/Å³] with
        ``mae`` and ``rmse`` each (None without labels), and ``score``.
    """
    energy, forces, stress, virial = _Errors(), _Errors(), _Errors(), _Errors()
    for _, batch in data.in_order(max_atoms):
        found = residuals(model, batch, forces=data.has_forces, stress=data.has_stress, create_graph=False)
        energy.add(found.energy_per_atom, batch.energy)
        forces.add(found.forces, batch.forces)
        virial.add(found.virial_per_atom, batch.virial)
        if found.virial_per_atom is not None:
            density = (batch.n_atoms / batch.graph.volume)[:, None, None]
            stress.add(found.virial_per_atom * density, batch.virial)
    score = (
        weights.energy * energy.mean_square
        + weights.forces * forces.mean_square
        + weights.stress * virial.mean_square
    )
    return {
        "energy_per_atom": energy.summary(),
        "forces": forces.summary(),
        "stress": stress.summary(),
        "score": score,
    }
