"""A labelled data set as a few tensors on the device, from which batches are cut without loops."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from gace.errors import InputError
from gace.randomness import generator
from gace.structures.graph import Graph
from gace.structures.io import Labels
from gace.structures.neighbours import Neighbourhood, collate, neighbourhood
from gace.training.dataset import describe, weights_of

COINCIDING = 1e-3
"""Å; atoms that are closer are one atom twice: no direction leads from one to the other."""


class Batch(NamedTuple):
    """Some structures with their labels; a missing label is NaN."""

    graph: Graph
    n_atoms: Tensor
    """Atoms of each structure, in the data set's floating-point type ``(B,)``."""
    energy: Tensor
    """Energy less that of the isolated atoms, eV ``(B,)``."""
    forces: Tensor
    """eV/Å ``(N, 3)``."""
    virial: Tensor
    """Stress times volume, eV ``(B, 3, 3)``."""
    weight: Tensor
    """Weight of the structure's energy, forces and stress in the loss ``(B, 3)``."""


class Packed:
    """Structures searched for neighbours once, concatenated, and cut into batches by indexing.

    Attributes:
        names: description of each structure, for messages.
        has_energy: whether any structure has an energy label; likewise ``has_forces``, ``has_stress``.
        complete: whether every structure has its energy and all its forces, and all weights are one.
        uniform: whether all structures have equally many atoms and neighbour slots.
        mean_neighbours: mean number of neighbours of an atom within the cutoff.
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
    ) -> None:
        found = [searched(one, index, elements, cutoff) for index, one in enumerate(structures)]
        reference = np.array([isolated_atoms[element] for element in elements])
        # totals have more digits than float32 holds: the difference is taken in double precision
        energy = np.array(
            [
                np.nan if label.energy is None else label.energy - reference[one.species].sum()
                for one, label in zip(found, labels, strict=True)
            ]
        )
        forces = np.concatenate(
            [
                np.full((len(one.species), 3), np.nan) if label.forces is None else label.forces
                for one, label in zip(found, labels, strict=True)
            ]
        )
        virial = np.array(
            [
                np.full((3, 3), np.nan) if label.stress is None else label.stress * one.volume
                for one, label in zip(found, labels, strict=True)
            ]
        )
        self.names = [describe(one, index) for index, one in enumerate(structures)]
        weight = np.array([weights_of(one) for one in structures])
        self.complete = bool(np.isfinite(energy).all() and np.isfinite(forces).all() and (weight == 1).all())
        self.has_energy = bool(np.isfinite(energy).any())
        self.has_forces = bool(np.isfinite(forces).any())
        self.has_stress = bool(np.isfinite(virial).any())
        self.device, self.dtype = device, dtype
        self.sizes = torch.tensor([len(one.species) for one in found])
        self._first = torch.cumsum(self.sizes, 0) - self.sizes
        self.slots = torch.tensor([one.neighbour.shape[1] for one in found])
        self.uniform = bool((self.sizes == self.sizes[0]).all() and (self.slots == self.slots[0]).all())
        graph = collate(found, cutoff)
        inside = graph.edge_vector.norm(dim=-1) <= cutoff
        self.mean_neighbours = float(inside.sum()) / graph.n_atoms
        # counted from the structure's first atom, so that a batch only adds its own offsets
        self._neighbour = (graph.neighbour - self._first[graph.structure][:, None]).to(device)
        self._graph = graph.to(device, dtype)
        self._energy, self._forces, self._virial, self._weight = (
            torch.from_numpy(one).to(device, dtype) for one in (energy, forces, virial, weight)
        )

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Tensor) -> Batch:
        """The structures with these indices ``(B,)`` (int64, on the CPU), in this order."""
        sizes, device = self.sizes[indices], self.device
        first = torch.cumsum(sizes, 0) - sizes
        structure = torch.repeat_interleave(torch.arange(len(indices)), sizes)
        atoms = torch.arange(len(structure)) + (self._first[indices] - first)[structure]
        slots = int(self.slots[indices].max())
        offset = first[structure].to(device)
        structure, atoms, indices = structure.to(device), atoms.to(device), indices.to(device)
        graph = Graph(
            self._graph.species[atoms],
            self._neighbour[atoms, :slots] + offset[:, None],
            self._graph.edge_vector[atoms, :slots],
            structure,
            self._graph.volume[indices],
        )
        n_atoms = sizes.to(device, self.dtype)
        return Batch(
            graph,
            n_atoms,
            self._energy[indices],
            self._forces[atoms],
            self._virial[indices],
            self._weight[indices],
        )

    def labels(self, indices: Tensor) -> Tensor:
        """Labels that these structures ``(B,)`` have: energies, components of forces, of virials ``(3,)``."""
        batch = self.batch(indices)
        known = [(~torch.isnan(one)).sum() for one in (batch.energy, batch.forces, batch.virial)]
        return torch.stack(known).cpu().double()

    def in_order(self, max_atoms: int) -> Iterator[tuple[Tensor, Batch]]:
        """Indices and batches of at most ``max_atoms`` atoms (one structure at least), in order."""
        start, total = 0, 0
        sizes = self.sizes.tolist()
        for index, size in enumerate(sizes):
            if index > start and total + size > max_atoms:
                yield (chosen := torch.arange(start, index)), self.batch(chosen)
                start, total = index, 0
            total += size
        yield (chosen := torch.arange(start, len(sizes))), self.batch(chosen)


def searched(atoms: Atoms, index: int, elements: Sequence[str], cutoff: float) -> Neighbourhood:
    """The graph of a structure to be learnt from.

    Raises:
        InputError: it has none, or two of its atoms coincide; the message names it.
    """
    try:
        found = neighbourhood(atoms, elements, cutoff)
    except InputError as error:
        raise InputError(f"{describe(atoms, index)}: {error}") from None
    if np.square(found.edge_vector).sum(-1).min() < COINCIDING**2:
        raise InputError(f"{describe(atoms, index)}: two atoms are less than {COINCIDING:g} Å apart")
    return found


def epoch_order(n_structures: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the structures ``(n_structures,)``; no state to be saved."""
    return torch.from_numpy(generator(seed, "epoch", epoch).permutation(n_structures))


def balanced_batches(order: Tensor, sizes: Tensor, n_batches: int) -> list[Tensor]:
    """Indices of ``n_batches`` batches of about equally many atoms.

    In the order given, each structure joins the batch with the fewest atoms so far (the first of several),
    so that batches differ by at most the largest structure and none is empty.

    Args:
        order: the order in which structures are visited ``(n,)``, n ≥ ``n_batches``.
        sizes: number of atoms of each structure of the data set.
        n_batches: how many batches.
    """
    heap = [(0, number) for number in range(n_batches)]
    members: list[list[int]] = [[] for _ in range(n_batches)]
    for index in order.tolist():
        atoms, number = heap[0]
        heapq.heapreplace(heap, (atoms + int(sizes[index]), number))
        members[number].append(index)
    return [torch.tensor(one) for one in members]
