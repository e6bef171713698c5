"""Which structure each walker starts from, and how it is prepared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from gace.randomness import derive_seed, generator
from gace.structures.identity import structure_hash

KEPT = ("charge", "spin", "config_type", "structure_id")
"""Information that a walker's frames inherit from the start structure."""


def assign(starts: Sequence[Atoms], walkers: int, seed: int) -> list[Atoms]:
    """One start structure per walker; the file's order does not matter, the seed does."""
    ordered = sorted(starts, key=lambda atoms: derive_seed(seed, "start", structure_hash(atoms)))
    return [ordered[number % len(ordered)] for number in range(walkers)]


def prepare(
    start: Atoms,
    walker: int,
    seed: int,
    supercell: Sequence[int] = (1, 1, 1),
    rattle: float = 0.0,
    strain: float = 0.0,
) -> Atoms:
    """A walker's own copy: repeated, strained (both only if periodic), rattled.

    Args:
        start: The structure; labels and velocities are dropped.
        walker: Number of the walker, which with ``seed`` and the structure decides the random draws.
        seed: Of the exploration.
        supercell: Repeats along the three cell vectors; non-periodic directions are not repeated.
        rattle: Standard deviation of each coordinate's displacement, Å.
        strain: Bound of each component of a random symmetric strain; non-periodic directions keep theirs.
    """
    atoms = Atoms(start.numbers, start.positions, cell=start.cell, pbc=start.pbc)
    atoms.info.update({key: start.info[key] for key in KEPT if key in start.info})
    random = generator(seed, "prepare", walker, structure_hash(start))
    periodic = np.asarray(start.pbc)
    if periodic.any():
        info = dict(atoms.info)
        atoms = atoms.repeat([int(n) if on else 1 for n, on in zip(supercell, periodic, strict=True)])
        atoms.info = info
    if strain and periodic.any():
        draw = random.uniform(-strain, strain, (3, 3))
        symmetric = np.triu(draw) + np.triu(draw, 1).T
        if not periodic.all():
            # a strained vacuum means nothing, and would shear the slab
            symmetric = _within(atoms.cell.array[periodic], symmetric)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + symmetric), scale_atoms=True)
    if rattle:
        atoms.positions += rattle * random.standard_normal(atoms.positions.shape)
    # as an extended XYZ file holds them, so that a file read back hashes the same
    atoms.positions = np.round(atoms.positions, 8)
    return atoms


def _within(vectors: np.ndarray, strain: np.ndarray) -> np.ndarray:
    """The part of a strain ``(3, 3)`` in the plane or along the line of the cell vectors ``(1 or 2, 3)``."""
    along = np.abs(vectors).max(0) > 0
    if along.sum() == len(vectors):  # as most slabs lie: the axes themselves, without rounding
        return np.asarray(strain * np.outer(along, along))
    onto = np.linalg.pinv(vectors) @ vectors
    return np.asarray(onto @ strain @ onto)
