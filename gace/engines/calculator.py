"""The potential as a calculator of ASE."""

from __future__ import annotations

import copy

from ase import Atoms

from gace.engines.device_list import DeviceList
from gace.engines.predicting import PredictingCalculator
from gace.engines.verlet import VerletList
from gace.potential.devices import differentiating
from gace.potential.potential import Potential, StructurePrediction
from gace.structures.graph import Graph
from gace.structures.neighbours import collate


class PotentialCalculator(PredictingCalculator):
    """A potential as a calculator; what it offers: :class:`gace.engines.predicting.PredictingCalculator`."""

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
        super().__init__(
            uncertainty=uncertainty,
            has_error_bars=potential.has_error_bars,
            has_novelty=potential.has_novelty,
        )
        self.potential = _frozen(potential).evaluated_by(path)
        frame = potential.elements, potential.cutoff, skin
        self.neighbours: VerletList | DeviceList = (
            VerletList(*frame)
            if potential.device.type == "cpu"
            else DeviceList(*frame, device=potential.device, dtype=potential.dtype)
        )

    def predicted(self, atoms: Atoms) -> StructurePrediction:
        """What the potential says of a structure."""
        potential, graph = self.potential, self.graph(atoms)
        (prediction,) = potential.split(graph, potential.evaluate_graph(graph, self.uncertainty))
        return prediction

    def graph(self, atoms: Atoms) -> Graph:
        """Atoms and bonds in the potential's terms, on its device; neighbours are reused where they hold.

        Raises:
            InputError: an element the potential does not know, or an impossible cell.
        """
        if isinstance(self.neighbours, DeviceList):
            return self.neighbours.graph(atoms)
        one = self.neighbours.neighbourhood(atoms)
        return collate([one], self.potential.cutoff, self.potential.dtype, self.potential.device)


def _frozen(potential: Potential) -> Potential:
    """A copy whose parameters need no gradient, which saves memory at every step."""
    frozen = copy.copy(potential)
    frozen.members = [copy.deepcopy(member).requires_grad_(False).eval() for member in potential.members]
    return frozen
