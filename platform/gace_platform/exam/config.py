"""What a potential must show before it may become champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gace.config import Closed


class Criteria(Closed):
    """The conditions of the frozen exam; a bound that is ``None`` is not asked for."""

    max_forces_mae: float | None = Field(default=None, gt=0)
    """Largest mean absolute error of the force components, meV/Å."""
    max_energy_mae: float | None = Field(default=None, gt=0)
    """Largest mean absolute error of the energy, meV/atom."""
    not_worse_than_champion: bool = True
    """The force error may not exceed the champion's by more than the interval of their difference."""
    max_rotation_error: float = Field(default=1e-6, gt=0)
    """Largest change of energy (eV/atom) or of a rotated-back force component (eV/Å) under a rotation,
    for a double precision potential."""
    max_drift: float = Field(default=1.0, gt=0)
    """Largest change of the mean total energy from the first to the last quarter of the NVE run, meV/atom."""
    drift_steps: int = Field(default=100, ge=0)
    """Steps of the NVE run; 0 leaves it out."""
    timestep_fs: float = Field(default=0.5, gt=0)
    """Time step of the NVE run, fs."""
    temperature: float = Field(default=300.0, ge=0)
    """Temperature of the velocities at the start of the NVE run, K."""
    strains: tuple[Annotated[float, Field(gt=-1, allow_inf_nan=False)], ...] = (-0.03, -0.015, 0.015, 0.03)
    """Relative changes of all lengths at which energy and forces must stay finite and bounded."""
    max_force: float = Field(default=100.0, gt=0)
    """Largest force allowed on a strained structure, eV/Å."""
    bootstrap: int = Field(default=1000, ge=100)
    """Resamplings behind each interval."""
    seed: int = 0
    """Seed of the rotation, the velocities and the bootstrap."""


__all__ = ["Criteria"]
