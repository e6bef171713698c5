"""Symmetry, smoothness at the cutoff, and conservation of energy.

    python benchmarks/figures/conservation.py --potential BUNDLE --structure ethanol.xyz --picoseconds 20

Without ``--potential`` an untrained model shows symmetry and smoothness; dynamics need a trained one. The
drift is the slope of the energy of velocity Verlet at constant energy, after a thermalisation whose
steps do not count, with the standard error of that slope from the means of blocks; each time step starts
from the same state. The total energy swings with the square of the time step, and slow swings pass for
drift; the energy that velocity Verlet conserves to fourth order is known, and its slope is the one to look
at: ``H + τ² (v·V''·v / 12 - F·F / 24 m)`` [Hairer, Lubich, Wanner, Acta Numerica 12, 399 (2003)].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.units import fs
from common import calibrated, draw, model_of_depth, parser, report
from scipy.spatial.transform import Rotation

import gace
from gace.engines.dynamics import molecular_dynamics
from gace.potential.potential import Potential
from gace.structures.io import read_structures

BLOCKS = 20


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def symmetries(potential: Potential, atoms: Atoms, draws: int) -> dict[str, float]:
    """Worst violation of each symmetry by energy (without isolated atoms) and forces, relative."""
    isolated = sum(potential.isolated_atom_energies[symbol] for symbol in atoms.symbols)
    rng = np.random.default_rng(0)

    def predict(structure: Atoms) -> tuple[np.ndarray, np.ndarray]:
        (found,) = potential.predict([structure])
        return np.array([found.energy - isolated]), found.forces

    energy, forces = predict(atoms)
    worst: dict[str, float] = {}
    for _ in range(draws):
        rotation = Rotation.random(rng=rng).as_matrix()
        order = rng.permutation(len(atoms))
        same, every = np.eye(3), np.arange(len(atoms))
        cases = {
            "rotation": (rotation, 0.0, every),
            "inversion": (-same, 0.0, every),
            "translation": (same, rng.normal(size=3) * 10, every),
            "permutation": (same, 0.0, order),
        }
        for name, (matrix, shift, chosen) in cases.items():
            moved = atoms[chosen]
            if moved.pbc.any():
                moved.set_cell(moved.cell.array @ matrix.T)
            moved.positions = moved.positions @ matrix.T + shift
            found = predict(moved)
            error = max(difference(found[0], energy), difference(found[1], (forces @ matrix.T)[chosen]))
            worst[name] = max(worst.get(name, 0.0), error)
    worst["net force"] = float(np.abs(forces.sum(0)).max() / np.abs(forces).max())
    return worst


def at_the_cutoff(potential: Potential) -> dict[str, list[float]]:
    """Energy (eV) and force (eV/Å) of a pair at distances before and behind the cutoff."""
    symbol = potential.elements[0]
    found = {}
    for gap in (0.5, 0.1, 0.01, 0.001, -0.001):
        pair = Atoms([symbol, symbol], [[0, 0, 0], [potential.cutoff - gap, 0, 0]])
        (value,) = potential.predict([pair])
        energy = value.energy - 2 * potential.isolated_atom_energies[symbol]
        found[f"{-gap:+g} Å"] = [energy, float(np.abs(value.forces).max())]
    return found


def slope(times: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope of the block means by least squares, and its standard error."""
    t, v = (np.array([block.mean() for block in np.array_split(one, BLOCKS)]) for one in (times, values))
    b, a = np.polyfit(t, v, 1)
    rest = v - a - b * t
    return float(b), float(np.sqrt((rest**2).sum() / (BLOCKS - 2) / ((t - t.mean()) ** 2).sum()))


def shadow_less_total(motion: np.ndarray, masses: np.ndarray, step: float) -> np.ndarray:
    """What velocity Verlet conserves less the total energy, to second order in the time step.

    Args:
        motion: velocities and forces at every step ``(steps, 2, N, 3)``, ASE's units.
        masses: u ``(N,)``.
        step: ASE's unit of time.

    Returns:
        eV, for all steps but the first and last ``(steps - 2,)``.
    """
    velocities, forces = motion[1:-1, 0], motion[:, 1]
    curvature = -(velocities * (forces[2:] - forces[:-2])).sum((1, 2)) / (2.0 * step)  # v·V''·v
    square = (forces[1:-1] ** 2 / masses[:, None]).sum((1, 2))
    return step**2 * (curvature / 12.0 - square / 24.0)


