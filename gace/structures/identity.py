"""What makes two structures, or two data sets, the same: hashes of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from gace.structures.io import labels_of

POSITION_STEP = 1e-6
"""Positions and cells are compared after rounding to this step, Å."""

ENERGY_STEP = 1e-6
"""Energies are compared after rounding to this step, eV."""

FORCE_STEP = 1e-5
"""Forces (and stresses, eV/Å³) are compared after rounding to this step, eV/Å."""


def structure_hash(atoms: Atoms) -> str:
    """SHA-256 of a structure: species, positions, cell, periodicity, charge and spin.

    Positions and cell are rounded to :data:`POSITION_STEP`. The order of the atoms counts;
    labels, velocities and other information do not. The cell counts only in its periodic
    directions, because nothing physical depends on a box around a molecule.
    """
    cell = np.where(np.asarray(atoms.pbc)[:, None], atoms.cell.array, 0.0)
    head = {
        "numbers": [int(number) for number in atoms.numbers],
        "pbc": [bool(periodic) for periodic in atoms.pbc],
        "charge": round(float(atoms.info.get("charge", 0)), 6),
        "spin": round(float(atoms.info.get("spin", 0)), 6),
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(_rounded(atoms.positions, POSITION_STEP))
    digest.update(_rounded(cell, POSITION_STEP))
    return digest.hexdigest()


def labelled_hash(atoms: Atoms) -> str:
    """SHA-256 of a structure (its label key where it has one) and its rounded labels."""
    labels = labels_of(atoms)
    identity = str(atoms.info.get("label_key") or structure_hash(atoms))
    digest = hashlib.sha256(identity.encode())
    for name, value, step in (
        ("energy", labels.energy, ENERGY_STEP),
        ("forces", labels.forces, FORCE_STEP),
        ("stress", labels.stress, FORCE_STEP),
    ):
        digest.update(name.encode())
        digest.update(b"absent" if value is None else _rounded(np.asarray(value), step))
    return digest.hexdigest()


def dataset_hash(structures: Sequence[Atoms]) -> str:
    """SHA-256 of a labelled data set, independent of the order of its structures."""
    digest = hashlib.sha256()
    for one in sorted(labelled_hash(atoms) for atoms in structures):
        digest.update(one.encode())
    return digest.hexdigest()


def _rounded(values: np.ndarray, step: float) -> bytes:
    """Values as whole multiples of ``step``; integers, so that -0.0 and 0.0 agree.

    What is no number or beyond them is the least of all integers, which casting makes of it on some
    processors only.
    """
    steps = np.rint(np.asarray(values, dtype=float) / step)
    return np.where(np.abs(steps) < 2.0**63, steps, -(2.0**63)).astype("<i8").tobytes()
