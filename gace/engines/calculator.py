"""The potential as a calculator of ASE."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from gace.engines.device_list import DeviceList
from gace.engines.verlet import VerletList
from gace.errors import InputError
from gace.potential.devices import differentiating
from gace.potential.potential import Potential, StructurePrediction
from gace.structures.graph import Graph
from gace.structures.neighbours import collate


class PotentialCalculator(Calculator):
    """``energy``, ``free_energy``, ``forces``, ``energies``; ``stress`` of cells periodic in 3-D.

    Where the potential has them, also ``energy_std`` (eV), ``forces_std`` (eV/Å ``(N, 3)``) and
    ``gamma`` (``(N,)``); read them with ``calc.get_property("gamma", atoms)`` or from ``results``.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]

    @differentiating
    def __init__(
        self, potential: Potential, *, skin: float = 0.5, uncertainty: bool = True, path: str = "tabulated"
    ) -> None:
        """Wrap a potential.

        Args:
            potential: on the device and in the precision it should run in.
            skin: Å by which neighbour lists reach beyond the cutoff, to be reused between steps.
            uncertainty: whether to compute the error bars and γ that the potential has.
            path: ``tabulated``: radial functions read off tables, as exact as the precision asks for;
                ``eager``: by their networks; ``compiled``: wait for compiled code at the first step;
                ``auto``: start at once and go over to compiled code when it is there.

        Raises:
            InputError: an unknown path, or a skin that is negative or not finite.
        """
        super().__init__()
        self.potential = _frozen(potential).evaluated_by(path)
        self.uncertainty = uncertainty
        frame = potential.elements, potential.cutoff, skin
        self.neighbours: VerletList | DeviceList = (
            VerletList(*frame)
            if potential.device.type == "cpu"
            else DeviceList(*frame, device=potential.device, dtype=potential.dtype)
        )
        extra = ["energy_std", "forces_std"] if potential.has_error_bars else []
        extra += ["gamma"] if potential.has_novelty else []
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
        potential = self.potential
        graph = self.graph(self.atoms)
        (prediction,) = potential.split(graph, potential.evaluate_graph(graph, self.uncertainty))
        self.results = results_of(prediction)

    def graph(self, atoms: Atoms) -> Graph:
        """Atoms and bonds in the potential's terms, on its device; neighbours are reused where they hold.

        Raises:
            InputError: an element the potential does not know, or an impossible cell.
        """
        if isinstance(self.neighbours, DeviceList):
            return self.neighbours.graph(atoms)
        one = self.neighbours.neighbourhood(atoms)
        return collate([one], self.potential.cutoff, self.potential.dtype, self.potential.device)


def results_of(prediction: StructurePrediction) -> dict[str, Any]:
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


def _frozen(potential: Potential) -> Potential:
    """A copy whose parameters need no gradient, which saves memory at every step."""
    frozen = copy.copy(potential)
    frozen.members = [copy.deepcopy(member).requires_grad_(False).eval() for member in potential.members]
    return frozen
