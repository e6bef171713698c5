"""Relaxation of atoms, and of the cell with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from gace.errors import InputError, nearest

Optimiser = Literal["fire", "bfgs", "lbfgs"]


class RelaxOutcome(NamedTuple):
    """How a relaxation ended; not to converge is a value, not an error."""

    converged: bool
    """Whether the largest force fell below the bound."""

    steps: int
    """Steps done."""

    energy: float
    """eV."""

    fmax: float
    """Largest force on an atom, eV/Å."""

    stress_max: float | None
    """Largest stress component, eV/Å³; None where there is no stress."""

    atoms: Atoms
    """The relaxed structure, with its calculator."""


def relaxation(
    atoms: Atoms,
    calculator: Calculator,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    optimiser: Optimiser = "lbfgs",
    observe: Callable[[int, float, float], None] | None = None,
) -> RelaxOutcome:
    """Relax a copy of ``atoms``.

    Args:
        atoms: start.
        calculator: gives energy and forces, and stress where ``cell`` is asked for.
        fmax: eV/Å, bound on the force on any atom (and on the cell's generalised force).
        steps: at most this many.
        cell: whether the cell relaxes as well (through its deformation gradient).
        optimiser: ``fire``, ``bfgs`` or ``lbfgs``.
        observe: called with step, energy (eV) and largest force (eV/Å).

    Raises:
        InputError: a value out of its range, or ``cell`` for a structure not periodic in 3-D.
    """
    if not fmax > 0:
        raise InputError(f"fmax must be positive, got {fmax}")
    if steps < 0:
        raise InputError(f"steps must be at least 0, got {steps}")
    if cell and not atoms.pbc.all():
        raise InputError("only the cell of a structure periodic in three directions can be relaxed")
    relaxed = atoms.copy()
    relaxed.calc = calculator
    target, done, converged = _target(relaxed, cell), 0, False
    engine = _optimiser(optimiser)(target, logfile=None)
    for converged in engine.irun(fmax=fmax, steps=steps):
        done = engine.nsteps
        if observe is not None:
            observe(done, float(relaxed.get_potential_energy()), _largest(target))
        if not np.isfinite(relaxed.get_potential_energy()):
            converged = False
            break
    stress = relaxed.get_stress() if relaxed.pbc.all() else None
    return RelaxOutcome(
        bool(converged),
        done,
        float(relaxed.get_potential_energy()),
        _largest(relaxed),
        None if stress is None else float(np.abs(stress).max()),
        relaxed,
    )


def _target(atoms: Atoms, cell: bool) -> Any:
    """What the optimiser moves: the atoms, or atoms and cell."""
    if not cell:
        return atoms
    from ase.filters import FrechetCellFilter

    return FrechetCellFilter(atoms)


def _optimiser(name: str) -> Any:
    """ASE's optimiser by name."""
    from ase.optimize import BFGS, FIRE, LBFGS

    known = {"fire": FIRE, "bfgs": BFGS, "lbfgs": LBFGS}
    if name not in known:
        raise InputError(f"no optimiser called '{name}'{nearest(name, known)}")
    return known[name]


def _largest(target: Any) -> float:
    """Largest norm of a row of forces, eV/Å."""
    return float(np.linalg.norm(target.get_forces(), axis=1).max())
