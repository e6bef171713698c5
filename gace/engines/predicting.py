"""What calculators of ASE for our potentials share, whatever evaluates them. Loads no PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import NDArray

from gace.errors import InputError

Array = NDArray[np.float64]


class Prediction(Protocol):
    """What is known of one structure; as :class:`gace.potential.potential.StructurePrediction`."""

    @property
    def energy(self) -> float:
        """eV, isolated atoms included."""

    @property
    def forces(self) -> Array:
        """eV/Å ``(N, 3)``."""

    @property
    def stress(self) -> Array | None:
        """eV/Å³ ``(3, 3)``; None unless periodic in three directions."""

    @property
    def energies(self) -> Array:
        """EV ``(N,)``."""

    @property
    def energy_std(self) -> float | None:
        """eV, where known."""

    @property
    def forces_std(self) -> Array | None:
        """eV/Å ``(N, 3)``, where known."""

    @property
    def gamma(self) -> Array | None:
        """``(N,)``, where known."""


class PredictingCalculator(Calculator, ABC):
    """``energy``, ``free_energy``, ``forces``, ``energies``; ``stress`` of cells periodic in 3-D.

    Where the potential has them, also ``energy_std`` (eV), ``forces_std`` (eV/Å ``(N, 3)``) and
    ``gamma`` (``(N,)``); read them with ``calc.get_property("gamma", atoms)`` or from ``results``.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]

    def __init__(self, *, uncertainty: bool, has_error_bars: bool, has_novelty: bool) -> None:
        """Offer error bars and γ that the potential has, if ``uncertainty`` asks for them."""
        super().__init__()
        self.uncertainty = uncertainty
        extra = ["energy_std", "forces_std"] if has_error_bars else []
        extra += ["gamma"] if has_novelty else []
        own = [*type(self).implemented_properties, *(extra if uncertainty else [])]
        self.implemented_properties = own  # type: ignore[misc]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute everything at once; the forces cost little more than the energy.

        Raises:
            InputError: an element the potential does not know, or an impossible cell.
        """
        super().calculate(atoms, properties or ["energy"], system_changes)
        if len(self.atoms) == 0:
            raise InputError("the structure has no atoms")
        self.results = results_of(self.predicted(self.atoms))

    @abstractmethod
    def predicted(self, atoms: Atoms) -> Prediction:
        """What the potential says of a structure that has atoms."""


def results_of(prediction: Prediction) -> dict[str, Any]:
    """A prediction as ASE's results dictionary; the stress in Voigt order."""
    results: dict[str, Any] = {
        "energy": prediction.energy,
        "free_energy": prediction.energy,
        "forces": prediction.forces,
        "energies": prediction.energies,
    }
    if prediction.stress is not None:
        (xx, xy, xz), (_, yy, yz), (_, _, zz) = prediction.stress
        results["stress"] = np.array([xx, yy, zz, yz, xz, xy])
    for name in ("energy_std", "forces_std", "gamma"):
        value = getattr(prediction, name)
        if value is not None:
            results[name] = value
    return results
