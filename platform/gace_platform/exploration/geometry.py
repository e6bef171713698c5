"""Cheap signs that a structure has stopped being physical."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

BOND_FACTOR = 1.6
"""Atoms nearer than this share of the sum of their covalent radii belong to one fragment."""


def shortest_distance(atoms: Atoms) -> float:
    """Smallest distance of two atoms (periodic images included) over the sum of their covalent radii.

    Infinite when no two atoms are closer than the sum itself.
    """
    from gace.structures.neighbours import find_edges

    edges = find_edges(atoms, 2 * float(covalent_radii[atoms.numbers].max()))
    if not len(edges.centre):
        return float("inf")
    radii = covalent_radii[atoms.numbers]
    length = np.linalg.norm(edges.vector, axis=1)
    return float((length / (radii[edges.centre] + radii[edges.neighbour])).min())


def count_fragments(atoms: Atoms) -> int:
    """Number of groups of atoms with no bond between them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    from gace.structures.neighbours import find_edges

    radii = covalent_radii[atoms.numbers]
    edges = find_edges(atoms, 2 * BOND_FACTOR * float(radii.max()))
    length = np.linalg.norm(edges.vector, axis=1)
    bonded = length < BOND_FACTOR * (radii[edges.centre] + radii[edges.neighbour])
    pairs = (edges.centre[bonded], edges.neighbour[bonded])
    matrix = coo_array((np.ones(int(bonded.sum())), pairs), shape=(len(atoms), len(atoms)))
    return int(connected_components(matrix, directed=False)[0])
