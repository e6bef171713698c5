"""Cheap signs that a structure has stopped being physical."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

BOND_FACTOR = 1.6
"""Atoms nearer than this share of the sum of their covalent radii belong to one fragment."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def pairs_within(atoms: Atoms, cutoff: float) -> Pairs:
    """Indices and distances (Å) of all pairs up to ``cutoff``, periodic images included.

    Not the potential's neighbour search, which loads torch: that would double the time a walker
    with a teacher takes to start. A pair is listed once or twice.
    """
    if atoms.pbc.any():
        from ase.neighborlist import neighbor_list

        first, second, distance = neighbor_list("ijd", atoms, cutoff)
        return first, second, distance
    from scipy.spatial import cKDTree

    found = cKDTree(atoms.positions).query_pairs(cutoff, output_type="ndarray")
    first, second = found[:, 0], found[:, 1]
    return first, second, np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1)


def shortest_distance(atoms: Atoms) -> float:
    """Smallest distance of two atoms (periodic images included) over the sum of their covalent radii.

    Infinite when no two atoms are closer than the largest such sum.
    """
    radii = covalent_radii[atoms.numbers]
    first, second, distance = pairs_within(atoms, 2 * float(radii.max()))
    if not len(distance):
        return float("inf")
    return float((distance / (radii[first] + radii[second])).min())


def count_fragments(atoms: Atoms) -> int:
    """Number of groups of atoms with no bond between them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    radii = covalent_radii[atoms.numbers]
    first, second, distance = pairs_within(atoms, 2 * BOND_FACTOR * float(radii.max()))
    bonded = distance < BOND_FACTOR * (radii[first] + radii[second])
    links = (np.ones(int(bonded.sum())), (first[bonded], second[bonded]))
    matrix = coo_array(links, shape=(len(atoms), len(atoms)))
    return int(connected_components(matrix, directed=False)[0])
