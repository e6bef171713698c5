"""The fixed work on which potentials are timed; the same as the drivers of the peers do.

=============  =====================================================================================
``inf:3bpa``   molecule of 27 atoms: first structure of ``test_300K_sub.xyz``, no periodicity
``inf:si64``   64 atoms of diamond Si, a = 5.43 Å; also ``si512``, ``si1728``
``inf:c512``   512 atoms of diamond C, a = 3.567 Å; also ``c64``, ``c1728``
``train:bN``   optimiser steps on energies and forces, N structures of ``train_300K.xyz`` each
``acc:S``      S CPU seconds of training on ``train450.xyz``, then the errors on the proxy test sets
=============  =====================================================================================

Crystals are rattled by 0.03 Å; from step to step the atoms swing smoothly with amplitudes of about
0.02 Å, so that every step is new work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms

ROOT = Path(__file__).resolve().parent.parent

CUTOFF = 5.0
"""Å; the same for every package, whatever its presets say."""

ISOLATED_ATOMS = {
    "H": -13.587222780835477,
    "C": -1029.4889999855063,
    "N": -1484.9814568572233,
    "O": -2041.9816003861047,
}
"""eV, wB97X/6-31G* (published with 3BPA)."""

LATTICES = {"si": ("Si", 5.43), "c": ("C", 3.567)}
REPEATS = {"64": 2, "512": 4, "1728": 6}
PROXY_TESTS = ("test_300K_sub", "test_600K_sub", "test_1200K_sub")
"""Thirds of ``train_mixedT`` by temperature: a proxy, not the published test sets."""


def data_file(name: str, folder: Path | None = None) -> Path:
    """A file of the 3BPA data: in ``folder``, below ``GACE_BENCHMARK_DATA``, or beside the peers' drivers."""
    benchmark = os.environ.get("GACE_BENCHMARK_DATA")
    candidates = [folder] if folder else []
    if benchmark:
        candidates += [Path(benchmark), Path(benchmark) / "3BPA", Path(benchmark).parent / "peers" / "data"]
    candidates.append(ROOT.parent / "shared" / "peers" / "data")
    for candidate in candidates:
        if (candidate / name).exists():
            return candidate / name
    sys.exit(
        f"error: no {name} in {', '.join(map(str, candidates))}. The structures are those of "
        "davkovacs/BOTNet-datasets (MIT), split as benchmarks/README.md says; name their folder by --data."
    )


def structure(name: str, folder: Path | None = None) -> Atoms:
    """The structure of an inference workload (``3bpa``, ``si64``, ``c512`` …)."""
    if name == "3bpa":
        return _first_molecule(data_file("test_300K_sub.xyz", folder))
    for prefix, (element, lattice) in LATTICES.items():
        count = name.removeprefix(prefix)
        if name.startswith(prefix) and count in REPEATS:
            return _rattled_diamond(element, lattice, REPEATS[count])
    known = ["3bpa", *(prefix + count for prefix in LATTICES for count in REPEATS)]
    sys.exit(f"error: no structure called '{name}'; there are {', '.join(known)}")


def diamond(n_atoms: int) -> Atoms:
    """Cubic cells of diamond, 8 n³ atoms, rattled."""
    n = round((n_atoms / 8) ** (1 / 3))
    if 8 * n**3 != n_atoms:
        sys.exit(f"error: {n_atoms} is not 8 n³; near it lies {8 * n**3}")
    element, lattice = LATTICES["c"]
    return _rattled_diamond(element, lattice, n)


def _first_molecule(file: Path) -> Atoms:
    # by hand, since ase.io loads SciPy: 45 MB that would be counted as the potential's
    with file.open() as lines:
        count, _ = int(next(lines)), next(lines)
        rows = [next(lines).split() for _ in range(count)]
    return Atoms([row[0] for row in rows], np.array([row[1:4] for row in rows], float))


def _rattled_diamond(element: str, lattice: float, repeats: int) -> Atoms:
    # the cell of ase.build.bulk(element, "diamond", cubic=True), which loads SciPy too
    corners = np.array([(0, 0, 0), (0, 2, 2), (2, 0, 2), (2, 2, 0)])
    quarters = np.stack([corners, corners + 1], axis=1).reshape(8, 3)
    cell = Atoms([element] * 8, scaled_positions=quarters / 4, cell=[lattice] * 3, pbc=True)
    atoms = cell.repeat(repeats)
    atoms.rattle(0.03, seed=1)
    return atoms


def elements_of(name: str) -> list[str]:
    """Elements the potential of a workload knows."""
    return sorted(ISOLATED_ATOMS) if name == "3bpa" else [LATTICES[name.rstrip("0123456789")][0]]


def swing(atoms: Atoms) -> Callable[[int], None]:
    """A function that puts the atoms where they are at step k."""
    start = atoms.positions.copy()
    rng = np.random.default_rng(2)
    amplitude = 0.02 * rng.normal(size=start.shape)
    phase = rng.uniform(0, 6.28, size=start.shape)

    def move(step: int) -> None:
        atoms.positions[:] = start + amplitude * np.sin(0.3 * step + phase)

    return move


def labelled(name: str, folder: Path | None = None) -> list[Atoms]:
    """Structures of a data file with ``REF_energy`` and ``REF_forces``, free of periodicity."""
    from ase.io import read

    frames = []
    for atoms in read(data_file(f"{name}.xyz", folder), ":"):
        energy, forces = atoms.get_potential_energy(), atoms.get_forces().copy()
        clean = Atoms(atoms.numbers, atoms.positions, info={"REF_energy": energy})
        clean.arrays["REF_forces"] = forces
        frames.append(clean)
    return frames
