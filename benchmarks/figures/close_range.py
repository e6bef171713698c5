"""Energy of crystals pressed together and of crystals whose atoms are thrown about.

    python benchmarks/figures/close_range.py benchmarks/potentials/mlearn-Si [BUNDLE …]

Potentials of one element meet its crystal compressed to shares of its bond lengths, and with normal
displacements of its atoms (shares of the bond length; the least of ten draws). An energy below the crystal's
own is a hole into which dynamics may fall. eV per atom, relative to the crystal.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from common import draw, parser, report

import gace
from gace.structures.neighbours import find_edges

SCALES = (0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95, 1.00)
DISPLACEMENTS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
DRAWS = 10


def energies(potential: Any, structures: list[Atoms]) -> np.ndarray:
    """Energies per atom, eV."""
    return np.array([found.energy for found in potential.predict(structures)]) / [len(a) for a in structures]


def deformed(crystal: Atoms, bond: float) -> dict[str, list[Atoms]]:
    """Copies of a crystal with bonds of this length, Å, by what was done to them."""
    made: dict[str, list[Atoms]] = {}
    for scale in SCALES:
        copy = crystal.copy()
        copy.set_cell(copy.cell.array * scale, scale_atoms=True)
        made[f"pressed to {scale:.2f}"] = [copy]
    rng = np.random.default_rng(0)
    for share in DISPLACEMENTS:
        copies = [crystal.copy() for _ in range(DRAWS)]
        for copy in copies:
            copy.positions += rng.normal(0, share * bond, copy.positions.shape)
        made[f"displaced by {share:.2f}"] = copies
    return made


def found(bundle: str) -> dict[str, float]:
    """Least energy per atom of every deformation, relative to the crystal, eV."""
    potential = gace.load(bundle, device="cpu", dtype="float64")
    if len(potential.elements) != 1:
        sys.exit(f"error: {bundle} is for {', '.join(potential.elements)}: potentials of one element only")
    crystal = bulk(potential.elements[0], cubic=True)
    crystal *= (2, 2, 2) if len(crystal) > 4 else (3, 3, 3)
    bond = float(np.linalg.norm(find_edges(crystal, potential.cutoff).vector, axis=1).min())
    (own,) = energies(potential, [crystal])
    return {
        name: float((energies(potential, copies) - own).min())
        for name, copies in deformed(crystal, bond).items()
    }


def main() -> None:
    """Evaluate, print, draw."""
    options = parser(__doc__)
    options.add_argument("bundles", nargs="+", metavar="BUNDLE", help="potentials of one element each")
    args = options.parse_args()
    torch.set_num_threads(1)
    results = {Path(one).name: found(one) for one in args.bundles}
    deformations = list(next(iter(results.values())))
    rows = [[name, *(f"{by[name]:.2f}" for by in results.values())] for name in deformations]
    notes = []
    for name, by in results.items():
        deepest = min(by, key=by.__getitem__)
        below = by[deepest] < -0.01
        notes.append(
            f"{name}: " + (f"a hole, {-by[deepest]:.2f} eV per atom deep, {deepest}" if below else "no hole")
        )
    report(args, "Where atoms are close: eV per atom above the crystal", ["", *results], rows, notes)

    def paint(axes: Any) -> None:
        for name, by in results.items():
            axes.plot(SCALES, [by[f"pressed to {scale:.2f}"] for scale in SCALES], "o-", label=name)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set(xlabel="share of the bond length", ylabel="eV per atom above the crystal")
        axes.legend()

    draw(args, paint)


if __name__ == "__main__":
    main()
