"""ASE's calculator for a file ``*.gace``. Loads no PyTorch: a process starts in tenths of a second."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms

from gace.engines.predicting import Array, PredictingCalculator
from gace.engines.verlet import VerletList
from gace.native.model import NativeModel
from gace.native.pairs import pairs


class NativeStructure(NamedTuple):
    """One structure's prediction; units as :class:`gace.engines.predicting.Prediction`."""

    energy: float
    forces: Array
    stress: Array | None
    energies: Array
    energy_std: float | None
    forces_std: Array | None
    gamma: Array | None


class NativeCalculator(PredictingCalculator):
    """A file as a calculator; what it offers: :class:`gace.engines.predicting.PredictingCalculator`."""

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
        opened = model if isinstance(model, NativeModel) else NativeModel(model, threads=threads)
        super().__init__(
            uncertainty=uncertainty, has_error_bars=opened.has_error_bars, has_novelty=opened.has_novelty
        )
        self.model = opened
        self.neighbours = VerletList(opened.elements, opened.cutoff, skin, pairs=pairs)

    def predicted(self, atoms: Atoms) -> NativeStructure:
        """What the potential says of a structure."""
        one = self.neighbours.neighbourhood(atoms)
        structure = np.zeros(len(atoms), dtype=np.int64)
        found = self.model.evaluate(
            one.species, one.neighbour, one.edge_vector, structure, uncertainty=self.uncertainty
        )
        return NativeStructure(
            float(found.energy[0]),
            found.forces,
            None if np.isnan(one.volume) else found.virial[0] / one.volume,
            found.energies,
            None if found.energy_std is None else float(found.energy_std[0]),
            found.forces_std,
            found.gamma,
        )
