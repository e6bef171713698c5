"""Errors at temperatures that a potential was not trained at.

    python benchmarks/figures/extrapolation.py benchmarks/potentials/3bpa-300K [BUNDLE …]

3BPA: potentials of structures at 300 K meet structures at 300, 600 and 1200 K. The files are the *proxies*
of the peers' drivers (thirds of ``train_mixedT`` less the structures that ``train_300K`` holds too), so
published errors do not compare. Root mean squares over all structures of a temperature.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from common import BENCHMARKS, draw, parser, report

import gace
from gace.evaluation import evaluate
from gace.structures.io import read_structures

TEMPERATURES = (300, 600, 1200)


def errors(bundle: str, temperature: int, folder: Path | None) -> dict[str, float]:
    """RMSE of energy (meV per atom) and forces (meV/Å) at one temperature."""
    sys.path.insert(0, str(BENCHMARKS))
    from workloads import data_file

    structures = read_structures(data_file(f"test_{temperature}K_sub.xyz", folder))
    found = evaluate(gace.load(bundle, dtype="float32"), structures)
    return {"energy": found["energy_per_atom"]["rmse"], "forces": found["forces"]["rmse"]}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("bundles", nargs="+", metavar="BUNDLE", help="potentials of 3BPA")
    options.add_argument("--data", type=Path, help="folder with the files of the peers' drivers")
    args = options.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        Path(one).name: {T: errors(one, T, args.data) for T in TEMPERATURES} for one in args.bundles
    }
    rows = [
        [name, *(f"{by[T]['energy']:.2f} / {by[T]['forces']:.1f}" for T in TEMPERATURES)]
        for name, by in found.items()
    ]
    notes = [
        f"{name}: from 300 to 1200 K force errors grow {by[1200]['forces'] / by[300]['forces']:.1f} times"
        for name, by in found.items()
    ]
    head = ["potential", *(f"{T} K" for T in TEMPERATURES)]
    title = "3BPA, trained at 300 K: energy (meV per atom) / forces (meV/Å), proxies"
    report(args, title, head, rows, notes, errors=found)

    def paint(axes):
        for name, by in found.items():
            axes.semilogy(TEMPERATURES, [by[T]["forces"] for T in TEMPERATURES], "o-", label=name)
        axes.set(xlabel="K", ylabel="force RMSE, meV/Å")
        axes.legend()

    draw(args, paint)


if __name__ == "__main__":
    main()
