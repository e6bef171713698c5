"""Molecular dynamics at constant energy, or at a constant or rising temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

from gace.errors import InputError, nearest
from gace.randomness import generator
from gace.structures.identity import structure_hash

Ensemble = Literal["nve", "nvt"]

RUNAWAY_TEMPERATURE = 50_000.0
"""Above this kinetic temperature, K, a run counts as diverged: the potential has a hole."""


class Frame(NamedTuple):
    """The state of a run at one step."""

    step: int
    """Steps done."""

    time: float
    """ps."""

    atoms: Atoms
    """The live structure with its calculator; copy what you keep."""

    potential_energy: float
    """eV."""

    kinetic_energy: float
    """eV."""

    temperature: float
    """Kinetic temperature, K."""

    @property
    def total_energy(self) -> float:
        """Potential plus kinetic energy, eV."""
        return self.potential_energy + self.kinetic_energy


class MDOutcome(NamedTuple):
    """How a run ended; every ending is a value."""

    status: Literal["done", "stopped", "diverged"]
    """``stopped`` by the observer; ``diverged`` when energy, forces or temperature left all bounds."""

    steps: int
    """Steps done."""

    mean_temperature: float
    """Mean kinetic temperature of the observed frames after the first half, K."""

    energy_drift: float
    """Slope of the total energy over the observed frames, meV per atom and ps (nve: the error)."""

    atoms: Atoms
    """The last structure, with velocities."""


def molecular_dynamics(
    atoms: Atoms,
    calculator: Calculator,
    *,
    steps: int,
    temperature: float = 300.0,
    final_temperature: float | None = None,
    timestep: float = 0.5,
    ensemble: Ensemble = "nvt",
    friction: float = 0.01,
    seed: int = 0,
    every: int = 10,
    observe: Callable[[Frame], bool | None] | None = None,
) -> MDOutcome:
    """Run dynamics on a copy of ``atoms``, by ASE's velocity Verlet or Langevin integrators.

    Velocities are drawn at ``temperature`` unless ``atoms`` already moves; total momentum is removed.
    Equal input gives equal trajectories: the random numbers derive from ``seed`` and the structure.

    Args:
        atoms: start.
        calculator: gives energy and forces.
        steps: number of time steps.
        temperature: K; of the thermostat, and of the initial velocities.
        final_temperature: K; where a linear ramp of the thermostat ends (None: no ramp).
        timestep: fs.
        ensemble: ``nve`` or ``nvt`` (Langevin).
        friction: 1/fs, for ``nvt``.
        seed: of velocities and thermostat.
        every: steps between observations; the start and the last step are always observed.
        observe: called with each :class:`Frame`; returning False stops the run.

    Raises:
        InputError: a value out of its range.
    """
    last_temperature = temperature if final_temperature is None else final_temperature
    _check(
        steps=steps,
        temperature=temperature,
        final_temperature=last_temperature,
        timestep=timestep,
        friction=friction,
        every=every,
    )
    if ensemble not in ("nve", "nvt"):
        raise InputError(f"no ensemble called '{ensemble}'{nearest(ensemble, ['nve', 'nvt'])}")
    if ensemble == "nve" and final_temperature is not None:
        raise InputError("a final temperature is a thermostat's: leave it out, or choose the ensemble 'nvt'")
    moving = start_moving(atoms, temperature, seed)
    moving.calc = calculator
    dynamics = _integrator(moving, ensemble, temperature, timestep, friction, seed)
    frames: list[tuple[float, float, float]] = []
    done, status = 0, "done"
    while True:
        frame = _frame(moving, done, timestep)
        if not _sane(frame):
            status = "diverged"
            break
        frames.append((frame.time, frame.total_energy, frame.temperature))
        if observe is not None and observe(frame) is False:
            status = "stopped"
            break
        if done >= steps:
            break
        stride = min(every, steps - done)
        try:
            for _ in range(stride):
                if ensemble == "nvt" and last_temperature != temperature:
                    share = done / max(steps - 1, 1)
                    between = temperature + share * (last_temperature - temperature)
                    dynamics.set_temperature(temperature_K=between)
                dynamics.step()
                done += 1
        except InputError:
            # between two observations forces can become NaN, then positions, which no calculator takes
            if np.isfinite(moving.positions).all():
                raise
            status = "diverged"
            break
    times, energies, temperatures = (
        (np.array(column) for column in zip(*frames, strict=True)) if frames else (np.zeros(0),) * 3
    )
    return MDOutcome(
        status,  # type: ignore[arg-type]
        done,
        float(temperatures[len(temperatures) // 2 :].mean()) if len(temperatures) else float("nan"),
        drift(times, energies, len(moving)),
        moving,
    )


def start_moving(atoms: Atoms, temperature: float, seed: int) -> Atoms:
    """A copy with Maxwell–Boltzmann velocities at ``temperature`` (K), unless it already has some."""
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

    moving = atoms.copy()
    if not np.any(moving.get_momenta()) and temperature > 0:
        rng = generator(seed, "velocities", structure_hash(atoms))
        MaxwellBoltzmannDistribution(moving, temperature_K=temperature, rng=rng)
        if len(moving) > 1:
            Stationary(moving)
    return moving


def drift(times: np.ndarray, energies: np.ndarray, n_atoms: int) -> float:
    """Least-squares slope of total energies (eV) over times (ps), meV per atom and ps; 0 if too few."""
    if len(times) < 2 or np.ptp(times) == 0:
        return 0.0
    return float(np.polyfit(times - times[0], energies - energies[0], 1)[0]) * 1000 / n_atoms


def _integrator(
    atoms: Atoms, ensemble: str, temperature: float, timestep: float, friction: float, seed: int
) -> Any:
    """ASE's integrator for an ensemble."""
    from ase.md.langevin import Langevin
    from ase.md.verlet import VelocityVerlet

    if ensemble == "nve":
        return VelocityVerlet(atoms, timestep=timestep * units.fs)
    return Langevin(
        atoms,
        timestep=timestep * units.fs,
        temperature_K=temperature,
        friction=friction / units.fs,
        fixcm=False,
        rng=generator(seed, "langevin", structure_hash(atoms)),
    )


def _frame(atoms: Atoms, step: int, timestep: float) -> Frame:
    return Frame(
        step,
        step * timestep / 1000,
        atoms,
        float(atoms.get_potential_energy()),
        float(atoms.get_kinetic_energy()),
        float(atoms.get_temperature()),
    )


def _sane(frame: Frame) -> bool:
    """Whether a frame is still physics."""
    finite = np.isfinite(frame.total_energy) and np.isfinite(frame.atoms.get_forces()).all()
    return bool(finite and frame.temperature < RUNAWAY_TEMPERATURE)


def _check(
    *,
    steps: int,
    temperature: float,
    final_temperature: float,
    timestep: float,
    friction: float,
    every: int,
) -> None:
    """Ranges of the numbers a user gives."""
    for name, value, least in (
        ("steps", steps, 0),
        ("temperature", temperature, 0),
        ("final_temperature", final_temperature, 0),
        ("friction", friction, 0),
        ("every", every, 1),
    ):
        if not value >= least:
            raise InputError(f"{name} must be at least {least}, got {value}")
        if value == float("inf"):
            raise InputError(f"{name} must be finite, got {value}")
    if not 0 < timestep < float("inf"):
        raise InputError(f"timestep must be positive and finite, got {timestep}")
