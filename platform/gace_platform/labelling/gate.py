"""The quality gate: a finished calculation becomes a label only if it makes physical sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace_platform.labelling.config import QualityGate
from gace_platform.labelling.spot import contradiction


def objection(
    atoms: Atoms,
    energy: float,
    forces: NDArray[np.float64],
    stress: NDArray[np.float64] | None,
    limits: QualityGate,
    isolated: Mapping[str, float] | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> str | None:
    """Why a label may not be trusted, or None.

    Args:
        atoms: the structure.
        energy: eV.
        forces: eV/Å ``(N, 3)``.
        stress: eV/Å³ ``(3, 3)``, or None.
        limits: the gate's limits.
        isolated: energies of isolated atoms by element, eV; None skips the check of the binding energy.
        evidence: what the program says about its convergence and settings (see :func:`disproof`).
    """
    if evidence is not None and (disproved := disproof(evidence)):
        return disproved
    if not np.isfinite(energy) or not np.isfinite(forces).all():
        return "energy or forces are not finite"
    if stress is not None and not np.isfinite(stress).all():
        return "the stress is not finite"
    if forces.shape != (len(atoms), 3):
        return f"forces have the shape {forces.shape}, not ({len(atoms)}, 3)"
    largest = float(np.linalg.norm(forces, axis=1).max())
    if largest > limits.max_force:
        return f"a force of {largest:.1f} eV/Å exceeds max_force {limits.max_force:g}"
    net = float(np.abs(forces.sum(axis=0)).max())
    if net > limits.max_net_force:
        return f"a net force of {net:.3f} eV/Å exceeds max_net_force {limits.max_net_force:g}: finer grid?"
    if not atoms.pbc.any() and len(atoms) > 1 and (turn := torque(atoms, forces)) > limits.max_net_torque:
        return (
            f"a net torque of {turn:.3f} eV/Å exceeds max_net_torque {limits.max_net_torque:g}: finer grid?"
        )
    if stress is not None and float(np.abs(stress).max()) > limits.max_stress:
        return f"a stress of {float(np.abs(stress).max()):.3f} eV/Å³ exceeds max_stress {limits.max_stress:g}"
    symbols = atoms.get_chemical_symbols()
    if isolated is not None and len(atoms) > 1 and set(symbols) <= set(isolated):
        binding = (energy - sum(isolated[symbol] for symbol in symbols)) / len(atoms)
        if abs(binding) > limits.max_binding_energy:
            return f"a binding energy of {binding:.1f} eV/atom exceeds {limits.max_binding_energy:g}"
    return None


def torque(atoms: Atoms, forces: NDArray[np.float64]) -> float:
    """Largest component of the torque over the radius of gyration, eV/Å: zero for an isolated molecule.

    A molecule may be turned at no cost, so the exact forces exert none; in a periodic cell they do. The net
    force, which has a limit of its own, is taken out first.
    """
    arms = atoms.positions - atoms.positions.mean(axis=0)
    radius = max(float(np.sqrt(np.mean(np.sum(np.square(arms), axis=1)))), 1e-3)
    return float(np.abs(np.cross(arms, forces - forces.mean(axis=0)).sum(axis=0)).max()) / radius


def disproof(evidence: Mapping[str, Any]) -> str | None:
    """What in a program's own account contradicts what it was asked, or None.

    Args:
        evidence: ``converged`` (bool), ``accuracy`` and ``threshold`` (eV, of the self-consistent energy),
            ``asked`` and ``stated``: settings by name as asked for and as the output has them; ``spot_check``
            (see :mod:`gace_platform.labelling.spot`) with the number of ``atoms``. All optional.
    """
    if evidence.get("converged") is False:
        return "unconverged: the program says that its self-consistent field did not converge"
    accuracy, threshold = evidence.get("accuracy"), evidence.get("threshold")
    if accuracy is not None and threshold is not None and accuracy > threshold * (1 + 1e-6):
        return f"unconverged: an accuracy of {accuracy:.1e} eV is above the threshold {threshold:.1e} eV"
    stated = evidence.get("stated") or {}
    for name, asked in (evidence.get("asked") or {}).items():
        found = stated.get(name)
        same = (
            abs(found - asked) <= 1e-4 * abs(asked)
            if isinstance(asked, int | float) and isinstance(found, int | float)
            else found == asked
        )
        if not same:
            return f"other settings: {name} is {found} in the output, {asked} was asked for"
    if (found := evidence.get("spot_check")) is not None:
        return contradiction(found, int(evidence["atoms"]))
    return None
