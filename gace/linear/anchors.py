"""What a fit is told of structures closer than its data: the word of a pair potential, weakly.

A polynomial of the density around an atom says nothing about densities beyond the data: compressed far
enough, or with atoms thrown together, a crystal may fall into a hole. A pair potential knows every distance
from the shortest in the data on, at whatever density, and can be made to repel below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from gace.linear.config import LeastSquares
from gace.linear.design import design
from gace.linear.model import LinearACE
from gace.linear.pair_potential import PairPotential
from gace.linear.solve import Rows
from gace.randomness import generator
from gace.structures.io import Labels
from gace.structures.neighbours import find_edges
from gace.training.batches import Packed

Array = NDArray[np.float64]

STRUCTURES_OF_PAIRS = 300
"""On how many structures it is fitted."""
LARGEST = 2_000
"""Atoms beyond which a structure is not copied: pressed together, atoms have eight times the neighbours."""
ATOMS = 50_000
"""Atoms of all anchors, and of all structures that the pair potential is fitted to, about."""
CLOSEST = 0.5
"""Least length of the anchors' bonds, relative to the structure they are copies of."""
MILD = 0.8
"""The same where atoms are displaced too."""
DISPLACED = 0.35
"""Largest standard deviation of their displacements, relative to the length of bonds."""
LEAST_TOLERANCE = 0.02
"""A pair potential is never believed better than this, eV per atom."""
DOUBT = 0.5
"""Its error for a change of the energy by one, from a structure of the data to its copy."""
BEYOND = 2**40
"""Numbers of anchors begin beyond those of structures."""


class Anchors(NamedTuple):
    """Structures closer than the data, with energies by a pair potential."""

    data: Packed
    tolerance: Array
    """How far from each energy the fit may be, eV per atom."""

    def rows(self, model: LinearACE, typical: float) -> Rows:
        """Rows of the anchors' energies.

        Args:
            model: gives the basis.
            typical: weighted residual of the data's rows, eV/Å; an anchor's is as large where the fit is off
                by its tolerance.
        """
        matrices, targets = [], []
        for chosen, batch in self.data.in_order(512):
            found = design(model, batch.graph, forces=False)
            weight = typical / (torch.from_numpy(self.tolerance)[chosen] * batch.n_atoms)
            matrices.append((found.energy * weight[:, None]).detach().numpy())
            targets.append(((batch.energy - found.fixed_energy) * weight).detach().numpy())
        block = np.arange(len(self.data)) + BEYOND
        return Rows(np.concatenate(matrices), np.concatenate(targets), block)


def anchors_of(
    model: LinearACE,
    structures: Sequence[Atoms],
    labels: Sequence[Labels],
    isolated_atoms: dict[str, float],
    settings: LeastSquares,
) -> Anchors | None:
    """Compressed and disordered copies of some structures, labelled by a pair potential fitted to the data.

    The energy of a copy is the label of its structure and the pair potential's change. It may be off by what
    the pair potential errs on the data and a share of that change.

    Args:
        model: its elements, cutoff and ``shift``.
        structures: of the data.
        labels: theirs.
        isolated_atoms: energies, eV, by element.
        settings: ``anchors`` of them (fewer where they would have too many atoms), and the weights of the
            pair potential's fit.

    Returns:
        None where there is nothing to compress, or no anchors are asked for.
    """
    several = [
        index
        for index, atoms in enumerate(structures)
        if (len(atoms) > 1 or atoms.pbc.any()) and len(atoms) <= LARGEST
    ]
    if not settings.anchors or not several:
        return None
    bearable = max(1, int(ATOMS / np.mean([len(structures[index]) for index in several])))
    count = min(settings.anchors, bearable)

    def packed(some: Sequence[Atoms], known: Sequence[Labels]) -> Packed:
        return Packed(
            some,
            known,
            elements=model.elements,
            cutoff=model.cutoff,
            isolated_atoms=isolated_atoms,
            dtype=torch.float64,
            device=torch.device("cpu"),
        )

    taught = [several[i] for i in _spread(len(several), min(STRUCTURES_OF_PAIRS, bearable))]
    known = packed([structures[i] for i in taught], [labels[i] for i in taught])
    pairs = PairPotential(model, known, settings)

    distinct = _spread(len(taught), count)
    chosen = [distinct[number % len(distinct)] for number in range(count)]
    copies = [_closer(structures[taught[index]], number, model.cutoff) for number, index in enumerate(chosen)]
    predicted, labelled = pairs.energies(known), _labels(known)
    errors = (labelled - predicted)[np.isfinite(labelled)] / known.sizes.numpy()[np.isfinite(labelled)]
    typical = float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else 0.0
    change = pairs.energies(packed(copies, [Labels(None, None, None)] * len(copies))) - predicted[chosen]
    bonding = np.where(np.isfinite(labelled), labelled, predicted)[chosen] + change
    totals = bonding + [sum(isolated_atoms[element] for element in one.symbols) for one in copies]
    per_atom = np.abs(change) / [len(one) for one in copies]
    return Anchors(
        packed(copies, [Labels(float(one), None, None) for one in totals]),
        max(LEAST_TOLERANCE, typical) + DOUBT * per_atom,
    )


def _spread(total: int, count: int) -> list[int]:
    """Up to ``count`` of ``total`` indices, evenly spread."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))


def _closer(atoms: Atoms, number: int, cutoff: float) -> Atoms:
    """A compressed copy; every second one is compressed less and has its atoms displaced."""
    draw = generator(0, "anchors", number)
    displaced = number % 2 == 1
    factor = draw.uniform(MILD if displaced else CLOSEST, 1.0)
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    middle = np.zeros(3) if copy.pbc.any() else copy.positions.mean(0)
    copy.set_cell(copy.cell * factor)
    copy.positions = middle + (copy.positions - middle) * factor
    if displaced:
        reach = draw.uniform(0.0, DISPLACED) * factor * _bond_length(atoms, cutoff)
        copy.positions += reach * draw.normal(size=copy.positions.shape)
    return copy


def _bond_length(atoms: Atoms, cutoff: float) -> float:
    """Median over atoms of the distance to the nearest other one, Å; the cutoff where there is none."""
    edges = find_edges(atoms, cutoff)
    nearest = np.full(len(atoms), cutoff)
    np.minimum.at(nearest, edges.centre, np.linalg.norm(edges.vector, axis=1))
    return float(np.median(nearest))


def _labels(data: Packed) -> Array:
    """Energies less those of the isolated atoms, eV; NaN where not labelled."""
    return np.asarray(torch.cat([batch.energy for _, batch in data.in_order(512)]))
