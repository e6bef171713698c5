"""The canonical form of a structure: what a label is computed for, whoever asks in whatever orientation.

What the laws of physics do not tell apart has one label: a molecule moved, turned, or with equal atoms in
another order; a crystal moved, turned together with its cell, with atoms in other cells or in another order.
Other vectors for the same lattice are *not* taken together: meshes of k-points and grids follow the cell, so
the calculation would be another one. Nor are mirror images.

A symmetric molecule has no distinguished axes; it is moved and sorted but not turned. The worst that can
happen is that two orientations of it are paid for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.structures.identity import structure_hash

Array = NDArray[np.float64]

STEP = 1e-6
"""Positions closer than this are the same place when atoms are ordered, Å."""

DIGITS = 9
"""Decimals of canonical positions and cells, Å: what is left of the orientation asked in is rounded away."""

DISTINCT = 1e-3
"""Relative difference from which on two principal moments, or a third moment and zero, are told apart."""

KEPT = ("charge", "spin", "config_type")
"""Information that belongs to the calculation."""


class Placing(NamedTuple):
    """How a canonical structure lies in the one that was asked for."""

    order: NDArray[np.int64]
    """Canonical atom k is atom ``order[k]`` of the one asked for."""
    rotation: Array
    """Canonical positions are those asked for, moved, times this ``(3, 3)`` (row vectors)."""

    def forces_as_asked(self, forces: Array) -> Array:
        """Forces on the canonical atoms in the frame and order asked for ``(N, 3)``."""
        placed = np.empty_like(forces)
        placed[self.order] = forces @ self.rotation.T
        return placed

    def stress_as_asked(self, stress: Array) -> Array:
        """A stress in the frame asked for ``(3, 3)``."""
        return self.rotation @ stress @ self.rotation.T

    def forces_of_canonical(self, forces: Array) -> Array:
        """The opposite of :meth:`forces_as_asked`."""
        return forces[self.order] @ self.rotation

    def stress_of_canonical(self, stress: Array) -> Array:
        """The opposite of :meth:`stress_as_asked`."""
        return self.rotation.T @ stress @ self.rotation


def canonical(atoms: Atoms) -> tuple[Atoms, Placing]:
    """The canonical form of a structure and how it lies in it.

    Structures periodic in one or two directions are left as they are, and so is what makes no sense.
    """
    parts = (atoms.numbers.astype(np.int64), atoms.positions, atoms.cell.array, atoms.pbc)
    numbers, positions, cell, placing = _form(*(part.tobytes() for part in parts))
    form = Atoms(numbers=numbers, positions=positions, cell=cell, pbc=atoms.pbc)
    form.info.update({name: atoms.info[name] for name in KEPT if name in atoms.info})
    return form, placing


def canonical_hash(atoms: Atoms) -> str:
    """SHA-256 of the canonical form."""
    return structure_hash(canonical(atoms)[0])


@lru_cache(maxsize=4096)
def _form(
    numbers: bytes, positions: bytes, cell: bytes, pbc: bytes
) -> tuple[NDArray[np.int64], Array, Array, Placing]:
    """The canonical form by content: a batch asks for the same structures again and again."""
    atoms = Atoms(
        numbers=np.frombuffer(numbers, dtype=np.int64),
        positions=np.frombuffer(positions).reshape(-1, 3),
        cell=np.frombuffer(cell).reshape(3, 3),
        pbc=np.frombuffer(pbc, dtype=bool),
    )
    finite = np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()
    if len(atoms) and finite and all(atoms.pbc) and abs(np.linalg.det(atoms.cell.array)) > 1e-9:
        return _crystal(atoms)
    if len(atoms) and finite and not any(atoms.pbc):
        kinds, places, placing = _molecule(atoms)
        return kinds, places, np.zeros((3, 3)), placing
    return atoms.numbers, atoms.positions, atoms.cell.array, Placing(np.arange(len(atoms)), np.eye(3))


def _molecule(atoms: Atoms) -> tuple[NDArray[np.int64], Array, Placing]:
    weights = atoms.numbers.astype(float)
    centred = atoms.positions - np.average(atoms.positions, axis=0, weights=np.maximum(weights, 1.0))
    rotation = _principal_axes(centred, weights)
    turned = np.round(centred @ rotation, DIGITS) + 0.0
    order = _sorted(atoms.numbers, turned)
    return atoms.numbers[order], turned[order], Placing(order, rotation)


def _principal_axes(centred: Array, weights: Array) -> Array:
    """Axes by the second moments, their directions by the third; no rotation where these do not tell."""
    moments = np.einsum("i,ia,ib->ab", weights, centred, centred)
    values, axes = np.linalg.eigh(moments)
    if np.diff(values).min() <= DISTINCT * max(values.sum(), STEP):
        return np.eye(3)
    along = centred @ axes
    third = weights @ along**3
    size = weights @ np.abs(along) ** 3
    told = np.abs(third) > DISTINCT * np.maximum(size, STEP)
    if told.sum() < 2:
        return np.eye(3)
    axes = axes * np.where(told, np.sign(third), 1.0)
    if np.linalg.det(axes) < 0:
        # the axis whose direction is told least is turned, so that the frame is right-handed
        axes[:, np.argmin(np.abs(third) / np.maximum(size, STEP))] *= -1
    return axes


def _crystal(atoms: Atoms) -> tuple[NDArray[np.int64], Array, Array, Placing]:
    rotation, cell = _upright(atoms.cell.array)
    fractional = atoms.positions @ np.linalg.inv(atoms.cell.array)
    lengths = np.linalg.norm(cell, axis=1)
    kinds, counts = np.unique(atoms.numbers, return_counts=True)
    rarest = kinds[np.argmin(counts)]
    best: tuple[bytes, Array, NDArray[np.int64]] | None = None
    for origin in np.flatnonzero(atoms.numbers == rarest):
        shifted = (fractional - fractional[origin]) % 1.0
        shifted[(1.0 - shifted) * lengths < STEP] -= 1.0  # a rounding error below the wall of the cell
        places = np.round(shifted @ cell, DIGITS) + 0.0
        order = _sorted(atoms.numbers, places)
        name = np.rint(places[order] / STEP).astype(">i8").tobytes()
        if best is None or name < best[0]:
            best = name, places[order], order
    assert best is not None
    return atoms.numbers[best[2]], best[1], cell, Placing(best[2], rotation)


def _upright(cell: Array) -> tuple[Array, Array]:
    """The rotation that makes a cell lower triangular with a positive diagonal, and that cell."""
    rotation, upper = np.linalg.qr(cell.T)
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    rotation, upright = rotation * signs, (upper.T * signs)
    if np.allclose(rotation, np.eye(3), rtol=0, atol=1e-12):
        rotation, upright = np.eye(3), cell
    return rotation, np.round(upright, DIGITS) + 0.0


def _sorted(numbers: NDArray[np.int64], positions: Array) -> NDArray[np.int64]:
    """Order of atoms by element, then by place."""
    rounded = np.rint(positions / STEP)
    return np.lexsort((rounded[:, 2], rounded[:, 1], rounded[:, 0], numbers))


__all__ = ["Placing", "canonical", "canonical_hash"]
