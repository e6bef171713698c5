"""The recursion of the code against the sum over explicit trees.

Claim: one pass through T layers is the sum over all rooted trees of depth ≤ T with node degrees ≤ ν. The
trees are enumerated one by one by ``tests/support/tree_sum.py``, which shares parameters and the
Clebsch–Gordan table with the code and nothing else. Clusters of up to six atoms, float64.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from ase import Atoms
from common import BENCHMARKS, calibrated, draw, model_of_depth, parser, report

from gace.structures.neighbours import build_graph

sys.path.append(str(BENCHMARKS.parent / "tests" / "support"))
from tree_sum import TreeSum

CLUSTER = Atoms(
    "OCHHNC",
    [[0, 0, 0], [1.2, 0.1, 0], [1.9, 1.1, 0.3], [3.3, -1.0, 0.2], [2.1, -1.2, 0.4], [3.9, 0.5, -0.3]],
)
CUTOFF = 2.0
CASES = {
    "star, order 4": (6, {"l_max": [3], "order": 4}),
    "both parities": (6, {"l_max": [2, 1], "order": [3, 2], "parity": "both"}),
    "messages of degree 2": (5, {"l_max": [2, 2], "order": [2, 2], "parity": "natural", "l_message": 2}),
    "order 3 in both layers": (4, {"l_max": [2, 2], "order": 3}),
    "three layers": (6, {"l_max": [1, 1, 1], "order": [2, 1, 2]}),
    "four layers": (5, {"l_max": [1, 1, 1, 1], "order": [1, 1, 2, 1]}),
}


def count_trees(degrees: list[list[int]], orders: list[int]) -> int:
    """Number of (rooted tree, assignment of atoms) that the enumeration visits in the last layer."""
    behind = [1] * len(degrees)  # subtrees at each atom; at first the bare atom
    for order in orders:
        branches = [sum(behind[j] for j in neighbours) for neighbours in degrees]
        rooted = [sum(n**degree for degree in range(1, order + 1)) for n in branches]
        behind = [1 + n for n in rooted]
    return sum(rooted)


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rows, worst = [], 0.0
    for name, (size, changes) in CASES.items():
        atoms = CLUSTER[:size]
        layers = len(changes["l_max"])
        model = model_of_depth(
            layers, sorted(set(atoms.symbols)), CUTOFF, channels=2, radial_hidden=[4, 4], **changes
        )
        calibrated(model, atoms)
        species = [model.elements.index(symbol) for symbol in atoms.symbols]
        inside = [
            [j for j in range(size) if j != i and atoms.get_distance(i, j) < CUTOFF] for i in range(size)
        ]
        edges = [
            [(j, atoms.positions[j] - atoms.positions[i]) for j in near] for i, near in enumerate(inside)
        ]
        graph = build_graph([atoms], model.elements, CUTOFF)
        features = model(graph).features.detach().numpy()
        began = time.process_time()
        trees = TreeSum(model, species, edges)
        reference = np.stack([
            np.concatenate([trees.invariants(t, i).ravel() for t in range(layers)]) for i in range(size)
        ])  # fmt: skip
        seconds = time.process_time() - began
        difference = float(np.abs(features - reference).max() / np.abs(reference).max())
        worst = max(worst, difference)
        count = count_trees(inside, model.hyperparameters()["order"])
        rows.append([name, str(size), str(layers), str(count), f"{difference:.1e}", f"{seconds:.1f}"])
    head = ["case", "atoms", "layers", "trees", "relative difference", "enumeration s"]
    notes = [f"largest relative difference {worst:.1e}; claimed is 1e-10"]
    report(args, "Recursion against the explicit sum over trees", head, rows, notes, worst=worst)

    def paint(axes):
        axes.loglog([int(row[3]) for row in rows], [float(row[4]) for row in rows], "o")
        axes.axhline(1e-10, color="grey", ls=":")
        axes.set(xlabel="trees", ylabel="relative difference", ylim=(1e-17, 1e-8))

    draw(args, paint)


if __name__ == "__main__":
    main()
