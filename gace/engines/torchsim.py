"""The potential as a model of torch-sim: many replicas move in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from gace.engines.verlet import VerletList
from gace.errors import InputError, missing
from gace.potential.potential import BATCH_ATOMS, GraphPrediction, Potential
from gace.structures.neighbours import Neighbourhood, collate

try:
    import torch_sim
    from torch_sim.models.interface import ModelInterface
except ImportError:
    raise missing("torch-sim", "torchsim") from None


class TorchSimModel(ModelInterface):
    """``energy (B,)`` eV, ``forces (N, 3)`` eV/Å, ``stress (B, 3, 3)`` eV/Å³ (tension positive).

    Besides ``energies (N,)``, eV, and with ``uncertainty`` what the potential has of ``energy_std (B,)``,
    ``forces_std (N, 3)`` and ``gamma (N,)``. The stress of systems that are not periodic is NaN.

    Each system keeps a neighbour list as in the ASE calculator, and systems are computed together,
    about :data:`gace.potential.potential.BATCH_ATOMS` atoms at once.
    """

    def __init__(
        self,
        potential: Potential | str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        skin: float = 0.5,
        uncertainty: bool = False,
        path: str = "tabulated",
        batch_atoms: int | None = None,
    ) -> None:
        """Wrap a potential.

        Args:
            potential: a potential, or the folder or ``models:/`` URI of one.
            device: ``cpu``, ``cuda`` or ``auto``; None leaves a given potential where it is.
            dtype: ``float64`` or ``float32``; None leaves a given potential as it is.
            skin: Å by which neighbour lists reach beyond the cutoff, to be reused between steps.
            uncertainty: whether to compute error bars and γ where the potential has them.
            path: ``tabulated``, ``eager``, ``compiled`` or ``auto``; see :meth:`Potential.evaluated_by`.
            batch_atoms: about how many atoms are computed at once; None: as fits the device.

        Raises:
            InputError: an unknown device, dtype or path, an impossible skin, or no such bundle.
        """
        super().__init__()
        if not isinstance(potential, Potential):
            from gace.potential.bundle import load

            potential = load(potential, device=device or "auto", dtype=dtype or "float64")
        self.potential = potential.calculator(device, dtype, skin=skin, path=path).potential
        self._device, self._dtype = self.potential.device, self.potential.dtype
        self._compute_forces = self._compute_stress = True
        self._skin, self._uncertainty = skin, uncertainty
        self._batch_atoms = BATCH_ATOMS[self._device.type] if batch_atoms is None else batch_atoms
        self._lists: list[VerletList] = []

    @property
    def searches(self) -> int:
        """How often neighbours of a system had to be searched anew."""
        return sum(one.searches for one in self._lists)

    def forward(self, state: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Everything at once, whatever systems the state holds; the state is left as it is.

        Args:
            state: a ``torch_sim.SimState``, or a dictionary of its fields.
            kwargs: none is known.

        Raises:
            InputError: an element the potential does not know, an impossible cell, or a keyword.
        """
        if kwargs:
            raise InputError(f"the potential takes nothing but the state, not {', '.join(sorted(kwargs))}")
        if isinstance(state, dict):
            state = torch_sim.SimState(**state)
        potential = self.potential
        parts: list[GraphPrediction] = []
        stress: list[np.ndarray] = []
        for batch in self._batches(self._neighbourhoods(systems(state))):
            graph = collate(batch, potential.cutoff, potential.dtype, potential.device)
            part = potential.evaluate_graph(graph, self._uncertainty)
            parts.append(part)
            # in float64: the graph holds the volumes in the model's precision
            stress.append(part.virial / np.array([one.volume for one in batch])[:, None, None])
        found: dict[str, Sequence[np.ndarray | None]] = {"stress": stress}
        for name in ("energy", "forces", "energies", "energy_std", "forces_std", "gamma"):
            found[name] = [getattr(part, name) for part in parts]
        return {name: self._tensor(values, state) for name, values in found.items() if values[0] is not None}

    def _neighbourhoods(self, structures: Sequence[Atoms]) -> Iterator[Neighbourhood]:
        """The graph of each system; a list that belonged to another system starts afresh by itself."""
        while len(self._lists) < len(structures):
            self._lists.append(VerletList(self.potential.elements, self.potential.cutoff, self._skin))
        for own, atoms in zip(self._lists, structures, strict=False):
            yield own.neighbourhood(atoms)

    def _batches(self, neighbourhoods: Iterator[Neighbourhood]) -> Iterator[list[Neighbourhood]]:
        """Consecutive systems, limited in atoms."""
        batch: list[Neighbourhood] = []
        atoms = 0
        for one in neighbourhoods:
            if batch and atoms + len(one.species) > self._batch_atoms:
                yield batch
                batch, atoms = [], 0
            batch.append(one)
            atoms += len(one.species)
        yield batch

    def _tensor(self, values: Sequence[Any], state: Any) -> Tensor:
        """Batches joined, where and as precise as the positions are."""
        return torch.from_numpy(np.concatenate(values)).to(device=state.device, dtype=state.dtype)


def systems(state: Any) -> list[Atoms]:
    """The systems of a state as ASE structures (species, positions, cell, periodicity)."""
    positions = state.positions.detach().cpu().double().numpy()
    numbers = state.atomic_numbers.cpu().numpy()
    cells = state.cell.detach().cpu().double().numpy().transpose(0, 2, 1)  # there columns, here rows
    ends = np.cumsum(np.bincount(state.system_idx.cpu().numpy(), minlength=len(cells)))
    found = []
    for first, end, cell in zip([0, *ends[:-1]], ends, cells, strict=True):
        found.append(Atoms(numbers[first:end], positions[first:end], cell=cell, pbc=state.pbc))
    return found
