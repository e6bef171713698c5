"""Learning curve of a finished campaign on data it never saw.

    python benchmarks/campaign_curve.py demo --data rMD17/ethanol/test_01.xyz.gz

Loads every registered version of the campaign's potential from its MLflow store, evaluates it on an
independent test set, and prints one row per generation. Test sets are looked for below
``GACE_BENCHMARK_DATA`` (default ``../shared/data``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def find_data(name: str) -> Path:
    """The test set, as given or below the folder of the benchmark data."""
    folder = Path(os.environ.get("GACE_BENCHMARK_DATA", ROOT.parent / "shared" / "data"))
    for path in (Path(name), folder / name):
        if path.exists():
            return path
    sys.exit(
        f"no such file: {name} (nor below {folder}). rMD17 is published as andersx/rmd17-npz (CC0): convert "
        "its splits to extended XYZ with REF_energy [eV] and REF_forces [eV/Å] and set GACE_BENCHMARK_DATA."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", type=Path, help="folder of a finished campaign")
    parser.add_argument("--data", default="rMD17/ethanol/test_01.xyz.gz")
    parser.add_argument("--every", type=int, default=1, help="use every n-th structure only")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    arguments = parser.parse_args()
    summary = json.loads((arguments.campaign / "summary.json").read_text())
    os.environ["MLFLOW_TRACKING_URI"] = summary["mlflow"]
    data = find_data(arguments.data)

    import torch

    import gace
    from gace.structures.io import read_structures

    structures = read_structures(data)[:: arguments.every]
    rows = []
    print(f"{data.name}: {len(structures)} structures; {platform.processor()} torch {torch.__version__}")
    print(" gen  labels  exam F   test F MAE  RMSE   test E MAE  shifted   champion   (meV, meV/Å)")
    for point in summary["learning_curve"]:
        potential = gace.load(f"models:/{summary['campaign']}/{point['version']}", dtype="float32")
        errors = gace.evaluate(potential, structures)
        row = {
            "generation": point["generation"],
            "labels": point["labels"],
            "exam_forces_mae": point["forces_mae"],
            "forces_mae": errors["forces"]["mae"],
            "forces_rmse": errors["forces"]["rmse"],
            "energy_mae": errors["energy"]["mae"],
            "energy_shifted_mae": errors["energy_shifted"]["mae"],
            "champion": point["champion"],
        }
        rows.append(row)
        print(
            f"{row['generation']:4d}  {row['labels']:6d}  {row['exam_forces_mae'] or float('nan'):6.1f}  "
            f"{row['forces_mae']:10.2f}  {row['forces_rmse']:6.2f}  {row['energy_mae']:9.2f}  "
            f"{row['energy_shifted_mae']:8.2f}   {'yes' if row['champion'] else 'no'}"
        )
    if arguments.out:
        record = {"data": data.name, "n_structures": len(structures), "summary": summary, "rows": rows}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
