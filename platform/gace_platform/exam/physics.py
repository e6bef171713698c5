"""Checks of a potential that need no labels: rotation, energy conservation, sanity under strain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms, units

from gace.errors import GaceError
from gace.randomness import generator
from gace_platform.report.record import Condition

if TYPE_CHECKING:
    from gace.potential.potential import Potential
    from gace_platform.exam.config import Criteria


def rotation_check(potential: Potential, atoms: Atoms, criteria: Criteria) -> Condition:
    """Energy and forces must follow a random rotation with inversion."""
    rotation, _ = np.linalg.qr(generator(criteria.seed, "exam rotation").standard_normal((3, 3)))
    turn = -rotation * np.sign(np.linalg.det(rotation))
    turned = bare(atoms)
    turned.set_cell(atoms.cell.array @ turn.T)
    turned.set_positions(atoms.positions @ turn.T)
    before, after = potential.predict([bare(atoms), turned])
    energy = abs(after.energy - before.energy) / len(atoms)
    force = float(np.abs(after.forces - before.forces @ turn.T).max())
    error = max(energy, force)
    met = bool(np.isfinite(error) and error <= criteria.max_rotation_error)
    return Condition(
        name="rotation",
        met=met,
        value=error if np.isfinite(error) else None,
        threshold=criteria.max_rotation_error,
        unit="eV/atom, eV/Å",
        detail=f"a rotation with inversion changes energy or forces by {error:.1e}",
    )


def strain_check(potential: Potential, atoms: Atoms, criteria: Criteria) -> Condition:
    """Energy and forces must stay finite and bounded when all lengths change by some per cent."""
    stretched = []
    for strain in criteria.strains:
        one = bare(atoms)
        one.set_cell(atoms.cell.array * (1 + strain))
        one.set_positions(atoms.positions * (1 + strain))
        stretched.append(one)
    predictions = potential.predict(stretched)
    finite = all(np.isfinite(one.energy) and np.isfinite(one.forces).all() for one in predictions)
    largest = max((float(np.abs(one.forces).max()) for one in predictions), default=0.0)
    shown = ", ".join(f"{100 * strain:+g} %" for strain in criteria.strains)
    found = f"largest force {largest:.3g} eV/Å" if finite else "energy or forces are not finite"
    return Condition(
        name="strained structures",
        met=finite and largest <= criteria.max_force,
        value=largest if finite else None,
        threshold=criteria.max_force,
        unit="eV/Å",
        detail=f"lengths changed by {shown}: {found}",
    )


def drift_check(potential: Potential, atoms: Atoms, criteria: Criteria) -> Condition:
    """The total energy of a short NVE run must not wander.

    Drift is the change of the mean total energy between the first and the last quarter of the run:
    the fluctuations of the integrator cancel in the means, a force that is no gradient does not.
    """
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
    from ase.md.verlet import VelocityVerlet

    moving = bare(atoms)
    moving.calc = potential.calculator(uncertainty=False)
    rng = generator(criteria.seed, "exam velocities")
    MaxwellBoltzmannDistribution(moving, temperature_K=criteria.temperature, rng=rng)
    if len(moving) > 1:  # a single atom has no other velocity than that of its centre of mass
        Stationary(moving)
    run = VelocityVerlet(moving, timestep=criteria.timestep_fs * units.fs)
    totals = [moving.get_total_energy()]
    drift, why = float("nan"), ""
    try:
        for _ in range(criteria.drift_steps):
            run.run(1)
            totals.append(moving.get_total_energy())
            if not np.isfinite(totals[-1]):
                break
    except (GaceError, FloatingPointError) as error:
        why = f": {error}"
    if len(totals) > criteria.drift_steps:
        quarter = max(1, len(totals) // 4)
        drift = 1000 * abs(float(np.mean(totals[-quarter:]) - np.mean(totals[:quarter]))) / len(atoms)
    finite = bool(np.isfinite(drift))
    length = f"{criteria.drift_steps * criteria.timestep_fs:g} fs at {criteria.temperature:g} K"
    what = f"drift {drift:.3g} meV/atom" if finite else f"the run broke at step {len(totals) - 1}{why}"
    return Condition(
        name="NVE drift",
        met=finite and drift <= criteria.max_drift,
        value=drift if finite else None,
        threshold=criteria.max_drift,
        unit="meV/atom",
        detail=f"NVE over {length}: {what}",
    )


def bare(atoms: Atoms) -> Atoms:
    """A copy with positions, cell and periodicity only."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc)


__all__ = ["bare", "drift_check", "rotation_check", "strain_check"]
