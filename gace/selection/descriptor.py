"""A descriptor of structures that needs no potential: smoothed histograms of distances.

For every ordered pair of elements (a, b) it is the mean, over the atoms of element a, of how many
atoms b lie at each distance. It does not change when the structure is moved, turned, mirrored or
its atoms renumbered, nor when a crystal is described by a larger cell. It does not tell mirror
images apart and knows angles only through the third side of the triangle, which is
enough to find copies and to spread the first batch.
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

N_BINS = 24
SHORTEST = 0.6
"""Centre of the first bin, Å."""


def distance_histogram(
    structures: Sequence[Atoms], elements: Sequence[str], cutoff: float = CUTOFF, n_bins: int = N_BINS
) -> Array:
    """Descriptors ``(n, P · n_bins)`` with ``P = E²`` ordered pairs of the ``E`` elements.

    A pair at distance r (Å) adds Gaussians of the bins' spacing, weighted by f(r)/r with f going
    smoothly to 0 at the cutoff: bonds count more than what is far away.

    Args:
        structures: molecules or periodic cells.
        elements: all that occur; their order is the order of the blocks.
        cutoff: Å.
        n_bins: per pair of elements.

    Raises:
        InputError: an element that is not listed, or an impossible cell.
    """
    centres, width = np.linspace(SHORTEST, cutoff, n_bins, retstep=True)
    found = np.zeros((len(structures), len(elements) ** 2, n_bins))
    for row, atoms in enumerate(structures):
        species = species_indices(atoms, elements)
        edges = find_edges(atoms, cutoff)
        r = np.maximum(np.linalg.norm(edges.vector, axis=1), 0.1)
        weight = 0.5 * (1 + np.cos(np.pi * np.minimum(r / cutoff, 1.0))) / r
        smooth = weight[:, None] * np.exp(-0.5 * np.square((r[:, None] - centres) / width))  # (E, bins)
        pair = species[edges.centre] * len(elements) + species[edges.neighbour]
        for present in np.unique(pair):
            found[row, present] = smooth[pair == present].sum(0)
        count = np.maximum(np.bincount(species, minlength=len(elements)), 1)
        found[row] /= np.repeat(count, len(elements))[:, None]
    return found.reshape(len(structures), -1)
