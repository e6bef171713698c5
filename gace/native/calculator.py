"""ASE's calculator for a file ``*.gace``. Loads no PyTorch: a process starts in tenths of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from gace.engines.verlet import VerletList
from gace.errors import InputError
from gace.native.model import NativeModel
from gace.native.pairs import pairs


class NativeCalculator(Calculator):
    """``energy``, ``free_energy``, ``forces``, ``energies``; ``stress`` of cells periodic in 3-D.

    Where the file has them, also ``energy_std`` (eV), ``forces_std`` (eV/Å ``(N, 3)``) and ``gamma``
    (``(N,)``), as :class:`gace.engines.PotentialCalculator` says them.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]

    def __init__(
        self,
        model: NativeModel | str | Path,
        *,
        skin: float = 0.5,
        uncertainty: bool = True,
        threads: int | None = None,
    ) -> None:
        """Open a file that ``gace export`` wrote.

        Args:
            model: the file, or what has been opened.
            skin: Å by which neighbour lists reach beyond the cutoff, to be reused between steps.
            uncertainty: whether to compute the error bars and γ that the file has.
            threads: of an evaluation; default ``OMP_NUM_THREADS``, else all cores.

        Raises:
            BundleError: no such file, or not one of ours.
            InputError: a skin that is negative or not finite.
            MissingDependencyError: no C++ compiler where it has not been built yet what evaluates the file.
        """
        super().__init__()
        self.model = model if isinstance(model, NativeModel) else NativeModel(model, threads=threads)
        self.uncertainty = uncertainty
        self.neighbours = VerletList(self.model.elements, self.model.cutoff, skin, pairs=pairs)
        extra = ["energy_std", "forces_std"] if self.model.has_error_bars else []
        extra += ["gamma"] if self.model.has_novelty else []
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
        one = self.neighbours.neighbourhood(self.atoms)
        structure = np.zeros(len(self.atoms), dtype=np.int64)
        found = self.model.evaluate(
            one.species, one.neighbour, one.edge_vector, structure, uncertainty=self.uncertainty
        )
        results: dict[str, Any] = {
            "energy": float(found.energy[0]),
            "free_energy": float(found.energy[0]),
            "forces": found.forces,
            "energies": found.energies,
        }
        if not np.isnan(one.volume):
            (xx, xy, xz), (_, yy, yz), (_, _, zz) = found.virial[0] / one.volume
            results["stress"] = np.array([xx, yy, zz, yz, xz, xy])
        if found.energy_std is not None:
            results |= {"energy_std": float(found.energy_std[0]), "forces_std": found.forces_std}
        if found.gamma is not None:
            results["gamma"] = found.gamma
        self.results = results
