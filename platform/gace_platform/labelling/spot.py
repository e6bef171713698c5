"""Spot checks: are the forces of a label the slope of its energy?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms

from gace.randomness import derive_seed, generator
from gace_platform.labelling.engines.base import Label

STEP = 0.01
"""Displacement of the finite difference, Å: the root mean square over all coordinates."""


def is_due(key: str, one_of: int | None) -> bool:
    """Whether a label is spot-checked: one of ``one_of``, by its key alone; None: none is."""
    return one_of is not None and derive_seed(0, "spot check", key) % one_of == 0


def spot_check(
    atoms: Atoms, key: str, label: Label, energy_of: Callable[[Atoms], float | None]
) -> dict[str, float] | None:
    """Compare the forces along one random direction with a central difference of the energy.

    Args:
        atoms: the structure.
        key: its label key, which decides the direction.
        label: what is checked.
        energy_of: energy of a displaced structure with the same settings, eV; None if it failed.

    Returns:
        ``forces`` (slope the forces say, eV/Å), ``energies`` (slope the energies say), or None if one failed.
    """
    direction = generator(0, "spot check", key).normal(size=(len(atoms), 3))
    direction -= direction.mean(axis=0)
    direction /= np.sqrt(np.mean(np.square(direction)))
    energies = []
    for sign in (1.0, -1.0):
        moved = atoms.copy()
        moved.positions += sign * STEP * direction
        energy = energy_of(moved)
        if energy is None:
            return None
        energies.append(energy)
    return {
        "forces": round(float(-np.sum(label.forces * direction)), 6),
        "energies": round((energies[0] - energies[1]) / (2 * STEP), 6),
    }


def contradiction(found: dict[str, Any], n_atoms: int) -> str | None:
    """Why a spot check failed, or None.

    The tolerance is 20 meV/Å per coordinate moved (summed as independent errors) and 3 % of the slope, which
    leaves room for integration grids and for third derivatives.
    """
    tolerance = 0.02 * np.sqrt(3 * n_atoms) + 0.03 * abs(found["energies"])
    gap = abs(found["forces"] - found["energies"])
    if gap <= tolerance:
        return None
    return (
        f"forces are not the slope of the energy: {found['forces']:.3f} eV/Å along a random direction, "
        f"{found['energies']:.3f} by finite difference"
    )
