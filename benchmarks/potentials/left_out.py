"""With which weights the mean of a crystal's recipes errs least on what was left out of its training file.

    python benchmarks/potentials/left_out.py mlearn-Si --work runs

Every fifth structure is left out; each recipe of the potential learns the rest. Printed are the errors on
what was left out (RMSE, meV/atom, meV/Å, meV/Å³) of each, of the plain mean and of the mean with the weights
that ``gace combine --fit-weights`` finds there. ``train.py`` takes those for the potential that is kept.
Shear stresses in another order than their key says are put right first, as the recipes do
(``data.stress_order``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from train import DATA, HERE, TASKS

from gace.potential.potential import Potential

EVERY, WHICH = 5, 2
"""Left out is every fifth structure, from the third on."""


def trained_without(name: str, work: Path, **overrides: Any) -> tuple[list[Potential], list[Atoms]]:
    """A potential by each recipe of ``name``, and the structures that none of them has seen.

    Args:
        name: of a task.
        work: folder for the runs; finished ones are not repeated.
        overrides: top-level entries of the configurations, such as ``threads``.
    """
    import gace
    from gace.potential.combination import residuals
    from gace.structures.io import read_structures, write_structures
    from gace.training.run import train
    from gace.training.stress_order import in_order

    out = work / "left-out" / name
    out.mkdir(parents=True, exist_ok=True)
    structures, reordered = in_order(read_structures(DATA / TASKS[name].file, TASKS[name].train))
    print("\n".join(map(str, reordered)))
    left = [one for number, one in enumerate(structures) if number % EVERY == WHICH]
    write_structures(
        out / "train.xyz", [one for number, one in enumerate(structures) if number % EVERY != WHICH]
    )
    write_structures(out / "left-out.xyz", left)
    found = []
    for recipe in TASKS[name].recipes:
        config = yaml.safe_load((HERE / f"recipes/{recipe}.yaml").read_text()) | overrides
        files = {"train": str(out / "train.xyz"), "validation": str(out / "left-out.xyz")}
        config["data"] = {**config.get("data", {}), **files}
        result = train(config, out / recipe, progress=False)
        found.append(gace.load(result.bundle, device="cpu", dtype="float64"))
        print(
            f"{recipe:18s} {errors(residuals(found[-1], left))}  {result.core_seconds:.0f} core seconds",
            flush=True,
        )
    return found, left


def main() -> None:
    from gace.potential.combination import combine, fitted_weights, residuals

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=[name for name, task in TASKS.items() if len(task.recipes) > 1])
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder for the runs")
    args = parser.parse_args()
    potentials, left = trained_without(args.name, args.work)
    weights = fitted_weights(potentials, left)
    for text, given in (("mean", None), ("weights " + ", ".join(f"{one:.2f}" for one in weights), weights)):
        print(f"{text:18s} {errors(residuals(combine(potentials, given), left))}")


def errors(several: Sequence[np.ndarray]) -> str:
    """Root mean squares in thousandths."""
    return " / ".join(f"{1e3 * float(np.sqrt(np.mean(one**2))):.2f}" for one in several)


if __name__ == "__main__":
    main()
