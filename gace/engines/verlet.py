"""Neighbour lists that survive small moves."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.errors import InputError
from gace.structures.neighbours import (
    Edges,
    Neighbourhood,
    Pairs,
    complete_cell,
    dense,
    edge_vectors,
    find_edges,
    species_indices,
    volume_of,
)


class VerletList:
    """Candidates within ``cutoff + skin``, kept while no atom has moved more than half the skin.

    Each call recomputes the vectors of the candidates and drops those beyond the cutoff, in the
    same order as a fresh search would list them: the result does not depend on the history.
    A change of cell, periodicity or species starts afresh.
    """

    def __init__(
        self, elements: tuple[str, ...], cutoff: float, skin: float = 0.5, *, pairs: Pairs | None = None
    ) -> None:
        """See the class; ``cutoff`` and ``skin`` in Å, a skin of 0 searches every time.

        ``pairs``: the search, as :func:`gace.structures.neighbours.find_edges` takes it.

        Raises:
            InputError: a skin that is negative or not finite.
        """
        self.elements, self.cutoff, self.skin = elements, cutoff, checked_skin(skin)
        self.searches, self._pairs = 0, pairs
        self._start: Atoms | None = None
        self._species: NDArray[np.int64]
        self._candidates: Edges

    def neighbourhood(self, atoms: Atoms) -> Neighbourhood:
        """The graph of ``atoms``, as :func:`gace.structures.neighbours.neighbourhood` builds it.

        Raises:
            InputError: an unknown element or an impossible cell.
        """
        if not still_valid(self._start, atoms, self.skin):
            # all or nothing: a structure that is refused must leave nothing behind for the one before
            species = species_indices(atoms, self.elements)
            candidates = find_edges(atoms, self.cutoff + self.skin, self._pairs)
            self._species, self._candidates = species, candidates
            self._start = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            self.searches += 1
        centre, neighbour, image, _ = self._candidates
        vector = edge_vectors(atoms.positions, complete_cell(atoms), centre, neighbour, image)
        near = np.einsum("ea,ea->e", vector, vector) < self.cutoff**2
        slots = dense(centre[near], neighbour[near], vector[near], len(atoms), self.cutoff)
        return Neighbourhood(self._species, *slots, volume_of(atoms))


def checked_skin(skin: float) -> float:
    """The skin, Å.

    Raises:
        InputError: it is negative or not finite: lists would lack neighbours.
    """
    if not 0 <= skin < float("inf"):
        raise InputError(f"skin must be a length of 0 Å or more, got {skin}")
    return skin


def still_valid(start: Atoms | None, atoms: Atoms, skin: float) -> bool:
    """Whether candidates found at ``start`` with ``skin`` (Å) hold every neighbour in ``atoms``."""
    if start is None or skin <= 0 or len(start) != len(atoms):
        return False
    same = (
        np.array_equal(start.numbers, atoms.numbers)
        and np.array_equal(start.pbc, atoms.pbc)
        and np.array_equal(start.cell.array, atoms.cell.array)
    )
    if not same:
        return False
    moved = np.square(atoms.positions - start.positions).sum(1).max()
    # not "moved > …": a NaN position must count as moved, and be refused by the search
    return bool(moved <= (0.5 * skin) ** 2)
