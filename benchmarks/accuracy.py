"""Errors of the kept potentials on the published tests, beside the published errors.

    python benchmarks/accuracy.py [NAME …] --out benchmarks/results/accuracy.md

Every bundle under ``benchmarks/potentials`` is evaluated by the same function as ``gace evaluate``. The test
of ``3bpa-300K`` is a *proxy* (``train_mixedT`` less what it shares with the training file): the published
test files are not to be had here, so its errors do not compare with published ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "potentials"))

# energy meV / force meV/Å as published, RMSE for AcAc and 3BPA, MAE for rMD17
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "acac-300K": {"MACE": (0.9, 5.1), "NequIP": (0.81, 5.90), "PACE": (0.73, 4.2)},
    "rmd17-ethanol-950": {"MACE": (0.4, 2.1), "NequIP": (0.4, 2.8), "ACE": (1.2, 7.3)},
    "rmd17-ethanol-50": {"MACE": (6.7, 32.6), "NequIP": (8.7, 40.2), "ACE": (8.6, 43.0)},
    "rmd17-aspirin-950": {"MACE": (2.2, 6.6), "NequIP": (2.3, 8.2), "ACE": (6.1, 17.9)},
    "rmd17-aspirin-50": {"MACE": (17.0, 43.9), "NequIP": (19.5, 52.0), "ACE": (26.2, 63.8)},
}


def test_structures(name: str) -> list[Any]:
    """The structures a potential is judged by."""
    from train import DATA, TASKS

    from gace.structures.identity import structure_hash
    from gace.structures.io import read_structures

    task = TASKS[name]
    if not (DATA / task.test).exists():
        sys.exit(f"error: {DATA / task.test} is absent: set GACE_BENCHMARK_DATA to the folder of the data")
    structures = read_structures(DATA / task.test)
    if name == "3bpa-300K":
        seen = {structure_hash(one) for one in read_structures(DATA / task.file)}
        structures = [one for one in structures if structure_hash(one) not in seen]
    return [one for one in structures if len(one) > 1]


def row(name: str) -> dict[str, Any]:
    """Errors of one kept potential, in the published measure."""
    import gace
    from gace.evaluation import evaluate

    folder = HERE / "potentials" / name
    found = evaluate(gace.load(folder), test_structures(name))
    kind = "mae" if name.startswith("rmd17") else "rmse"
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    return {
        "name": name,
        "measure": kind.upper(),
        "structures": found["n_structures"],
        "energy": found["energy"][kind],
        "energy_per_atom": found["energy_per_atom"][kind],
        "forces": found["forces"][kind],
        "stress": found["stress"][kind] if found["stress"] else None,
        "megabytes": round(size, 2),
        "published": PUBLISHED.get(name, {}),
    }


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    from train import TASKS

    kept = [name for name in TASKS if (HERE / "potentials" / name / "config.json").exists()]
    unknown = sorted(set(args.names) - set(kept))
    if unknown:
        sys.exit(f"error: no kept potential called {', '.join(unknown)}; there are: {', '.join(kept)}")
    rows = [row(name) for name in args.names or kept]
    lines = [
        "| potential | measure | structures | energy, meV | meV/atom | forces, meV/Å | stress, meV/Å³ "
        "| published, energy / forces |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        published = ", ".join(f"{who} {e:g} / {f:g}" for who, (e, f) in one["published"].items())
        stress = "" if one["stress"] is None else f"{one['stress']:.2f}"
        lines.append(
            f"| {one['name']} | {one['measure']} | {one['structures']} | {one['energy']:.2f} | "
            f"{one['energy_per_atom']:.3f} | {one['forces']:.2f} | {stress} | {published} |"
        )
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    if args.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
