"""A potential bundle as an MLflow model: this file is stored with the model and run when it is loaded.

It holds no weights and unpickles nothing: the bundle lies beside it as the artifact ``potential``
and is read by ``gace.load``, which checks its checksums.
"""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel


class Structure(BaseModel):
    """One structure of a request."""

    symbols: list[str]
    """Chemical symbols ``(N,)``."""
    positions: list[list[float]]
    """Positions, Å ``(N, 3)``."""
    cell: list[list[float]] | None = None
    """Cell vectors as rows, Å ``(3, 3)``."""
    pbc: list[bool] | None = None
    """Periodicity along each cell vector ``(3,)``; absent: periodic if there is a cell."""


class Potential(PythonModel):
    """Energies, forces and, where the bundle has them, error bars for a list of structures."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle."""
        import gace

        self.potential = gace.load(context.artifacts["potential"])

    def predict(self, context: PythonModelContext, model_input: list[Structure]) -> list[dict[str, Any]]:
        """Predict ``energy`` (eV), ``forces`` (eV/Å, ``(N, 3)``), ``stress`` (eV/Å³, tension positive).

        With uncertainty in the bundle also ``energy_std`` (eV), ``forces_std`` (eV/Å) and ``gamma``
        (per atom; null where an element is unknown).
        """
        from ase import Atoms

        structures = [
            Atoms(
                item.symbols,
                item.positions,
                cell=item.cell,
                pbc=item.pbc if item.pbc is not None else item.cell is not None,
            )
            for item in model_input
        ]
        with_uncertainty = self.potential.uncertainty is not None
        predictions = self.potential.predict(structures, uncertainty=with_uncertainty)
        return [_plain(prediction) for prediction in predictions]


def _plain(prediction: Any) -> dict[str, Any]:
    """One prediction as JSON values, leaving out what is absent."""
    import numpy as np

    names = ["energy", "forces", "stress", "energy_std", "forces_std", "gamma"]
    result: dict[str, Any] = {}
    for name in names:
        value = getattr(prediction, name, None)
        if value is None:
            continue
        array = np.asarray(value, dtype=float)
        listed = array.tolist()
        if name == "gamma":  # JSON knows no infinity
            listed = [entry if np.isfinite(entry) else None for entry in np.atleast_1d(array).tolist()]
        result[name] = listed
    return result


mlflow.models.set_model(Potential())
