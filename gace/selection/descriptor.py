"""A descriptor of structures that needs no potential: smoothed histograms of distances.

Each atom gets, for every element b, a smooth histogram of how many atoms b lie at each distance.
A structure is described by the mean, the least and the greatest value of each bin over its atoms of
each element a: the mean alone would be the same for all snapshots of a large thermal cell, the
extremes tell them apart. Nothing changes when the structure is moved, turned, mirrored or its atoms
are renumbered, nor when a crystal is described by a larger cell. Mirror images are not told apart,
and angles are seen only through the third side of a triangle: enough to find copies and
to spread the first batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.structures.neighbours import find_edges, species_indices

Array = NDArray[np.float64]

CUTOFF = 6.0
"""Å."""

N_BINS = 16
SHORTEST = 0.7
"""Centre of the first bin, Å."""


def distance_histogram(
    structures: Sequence[Atoms], elements: Sequence[str], cutoff: float = CUTOFF, n_bins: int = N_BINS
) -> Array:
    """Descriptors ``(n, 3 · E² · n_bins)`` for the ``E`` elements: mean, least, greatest.

    An atom at distance r (Å) adds Gaussians of the bins' spacing, weighted by f(r)/r with f going
    smoothly to 0 at the cutoff: bonds count more than what is far away.

    Args:
        structures: molecules or periodic cells.
        elements: all that occur; their order is the order of the blocks.
        cutoff: Å.
        n_bins: per pair of elements.

    Raises:
        InputError: an element that is not listed, or an impossible cell.
    """
    n_elements = len(elements)
    found = np.zeros((len(structures), 3, n_elements, n_elements * n_bins))
    for row, atoms in enumerate(structures):
        species = species_indices(atoms, elements)
        per_atom = atomic_histograms(atoms, species, n_elements, cutoff, n_bins)
        for element in np.unique(species):
            own = per_atom[species == element]
            found[row, :, element] = own.mean(0), own.min(0), own.max(0)
    return found.reshape(len(structures), -1)


def atomic_histograms(
    atoms: Atoms, species: NDArray[np.int64], n_elements: int, cutoff: float, n_bins: int
) -> Array:
    """Smooth histogram of the distances of each atom's neighbours, by element ``(N, E · n_bins)``."""
    centres, width = np.linspace(SHORTEST, cutoff, n_bins, retstep=True)
    edges = find_edges(atoms, cutoff)
    r = np.maximum(np.linalg.norm(edges.vector, axis=1), 0.1)
    weight = 0.5 * (1 + np.cos(np.pi * np.minimum(r / cutoff, 1.0))) / r
    smooth = weight[:, None] * np.exp(-0.5 * np.square((r[:, None] - centres) / width))  # (E, bins)
    histograms = np.zeros((len(atoms) * n_elements, n_bins))
    np.add.at(histograms, edges.centre * n_elements + species[edges.neighbour], smooth)
    return histograms.reshape(len(atoms), -1)
