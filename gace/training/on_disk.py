"""A labelled data set whose neighbour lists lie on disk: memory for a batch, not for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from gace.structures.graph import Graph
from gace.structures.io import Labels
from gace.training.batches import Batch, Packed, searched
from gace.training.dataset import describe, weights_of

FLOATS = {torch.float32: np.float32, torch.float64: np.float64}


class OnDisk(Packed):
    """As :class:`gace.training.batches.Packed`, batch for batch the same numbers.

    Neighbours, bond vectors and forces (nearly all of the memory) are written structure by structure into
    files that are mapped, so that the system keeps of them what fits. The files vanish with the object, also
    after a kill: they are unlinked as soon as they are open.

    Args:
        structures: as for ``Packed``.
        labels: likewise.
        elements: likewise.
        cutoff: Å.
        isolated_atoms: eV by element.
        dtype: of the batches.
        device: of the batches.
        folder: an existing folder with room for the files.
    """

    def __init__(
        self,
        structures: Sequence[Atoms],
        labels: Sequence[Labels],
        *,
        elements: Sequence[str],
        cutoff: float,
        isolated_atoms: dict[str, float],
        dtype: torch.dtype,
        device: torch.device,
        folder: Path,
    ) -> None:
        self.device, self.dtype, self.cutoff = device, dtype, cutoff
        self.names = [describe(one, index) for index, one in enumerate(structures)]
        reference = np.array([isolated_atoms[element] for element in elements])
        species, sizes, slots, volume, energy, virial = [], [], [], [], [], []
        inside, forces_known, any_forces = 0, True, False
        with tempfile.TemporaryDirectory(dir=folder, prefix="neighbours-") as name:
            paths = {kind: Path(name) / kind for kind in ("neighbour", "vector", "forces")}
            with (
                paths["neighbour"].open("wb") as neighbour_file,
                paths["vector"].open("wb") as vector_file,
                paths["forces"].open("wb") as force_file,
            ):
                for index, (atoms, label) in enumerate(zip(structures, labels, strict=True)):
                    one = searched(atoms, index, elements, cutoff)
                    one.neighbour.astype(np.int32).tofile(neighbour_file)
                    one.edge_vector.astype(FLOATS[dtype]).tofile(vector_file)
                    forces = np.full((len(atoms), 3), np.nan) if label.forces is None else label.forces
                    forces.astype(FLOATS[dtype]).tofile(force_file)
                    forces_known = forces_known and bool(np.isfinite(forces).all())
                    any_forces = any_forces or bool(np.isfinite(forces).any())
                    inside += int((np.linalg.norm(one.edge_vector, axis=-1) <= cutoff).sum())
                    species.append(one.species.astype(np.int16))
                    sizes.append(len(one.species))
                    slots.append(one.neighbour.shape[1])
                    volume.append(one.volume)
                    known = label.energy is not None
                    energy.append(label.energy - reference[one.species].sum() if known else np.nan)
                    stress = np.full((3, 3), np.nan) if label.stress is None else label.stress
                    virial.append(stress * one.volume)
            self._files: dict[str, Any] = {
                "neighbour": np.memmap(paths["neighbour"], dtype=np.int32, mode="r"),
                "vector": np.memmap(paths["vector"], dtype=FLOATS[dtype], mode="r"),
                "forces": np.memmap(paths["forces"], dtype=FLOATS[dtype], mode="r"),
            }
        weight = np.array([weights_of(one) for one in structures])
        self._species = np.concatenate(species)
        self.sizes, self.slots = torch.tensor(sizes), torch.tensor(slots)
        self._first = torch.cumsum(self.sizes, 0) - self.sizes
        self._bonds = torch.cumsum(self.sizes * self.slots, 0) - self.sizes * self.slots
        self._volume, self._energy, self._virial, self._weight = (
            torch.from_numpy(np.array(one)).to(dtype) for one in (volume, energy, virial, weight)
        )
        self.has_energy = bool(torch.isfinite(self._energy).any())
        self.has_forces = any_forces
        self.has_stress = bool(torch.isfinite(self._virial).any())
        self.complete = (
            bool(torch.isfinite(self._energy).all()) and forces_known and bool((weight == 1).all())
        )
        self.uniform = bool((self.sizes == self.sizes[0]).all() and (self.slots == self.slots[0]).all())
        self.mean_neighbours = inside / len(self._species)

    def batch(self, indices: Tensor) -> Batch:
        """The structures with these indices ``(B,)``, in this order."""
        sizes, slots = self.sizes[indices], self.slots[indices]
        total, widest = int(sizes.sum()), int(slots.max())
        neighbour = np.repeat(np.arange(total)[:, None], widest, axis=1)
        vector = np.zeros((total, widest, 3), dtype=FLOATS[self.dtype])
        vector[..., 0] = 2 * self.cutoff
        forces = np.empty((total, 3), dtype=FLOATS[self.dtype])
        species = np.empty(total, dtype=np.int64)
        start = 0
        for index, size, own in zip(indices.tolist(), sizes.tolist(), slots.tolist(), strict=True):
            first, bond, end = int(self._first[index]), int(self._bonds[index]), start + size
            count = size * own
            rows = self._files["neighbour"][bond : bond + count].reshape(size, own)
            neighbour[start:end, :own] = rows + start
            flat = self._files["vector"][3 * bond : 3 * (bond + count)]
            vector[start:end, :own] = flat.reshape(size, own, 3)
            forces[start:end] = self._files["forces"][3 * first : 3 * (first + size)].reshape(size, 3)
            species[start:end] = self._species[first : first + size]
            start = end
        structure = torch.repeat_interleave(torch.arange(len(indices)), sizes)
        graph = Graph(
            torch.from_numpy(species),
            torch.from_numpy(neighbour),
            torch.from_numpy(vector),
            structure,
            self._volume[indices],
        ).to(self.device)
        rest = (self._energy[indices], torch.from_numpy(forces), self._virial[indices], self._weight[indices])
        energy, force, virial, weight = (one.to(self.device) for one in rest)
        return Batch(graph, sizes.to(self.device, self.dtype), energy, force, virial, weight)
