"""What TF32 and bfloat16 matrix products would do to energies and forces, emulated on a processor.

    python benchmarks/precision.py benchmarks/potentials/3bpa-300K STRUCTURES.xyz

The tensor cores of a GPU round the factors of a matrix product to 10 (TF32) or 7 (bfloat16) bits after the
point and add up in single precision; here the factors of every mm, bmm and addmm are rounded likewise. The
kernels (neighbour sums, couplings, tables) use no tensor cores and are left alone. Errors are those against
float64, of the first member.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gace
from gace.potential.derivatives import energy_and_gradients
from gace.potential.tables import radial_tables
from gace.structures.io import read_structures
from gace.structures.neighbours import build_graph

KEPT_BITS = {"float32": None, "tf32": 10, "bfloat16": 7}
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default)


class Rounded(TorchDispatchMode):
    """Matrix products of float32 with factors rounded to so many bits after the point."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.drop = 23 - bits

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function in PRODUCTS and arguments[0].dtype == torch.float32:
            first = len(arguments) - 2
            arguments = (*arguments[:first], *(self.rounded(one) for one in arguments[first:]))
        return function(*arguments, **(keywords or {}))

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """To the nearest number of the format, ties away from zero."""
        bits = x.contiguous().view(torch.int32)
        kept = (bits + (1 << (self.drop - 1))) & -(1 << self.drop)
        return kept.view(torch.float32)


def errors(potential: gace.Potential, structures: list, kind: str, *, tabulated: bool) -> dict[str, float]:
    """Root mean square and largest differences to float64 of the first member."""
    exact = potential.members[0].double()
    model = copy.deepcopy(exact).float()
    tables = radial_tables(model) if tabulated else None
    energies, forces, size = [], [], []
    for atoms in structures:
        graph = build_graph([atoms], potential.elements, potential.cutoff)
        truth = energy_and_gradients(exact, graph)
        single = graph.to(dtype=torch.float32)
        bits = KEPT_BITS[kind]
        evaluate = model if tables is None else lambda one: model(one, tables)
        if bits is None:
            found = energy_and_gradients(evaluate, single)
        else:
            with Rounded(bits):
                found = energy_and_gradients(evaluate, single)
        energies.append((found.energy.double() - truth.energy) / len(atoms))
        forces.append((found.forces.double() - truth.forces).flatten())
        size.append(truth.forces.flatten())
    energy, force, truth = torch.cat(energies), torch.cat(forces), torch.cat(size)
    return {
        "energy_meV_per_atom": 1e3 * float(energy.square().mean().sqrt()),
        "force_rms_meV_per_A": 1e3 * float(force.square().mean().sqrt()),
        "force_max_meV_per_A": 1e3 * float(force.abs().max()),
        "relative": float(force.norm() / truth.norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--every", type=int, default=50, help="use every so-manieth structure")
    options = parser.parse_args()
    structures = read_structures(options.structures)[:: options.every]
    print("| format | radial functions | energy, meV/atom | forces, rms meV/Å | largest | relative |")
    print("|---|---|---|---|---|---|")
    for tabulated in (False, True):
        for kind in KEPT_BITS:
            e = errors(gace.load(options.bundle), structures, kind, tabulated=tabulated)
            how = "tables" if tabulated else "networks"
            print(f"| {kind} | {how} |" + "".join(f" {value:.2g} |" for value in e.values()))
    print(json.dumps({"structures": len(structures), "bundle": options.bundle.name}))


if __name__ == "__main__":
    main()
