"""Structures that are equal inside every cutoff sphere and differ outside.

Claim: a star (one layer) cannot tell them apart, trees can once they are deep enough. The structures are
chains H–C…C–H of k carbons in line, bonds of 1.5 Å, ends bent by 120°, cutoff 2.2 Å: every atom sees its
bonded neighbours and the angle between them and nothing else. Turning one end about the axis changes no
sphere, only the dihedral angle across k carbons; the smallest tree that holds both ends has depth
⌊k/2⌋ + 1. Compared are energies of untrained models at 0° and 90°: whatever their parameters, what they
cannot see they cannot learn.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from common import calibrated, draw, model_of_depth, parser, report

from gace.potential.derivatives import energy_and_gradients
from gace.structures.neighbours import build_graph

CUTOFF, BOND = 2.2, 1.5
ROUNDING = 1e-11
"""Relative difference below which two energies in float64 count as equal."""


def chain(carbons: int, dihedral: float) -> Atoms:
    """H–C…C–H with its ends turned against each other by ``dihedral`` degrees."""
    x = BOND * np.arange(carbons)
    along, aside = BOND * np.cos(np.pi / 3), BOND * np.sin(np.pi / 3)
    turn = np.deg2rad(dihedral)
    first = [-along, aside, 0.0]
    last = [x[-1] + along, aside * np.cos(turn), aside * np.sin(turn)]
    return Atoms(f"HC{carbons}H", [first, *([value, 0, 0] for value in x), last])


def spheres(atoms: Atoms) -> list[np.ndarray]:
    """What each atom sees: sorted distances to and between its neighbours."""
    distances = atoms.get_all_distances()
    found = []
    for row in distances:
        inside = np.flatnonzero(row < CUTOFF)
        found.append(np.sort(distances[np.ix_(inside, inside)].ravel()))
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--most-layers", type=int, default=4)
    options.add_argument("--most-carbons", type=int, default=7)
    args = options.parse_args()
    torch.set_num_threads(1)
    depths = range(1, args.most_layers + 1)
    models = {}
    for T in depths:
        model = model_of_depth(T, ["C", "H"], CUTOFF, channels=16, mean_neighbours=2.0)
        models[T] = calibrated(model, *(chain(k, 37.0) for k in (2, 3, 4)))
    rows, differences, broken = [], {}, []
    for carbons in range(2, args.most_carbons + 1):
        pair = [chain(carbons, 0.0), chain(carbons, 90.0)]
        same = all(np.allclose(a, b, atol=1e-12) for a, b in zip(*map(spheres, pair), strict=True))
        needed = carbons // 2 + 1
        row = [str(carbons), "yes" if same else "no", str(needed)]
        for T, model in models.items():
            energy = energy_and_gradients(model, build_graph(pair, ["C", "H"], CUTOFF)).energy
            difference = float((energy[1] - energy[0]).abs() / energy[0].abs())
            differences[T, carbons] = difference
            row.append(f"{difference:.1e}" if difference > ROUNDING else "equal")
            if (difference > ROUNDING) != (needed <= T):
                broken.append(f"k = {carbons}, T = {T}")
        rows.append(row)
    head = ["carbons k", "spheres equal", "depth needed", *(f"T={T}: |ΔE|/|E|" for T in depths)]
    notes = [
        "told apart exactly where the depth suffices"
        if not broken
        else f"not as claimed: {', '.join(broken)}",
        f"equal: relative difference below {ROUNDING:g} (float64)",
    ]
    report(args, "Equal inside the cutoff, different outside", head, rows, notes, as_claimed=not broken)

    def paint(axes):
        carbons = range(2, args.most_carbons + 1)
        for T in depths:
            values = [max(differences[T, k], 1e-17) for k in carbons]
            axes.semilogy(carbons, values, "o-", label=f"T = {T}")
        axes.axhline(ROUNDING, color="grey", lw=1, ls=":")
        axes.set(xlabel="carbons between the turned ends", ylabel="relative energy difference")
        axes.legend()

    draw(args, paint)


if __name__ == "__main__":
    main()