def constant_energy(potential: Potential, atoms: Atoms, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Drift of the total energy for each time step."""
    calculator = potential.calculator(dtype=args.dtype, uncertainty=False)
    warm = molecular_dynamics(
        atoms,
        calculator,
        steps=round(1000 * args.thermalise / 0.5),
        temperature=args.temperature,
        timestep=0.5,
    ).atoms
    start = warm.copy()
    found = []
    for timestep in args.timestep:
        track: list[tuple[float, float, float]] = []
        motion: list[np.ndarray] = []

        def observe(frame, track=track, motion=motion) -> None:
            track.append((frame.time, 1e3 * frame.total_energy / len(atoms), frame.temperature))
            motion.append(np.stack([frame.atoms.get_velocities(), frame.atoms.get_forces()]))

        # an equal number of steps between records of every run: no aliasing with the fastest vibration
        outcome = molecular_dynamics(
            start, calculator, steps=round(1000 * args.picoseconds / timestep), ensemble="nve",
            timestep=timestep, every=1, observe=observe,
        )  # fmt: skip
        times, energies, temperatures = np.array(track).T
        correction = 1e3 / len(atoms) * shadow_less_total(np.array(motion), atoms.get_masses(), timestep * fs)
        shadow = energies[1:-1] + correction
        rate, error = slope(times[1:-1], shadow)
        plain = slope(times, energies)
        found.append({
            "shadow fluctuation": float(shadow.std()),
            "drift of the total energy": 1e3 * plain[0], "its error": 1e3 * plain[1],
            "timestep": timestep, "status": outcome.status, "picoseconds": float(times[-1]),
            "temperature": float(temperatures.mean()), "fluctuation": float(energies.std()),
            "drift": 1e3 * rate, "error": 1e3 * error, "track": (times, energies - energies[0]),
        })  # fmt: skip
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--potential", help="a trained bundle")
    options.add_argument("--structure", type=Path, help="start of the dynamics: last structure of a file")
    options.add_argument("--temperature", type=float, default=300.0, help="K of the thermalisation")
    options.add_argument("--thermalise", type=float, default=0.5, help="ps of Langevin dynamics before")
    options.add_argument("--picoseconds", type=float, default=5.0, help="of dynamics at constant energy")
    options.add_argument("--timestep", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="fs")
    options.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    args = options.parse_args()
    torch.set_num_threads(1)
    atoms = read_structures(args.structure)[-1] if args.structure else molecule("CH3CH2OH")
    if args.potential:
        potential = gace.load(args.potential, dtype="float64")
    else:
        elements = sorted(set(atoms.symbols))
        model = calibrated(model_of_depth(2, elements, 4.0, mean_neighbours=8.0), atoms)
        potential = Potential([model], isolated_atom_energies=dict.fromkeys(elements, 0.0))
    shaken = atoms.copy()
    shaken.rattle(0.05, seed=1)
    broken = symmetries(potential, shaken, draws=10)
    pair = at_the_cutoff(potential)
    rows = [[name, f"{value:.1e}", "relative, worst of 10 draws"] for name, value in broken.items()]
    rows += [[f"pair at cutoff {gap}", f"{e:.1e} eV", f"force {f:.1e} eV/Å"] for gap, (e, f) in pair.items()]
    runs = constant_energy(potential, atoms, args) if args.potential else []
    for run in runs:
        rows.append([
            f"NVE, {run['timestep']:g} fs, {run['picoseconds']:.0f} ps at {run['temperature']:.0f} K",
            f"{run['drift']:+.3f} ± {run['error']:.3f} meV/atom/ns",
            f"fluctuation {run['shadow fluctuation']:.4f} meV/atom; "
            f"of the total energy {run['fluctuation']:.3f}, its slope "
            f"{run['drift of the total energy']:+.2f} ± {run['its error']:.2f}; {run['status']}",
        ])  # fmt: skip
    notes = [f"worst symmetry violation {max(broken.values()):.1e}; claimed is 1e-10"]
    if not runs:
        notes.append("no dynamics: name a trained potential by --potential")
    plain = [{key: value for key, value in run.items() if key != "track"} for run in runs]
    head = ["what", "value", "of"]
    report(
        args, "Symmetry, smoothness, conservation", head, rows, notes, symmetry=broken, pair=pair, nve=plain
    )

    def paint(axes):
        for run in runs:
            axes.plot(*run["track"], lw=0.5, label=f"{run['timestep']:g} fs")
        axes.set(xlabel="ps", ylabel="total energy − start, meV per atom")
        if runs:
            axes.legend()

    draw(args, paint)


if __name__ == "__main__":
    main()
