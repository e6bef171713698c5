"""What the trainings of the peers share (`mace_accuracy.py` and its neighbours): files, shifts, errors.

Needs NumPy and ASE alone, since each peer runs in an environment of its own, without gace.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from ase.io import read

Prediction = tuple[float, np.ndarray, np.ndarray | None]
"""Energy above the shifts (eV), forces (eV/Å) and stress (eV/Å³, tension positive) of a structure."""


class Sets(NamedTuple):
    """Structures with ``REF_`` labels, and the energy of each element that is taken off."""

    train: list[Any]
    test: list[Any]
    numbers: list[int]
    shifts: dict[int, float]
    with_stress: bool

    def base(self, atoms: Any) -> float:
        """Sum of the shifts of a structure, eV."""
        return sum(self.shifts[int(z)] for z in atoms.numbers)


def arguments(about: str | None, *, model: str | None = None) -> argparse.Namespace:
    """The command line of all peers; ``model`` is the default of those that have several."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="extended XYZ with REF_energy, REF_forces and perhaps REF_stress")
    parser.add_argument("test")
    parser.add_argument("--seconds", type=float, required=True, help="CPU seconds of training")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--isolated-atoms", help="extended XYZ of one-atom structures; else least squares")
    if model is not None:
        parser.add_argument("--model", default=model)
    return parser.parse_args()


def read_sets(args: argparse.Namespace) -> Sets:
    """Both files; energies per element from isolated atoms or the least squares of the training energies."""
    train, test = read(args.train, ":"), read(args.test, ":")
    numbers = sorted({int(z) for atoms in train for z in atoms.numbers})
    if args.isolated_atoms is not None:
        isolated = read(args.isolated_atoms, ":")
        shifts = {int(one.numbers[0]): float(one.info["REF_energy"]) for one in isolated}
    else:
        counts = np.array([[(atoms.numbers == z).sum() for z in numbers] for atoms in train], dtype=float)
        energies = np.array([atoms.info["REF_energy"] for atoms in train], dtype=float)
        found, *_ = np.linalg.lstsq(counts, energies, rcond=None)
        shifts = dict(zip(numbers, map(float, found), strict=True))
    return Sets(train, test, numbers, shifts, any("REF_stress" in atoms.info for atoms in train))


def forces_rms(train: list[Any]) -> float:
    """Root mean square of the force components, eV/Å."""
    forces = np.concatenate([atoms.arrays["REF_forces"].ravel() for atoms in train])
    return float(np.sqrt((forces**2).mean()))


def report(
    args: argparse.Namespace,
    package: str,
    model: str,
    sets: Sets,
    predict: Callable[[Any], Prediction],
    **more: Any,
) -> None:
    """Print one line of JSON: errors on the test file in meV, meV/atom, meV/Å and meV/Å³."""
    line = {
        "package": package,
        "version": version(package),
        "model": model,
        "train": args.train,
        "test": args.test,
        "batch": args.batch_size,
        **more,
        **_errors(sets, predict),
    }
    print(json.dumps(line), flush=True)


def _errors(sets: Sets, predict: Callable[[Any], Prediction]) -> dict[str, dict[str, float]]:
    energy, forces, tensors, sizes = [], [], [], []
    for atoms in sets.test:
        found_energy, found_forces, found_stress = predict(atoms)
        energy.append(found_energy - (float(atoms.info["REF_energy"]) - sets.base(atoms)))
        forces.append((found_forces - atoms.arrays["REF_forces"]).ravel())
        sizes.append(len(atoms))
        if found_stress is not None and "REF_stress" in atoms.info:
            tensors.append((found_stress - np.asarray(atoms.info["REF_stress"], dtype=float)).ravel())
    per_atom = np.array(energy) / np.array(sizes)
    parts = {"energy": np.array(energy), "energy_per_atom": per_atom, "forces": np.concatenate(forces)}
    if tensors:
        parts["stress"] = np.concatenate(tensors)
    return {
        name: {
            "mae": round(float(np.abs(one).mean()) * 1e3, 3),
            "rmse": round(float(np.sqrt((one**2).mean())) * 1e3, 3),
        }
        for name, one in parts.items()
    }


__all__ = ["Prediction", "Sets", "arguments", "forces_rms", "read_sets", "report"]
