"""Labels spoiled on purpose among honest ones: how many does the audit find, and whom does it accuse wrongly?

Run: ``python benchmarks/label_corruptions.py BUNDLE DATA.xyz``, with a potential and labelled structures of
one level of theory that it was not trained on. ``--write`` keeps the table in ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms

from gace.randomness import generator
from gace.structures.io import labels_of, read_structures, set_labels
from gace_platform.labelling.audit import audit
from gace_platform.labelling.engines.calculators import make_calculator
from gace_platform.labelling.expectation import expect

RESULTS = Path(__file__).parent / "results" / "label-corruptions.md"
HARTREE, HARTREE_BOHR = 27.211386, 51.422067


def energy_in_hartree(atoms: Atoms, index: int) -> tuple[float, np.ndarray]:
    """Energy and forces in atomic units."""
    label = labels_of(atoms)
    return label.energy / HARTREE, label.forces / HARTREE_BOHR


def forces_in_hartree(atoms: Atoms, index: int) -> tuple[float, np.ndarray]:
    """The energy in eV, the forces in atomic units."""
    label = labels_of(atoms)
    return label.energy, label.forces / HARTREE_BOHR


def gradients(atoms: Atoms, index: int) -> tuple[float, np.ndarray]:
    """Gradients in the place of forces."""
    label = labels_of(atoms)
    return label.energy, -label.forces


def unconverged(atoms: Atoms, index: int) -> tuple[float, np.ndarray]:
    """An energy too high by 20 to 100 meV, and noise of 0.1 eV/Å in the forces, which still sum to zero."""
    label = labels_of(atoms)
    random = generator(0, "unconverged", index)
    noise = random.normal(scale=0.1, size=label.forces.shape)
    return label.energy + random.uniform(0.02, 0.1), label.forces + noise - noise.mean(axis=0)


def wrong_atom(atoms: Atoms, index: int) -> tuple[float, np.ndarray]:
    """An isolated atom of one element that is 0.3 eV off, for each atom of it."""
    label = labels_of(atoms)
    symbols = atoms.get_chemical_symbols()
    element = sorted(set(symbols))[index % len(set(symbols))]
    return label.energy + 0.3 * symbols.count(element), label.forces


class OtherMethod:
    """GFN2-xTB for the same geometry, its energies shifted to the reference's mean."""

    def __init__(self, structures: list[Atoms]) -> None:
        self.shift = np.mean([labels_of(one).energy - self.compute(one)[0] for one in structures[:40]])

    def compute(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy and forces by GFN2-xTB."""
        work = Atoms(atoms.get_chemical_symbols(), positions=atoms.positions)
        work.calc = make_calculator("tblite", method="GFN2-xTB")
        return float(work.get_potential_energy()), np.array(work.get_forces())

    def __call__(self, atoms: Atoms, index: int) -> tuple[float, np.ndarray]:
        """A label by the other method."""
        energy, forces = self.compute(atoms)
        return energy + self.shift, forces


def measure(bundle: str, structures: list[Atoms], share: float, seed: int) -> dict:
    """Spoil a share of the labels, each kind in turn, and audit all together."""
    kinds: dict[str, Callable[[Atoms, int], tuple[float, np.ndarray]]] = {
        "units: Hartree, Hartree/Bohr": energy_in_hartree,
        "units: forces in Hartree/Bohr": forces_in_hartree,
        "sign: gradients for forces": gradients,
        "other method: GFN2-xTB": OtherMethod(structures),
        "unconverged": unconverged,
        "isolated atom 0.3 eV off": wrong_atom,
    }
    expected = expect(bundle, structures)
    order = generator(seed, "spoil").permutation(len(structures))
    spoiled = order[: int(share * len(structures))]
    names = list(kinds)
    kind_of = {int(one): names[number % len(names)] for number, one in enumerate(spoiled)}
    given = [
        set_labels(one, *kinds[kind_of[i]](one, i)) if i in kind_of else one
        for i, one in enumerate(structures)
    ]
    reasons = audit(given, expected)
    accused = {i for i, why in enumerate(reasons) if why is not None}
    errors = [
        np.mean(np.abs(labels_of(a).forces - p.forces)) for a, p in zip(structures, expected, strict=True)
    ]
    return {
        "structures": len(structures),
        "spoiled": len(kind_of),
        "found": len(accused & set(kind_of)),
        "recall": len(accused & set(kind_of)) / len(kind_of),
        "accused_wrongly": len(accused - set(kind_of)),
        "false_positives": len(accused - set(kind_of)) / (len(structures) - len(kind_of)),
        "forces_mae": 1000 * float(np.mean(errors)),
        "by_kind": {
            name: [
                sum(i in accused for i, kind in kind_of.items() if kind == name),
                sum(kind == name for kind in kind_of.values()),
            ]
            for name in names
        },
    }


def table(found: dict, bundle: str, data: str) -> str:
    """The figures as Markdown."""
    lines = [
        "# Spoiled labels among honest ones",
        "",
        "`label_corruptions.py BUNDLE DATA --write`: a sixth of the spoiled labels each way.",
        f"Data: {data}; potential: {bundle}, force MAE {found['forces_mae']:.0f} meV/Å on the honest labels.",
        "",
        "| | | asked for |",
        "|---|---|---|",
        f"| labels, spoiled | {found['structures']}, {found['spoiled']} | |",
        f"| recall | {found['recall']:.1%} ({found['found']} of {found['spoiled']}) | ≥ 95 % |",
        f"| false positives | {found['false_positives']:.2%} ({found['accused_wrongly']}) | ≤ 1 % |",
        "",
        "| spoiled how | found |",
        "|---|---|",
    ]
    lines += [f"| {name} | {hit} of {count} |" for name, (hit, count) in found["by_kind"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("data")
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--count", type=int, default=800, help="structures, from the beginning of the file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--describe", nargs=2, default=None, metavar=("POTENTIAL", "DATA"), help="for the table"
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    structures = read_structures(arguments.data)[: arguments.count]
    found = measure(arguments.bundle, structures, arguments.share, arguments.seed)
    text = table(found, *(arguments.describe or (Path(arguments.bundle).name, Path(arguments.data).name)))
    print(text)
    if arguments.write:
        RESULTS.write_text(text)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
