"""Which recipe, or the mean of both, errs least on what was left out of a crystal's training file.

    python benchmarks/potentials/left_out.py mlearn-Si --work runs

Every fifth structure is left out; the graph ACE of ``crystals`` and the linear ACE of ``crystals-linear``
learn the rest, and the errors of each and of their mean on what was left out are printed (RMSE, meV/atom,
meV/Å, meV/Å³).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from ase import Atoms
from train import DATA, HERE, TASKS

from gace.potential.potential import StructurePrediction

RECIPES = ("crystals", "crystals-linear")


def main() -> None:
    import gace
    from gace.structures.io import read_structures, write_structures
    from gace.training.run import train

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=[name for name in TASKS if name.startswith("mlearn-")])
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder for the runs")
    args = parser.parse_args()
    out = args.work / "left-out" / args.name
    out.mkdir(parents=True, exist_ok=True)
    structures = read_structures(DATA / TASKS[args.name].file, ":")
    kept = [one for number, one in enumerate(structures) if number % 5 != 2]
    left = [one for number, one in enumerate(structures) if number % 5 == 2]
    write_structures(out / "train.xyz", kept)
    write_structures(out / "left-out.xyz", left)
    residuals = []
    for recipe in RECIPES:
        config = yaml.safe_load((HERE / f"recipes/{recipe}.yaml").read_text())
        config["data"] = {"train": str(out / "train.xyz"), "validation": str(out / "left-out.xyz")}
        result = train(config, out / recipe, progress=False)
        predictions = gace.load(result.bundle, device="cpu", dtype="float64").predict(left)
        residuals.append(differences(predictions, left))
        print(f"{recipe:16s} {errors(residuals[-1])}  {result.core_seconds:.0f} core seconds", flush=True)
    mean = [np.mean(parts, axis=0) for parts in zip(*residuals, strict=True)]
    print(f"{'mean of both':16s} {errors(mean)}")


def differences(predictions: Sequence[StructurePrediction], structures: Sequence[Atoms]) -> list[np.ndarray]:
    """Predictions less labels: energies per atom, force and stress components."""
    from gace.structures.io import labels_of

    energy, forces, stress = [], [], []
    for found, atoms in zip(predictions, structures, strict=True):
        label = labels_of(atoms)
        energy.append([(found.energy - label.energy) / len(atoms)])
        forces.append((found.forces - label.forces).ravel())
        if label.stress is not None and found.stress is not None:
            stress.append((found.stress - label.stress).ravel())
    return [np.concatenate(one) for one in (energy, forces, stress)]


def errors(residuals: Sequence[np.ndarray]) -> str:
    """Root mean squares in thousandths."""
    return " / ".join(f"{1e3 * float(np.sqrt(np.mean(one**2))):.2f}" for one in residuals)


if __name__ == "__main__":
    main()
