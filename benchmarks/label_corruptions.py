"""Labels spoiled on purpose among honest ones: how many does the gate find, and whom does it accuse wrongly?

The gate as a campaign uses it: what one label shows by itself (``gate.objection``, with the program's own
account), then the audit of each batch against a committee (``gace labels review``).

Honest labels are published PBE/def2-SVP ones (rMD17); the other functionals, the other basis, the fields that
were stopped early and the atoms in the wrong state are computed by PySCF for this benchmark:
``python benchmarks/label_corruptions.py BUNDLE DATA --prepare CACHE.xyz``, once, some ten core minutes. Then
``python benchmarks/label_corruptions.py BUNDLE DATA --spoiled CACHE.xyz --write`` measures. BUNDLE is a
potential at PBE/def2-SVP that was not trained on DATA, such as a campaign's champion.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from label_corruptions_dft import ACCOUNT, ATOMS, FUNCTIONALS, prepare

from gace.randomness import generator
from gace.structures.io import labels_of, read_structures, set_labels
from gace_platform.labelling.audit import Prediction, audit
from gace_platform.labelling.config import QualityGate
from gace_platform.labelling.expectation import expect
from gace_platform.labelling.gate import objection

RESULTS = Path(__file__).parent / "results" / "label-corruptions.md"
HARTREE, HARTREE_BOHR = 27.211386, 51.422067
LARGE = 0.1
"""Error of the forces, eV/Å, from which on a spoiled label would teach a good potential something wrong."""

Spoil = Callable[[Atoms], Atoms]


def energy_in_hartree(atoms: Atoms) -> Atoms:
    """Energy and forces in atomic units."""
    label = labels_of(atoms)
    return set_labels(atoms, label.energy / HARTREE, label.forces / HARTREE_BOHR)


def forces_in_hartree(atoms: Atoms) -> Atoms:
    """The energy in eV, the forces in atomic units."""
    label = labels_of(atoms)
    return set_labels(atoms, label.energy, label.forces / HARTREE_BOHR)


def gradients(atoms: Atoms) -> Atoms:
    """Gradients in the place of forces."""
    label = labels_of(atoms)
    return set_labels(atoms, label.energy, -label.forces)


def wrong_atom(shifts: dict[str, float]) -> Spoil:
    """Energies put together from atomisation energies and an atom in the wrong state."""

    def spoil(atoms: Atoms) -> Atoms:
        label = labels_of(atoms)
        symbols = atoms.get_chemical_symbols()
        element = sorted(shifts)[int(atoms.info["number"]) % len(shifts)]
        return set_labels(atoms, label.energy + shifts[element] * symbols.count(element), label.forces)

    return spoil


def computed(table: dict[tuple[int, str], Atoms], names: Sequence[str]) -> Spoil:
    """What PySCF computed of the same structure with other settings."""

    def spoil(atoms: Atoms) -> Atoms:
        number = atoms.info["number"]
        known = [table[number, name] for name in names if (number, name) in table]
        return known[number % len(known)]

    return spoil


class Case(NamedTuple):
    """Labels of one draw, honest and spoiled."""

    given: list[Atoms]
    expected: list[Prediction]
    kinds: list[str | None]


def draw(
    structures: list[Atoms],
    expected: list[Prediction],
    spoils: dict[str, tuple[list[int], Spoil]],
    share: float,
    seed: int,
) -> Case:
    """Spoil a share of the labels, as many each way, and shuffle."""
    random = generator(seed, "spoil")
    each = int(share * len(structures) / len(spoils))
    kind_of: dict[int, str] = {}
    for name, (possible, _) in spoils.items():
        free = [one for one in possible if one not in kind_of]
        kind_of |= {int(one): name for one in random.permutation(free)[:each]}
    order = [int(one) for one in random.permutation(len(structures))]
    given = [spoils[kind_of[i]][1](structures[i]) if i in kind_of else structures[i] for i in order]
    return Case(given, [expected[i] for i in order], [kind_of.get(i) for i in order])


def accused(case: Case, isolated: dict[str, float], batch: int) -> list[str | None]:
    """Reasons against each label: the gate on each, then the audit of those that passed, batch by batch."""
    reasons: list[str | None] = []
    for atoms in case.given:
        label = labels_of(atoms)
        account = json.loads(atoms.info[ACCOUNT]) if ACCOUNT in atoms.info else None
        reasons.append(
            objection(atoms, label.energy, label.forces, None, QualityGate(), isolated, evidence=account)
        )
    for start in range(0, len(case.given), batch):
        passed = [i for i in range(start, min(start + batch, len(reasons))) if reasons[i] is None]
        found = audit([case.given[i] for i in passed], [case.expected[i] for i in passed])
        for i, why in zip(passed, found, strict=True):
            reasons[i] = why
    return reasons


def measure(
    structures: list[Atoms],
    expected: list[Prediction],
    spoils: dict[str, tuple[list[int], Spoil]],
    isolated: dict[str, float],
    *,
    share: float,
    seeds: int,
    batch: int,
) -> dict[str, Any]:
    """Recall and false positives over several draws at one batch size."""
    hits: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    wrong, honest = [], 0
    for seed in range(seeds):
        case = draw(structures, expected, spoils, share, seed)
        reasons = accused(case, isolated, batch)
        for atoms, kind, why in zip(case.given, case.kinds, reasons, strict=True):
            if kind is None:
                honest += 1
                wrong += [why] if why is not None else []
            else:
                hits[kind][0] += why is not None
                hits[kind][1] += 1
                size = str(atoms.info.get("wrong_by", ""))
                if size:
                    hits[f"{kind}: {size}"][0] += why is not None
                    hits[f"{kind}: {size}"][1] += 1
    found, spoiled = (sum(hits[name][i] for name in spoils) for i in (0, 1))
    return {
        "batch": batch,
        "honest": honest,
        "spoiled": spoiled,
        "recall": found / spoiled,
        "false_positives": len(wrong) / honest,
        "by_kind": {
            name: hits[name]
            for name in sorted(hits, key=lambda one: (list(spoils).index(one.partition(": wrong")[0]), one))
        },
        "wrongly": dict(sorted(_count(why.split(" is ")[0] for why in wrong).items())),
    }


def _count(words: Any) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for word in words:
        counts[word] += 1
    return counts


def table(rows: list[dict[str, Any]], notes: list[str], heading: str) -> str:
    """The figures as Markdown."""
    lines = [heading, "", *notes, "", "| labels in a batch | spoiled | recall | honest | false positives |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {row['batch']} | {row['spoiled']} | {row['recall']:.1%} | {row['honest']} "
        f"| {row['false_positives']:.2%} |"
        for row in rows
    ]
    batches = " | ".join(f"batch {row['batch']}" for row in rows)
    lines += ["", f"| found, spoiled how | {batches} |", "|---|" + "---|" * len(rows)]
    for name in rows[0]["by_kind"]:
        cells = " | ".join("{} of {}".format(*row["by_kind"][name]) for row in rows)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def ways(
    structures: list[Atoms], cache: Path, *, account: bool
) -> tuple[dict[str, tuple[list[int], Spoil]], dict[str, float], list[Atoms]]:
    """How labels are spoiled and whom each way may befall; isolated atoms; what PySCF computed."""
    computed_labels = read_structures(cache)
    for one in computed_labels:
        if one.info["spoiled"] == "unconverged":
            large = force_error(one, structures) > LARGE
            one.info["wrong_by"] = f"wrong by {'more' if large else 'less'} than {1000 * LARGE:.0f} meV/Å"
    known = {(int(one.info["number"]), str(one.info["spoiled"])): one for one in computed_labels}
    if not account:
        known = {key: _without_account(one) for key, one in known.items()}
    atoms = {str(one.info["spoiled"]): one for one in computed_labels if len(one) == 1}
    isolated = {symbol: float(labels_of(atoms[f"atom {symbol}"]).energy) for symbol in ATOMS}
    shifts = {
        symbol: float(labels_of(atoms[f"wrong {symbol}"]).energy) - isolated[symbol]
        for symbol in ATOMS
        if f"wrong {symbol}" in atoms
    }
    everyone = list(range(len(structures)))
    numbers = {
        name: sorted({number for number, kind in known if kind in kinds and number >= 0})
        for name, kinds in (("functional", FUNCTIONALS), ("unconverged", ("unconverged",)))
    }
    return (
        {
            "units: Hartree, Hartree/Bohr": (everyone, energy_in_hartree),
            "units: forces in Hartree/Bohr": (everyone, forces_in_hartree),
            "sign: gradients for forces": (everyone, gradients),
            "other functional or basis (PySCF)": (
                numbers["functional"],
                computed(known, tuple(FUNCTIONALS)),
            ),
            "unconverged (PySCF stopped early)": (numbers["unconverged"], computed(known, ("unconverged",))),
            "isolated atom in the wrong state (PySCF)": (everyone, wrong_atom(shifts)),
        },
        isolated,
        computed_labels,
    )


def _without_account(atoms: Atoms) -> Atoms:
    plain = atoms.copy()
    plain.info.pop(ACCOUNT, None)
    return plain


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("data")
    parser.add_argument("--prepare", type=Path, help="compute the spoiled labels with PySCF into this file")
    parser.add_argument("--spoiled", type=Path, help="the file that --prepare left")
    parser.add_argument("--share", type=float, default=0.15)
    parser.add_argument("--count", type=int, default=800, help="structures, from the beginning of the file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[5, 12, 25, 100, 800])
    parser.add_argument("--describe", help="the potential, for the table")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    structures = read_structures(arguments.data)[: arguments.count]
    for number, one in enumerate(structures):
        one.info["number"] = number
    if arguments.prepare is not None:
        prepare(structures, arguments.prepare)
        return
    expected = expect(arguments.bundle, structures)
    gaps = [labels_of(a).forces - p.forces for a, p in zip(structures, expected, strict=True)]
    error = 1000 * float(np.mean([np.mean(np.abs(gap)) for gap in gaps]))
    pages, figures = [], {"forces_mae": error}
    for account in (True, False):
        spoils, isolated, cache = ways(structures, arguments.spoiled, account=account)
        options = {"share": arguments.share, "seeds": arguments.seeds}
        rows = [
            measure(structures, expected, spoils, isolated, batch=batch, **options)
            for batch in arguments.batches
        ]
        figures["with account" if account else "without account"] = rows
        heading = (
            "# Spoiled labels among honest ones" if account else "## The same, the program's account lost"
        )
        notes = _notes(arguments, len(structures), error, cache) if account else [_lost(structures, cache)]
        pages.append(table(rows, notes, heading))
    text = "\n".join(pages)
    print(text)
    if arguments.write:
        RESULTS.write_text(text)
    print(json.dumps(figures))


def _notes(arguments: argparse.Namespace, count: int, error: float, cache: Sequence[Atoms]) -> list[str]:
    kinds = _count(str(one.info["spoiled"]) for one in cache if len(one) > 1)
    computed_ones = ", ".join(f"{number} {name}" for name, number in sorted(kinds.items()))
    return [
        f"`label_corruptions.py BUNDLE DATA --spoiled CACHE --write`; {count} published labels of "
        f"{Path(arguments.data).name.split('.')[0]}, {arguments.seeds} draws, "
        f"{arguments.share:.0%} of the labels spoiled, as many each way.",
        f"Potential: {arguments.describe or Path(arguments.bundle).name}; force MAE {error:.0f} meV/Å on the "
        "honest labels, which it was not trained on.",
        f"Computed by PySCF for this: {computed_ones}. Asked for: recall ≥ 95 %, false positives ≤ 1 %.",
        "Wrong isolated atom: the energy is put together with that of a C or O atom in the wrong spin "
        "state (PySCF). That an isolated atom's own record is wrong shows in `max_binding_energy` alone.",
        "Gate: what a label shows by itself with the program's account, then the audit of its batch.",
    ]


def _lost(structures: Sequence[Atoms], cache: Sequence[Atoms]) -> str:
    """How wrong the labels are that were stopped early: some are wrong by less than a potential's error."""
    gaps = [force_error(one, structures) for one in cache if one.info["spoiled"] == "unconverged"]
    quartiles = ", ".join(f"{1000 * value:.0f}" for value in np.quantile(gaps, (0, 0.25, 0.5, 0.75, 1)))
    return (
        "Labels whose field was stopped early, with nothing left that says so (as in a file from elsewhere): "
        f"their forces are wrong by {quartiles} meV/Å (root mean square; smallest, quartiles, largest)."
    )


def force_error(spoiled: Atoms, structures: Sequence[Atoms]) -> float:
    """Root mean square difference of a spoiled label's forces from the honest ones, eV/Å."""
    honest = labels_of(structures[int(spoiled.info["number"])]).forces
    return float(np.sqrt(np.mean(np.square(labels_of(spoiled).forces - honest))))


if __name__ == "__main__":
    main()
