r"""Structures of acetylacetone at 600 K, and 300 K ones of the published set, to be labelled by our own DFT.

    python benchmarks/hotter/sample.py --out runs/hotter/structures.xyz
    gace labels run benchmarks/hotter/labels.yaml --set structures=$PWD/runs/hotter/structures.xyz \
        --set store=$PWD/runs/hotter/store --out runs/hotter/labels
    python benchmarks/hotter/keep.py runs/hotter/labels

The walks are of GFN2-xTB (needs tblite), which no potential here has been fitted to alone, from structures of
the published training set: Langevin, 0.5 fs, friction 0.01 per fs, one picosecond to come to the temperature,
then a structure each 0.2 ps. Of the published 300 K test structures every 32nd is added as it is: there our
program and the published one (ORCA) label the same atoms, which tells how far apart they are.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from gace.structures.io import read_structures, write_structures

DATA = Path(os.environ.get("GACE_BENCHMARK_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
TEMPERATURE = 600.0
STARTS, FRAMES = 10, 5
WARM, APART = 2000, 400
"""Steps of 0.5 fs before the first structure and between two."""


def walk(start: Atoms, number: int) -> list[Atoms]:
    """The structures of one walk."""
    from tblite.ase import TBLite

    rng = np.random.default_rng(number)
    atoms = Atoms(start.symbols, start.positions)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=TEMPERATURE, friction=0.01 / units.fs, rng=rng)
    found = []
    for k in range(FRAMES):
        dynamics.run(WARM if k == 0 else APART)
        kept = Atoms(atoms.symbols, atoms.positions)
        kept.info = {"config_type": "600K", "walk": number}
        found.append(kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("structures.xyz"))
    args = parser.parse_args()
    starts = read_structures(DATA / "AcAc/train_300K.xyz.gz")[:: 500 // STARTS]
    found = [atoms for number, start in enumerate(starts[:STARTS]) for atoms in walk(start, number)]
    for atoms in read_structures(DATA / "AcAc/test_MD_300K.xyz.gz", "::32"):
        plain = Atoms(atoms.symbols, atoms.positions)
        plain.info = {
            "config_type": "300K_published",
            "published_energy": float(atoms.info["REF_energy"]),
        }
        plain.arrays["published_forces"] = atoms.arrays["REF_forces"]
        found.append(plain)
    write_structures(args.out, found)
    print(f"{len(found)} structures to {args.out}")


if __name__ == "__main__":
    main()
