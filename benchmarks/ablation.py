"""What each choice in the small preset is worth: one change at a time, the same training, the same test.

    python benchmarks/ablation.py --steps 3000 --out benchmarks/results/ablation.md

Trains on the first 50 (``--structures 950``) geometries of rMD17 ethanol (the preset's architecture and the
losses of the recipe for molecules, from scratch, at the rate of new models, ``--steps`` steps) and reports
mean absolute errors on every fifth structure of ``test_01``. One seed each unless ``--seeds`` says more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "potentials"))

VARIANTS: dict[str, dict[str, Any]] = {
    "as the preset": {},
    "Adam": {"training": {"optimizer": "adam"}},
    "Muon at three times the rate": {"training": {"learning_rate": 0.1}},
    "core repulsion up to the covalent radii": {"overrides": {"core_reach": 1.0}},
    "no inner cutoffs": {"overrides": {"inner_cutoffs": None}},
    "no core repulsion": {"overrides": {"core_repulsion": False}},
    "no decay of the radial basis": {"overrides": {"radial_decay": 0.0}},
    "no decay with order and degree": {"overrides": {"order_decay": 1.0, "degree_decay": 1.0}},
    "no prior of smoothness at all": {
        "overrides": {"radial_decay": 0.0, "order_decay": 1.0, "degree_decay": 1.0}
    },
    "absolute learning rate 0.02": {
        "training": {"optimizer": "adam", "learning_rate": 0.02, "learning_rate_unit": "absolute"}
    },
    "T = 1 (star)": {"overrides": {"l_max": [3]}},
    "T = 3 (l_max 3, 2, 2)": {"overrides": {"l_max": [3, 2, 2]}},
    "order 1": {"overrides": {"order": 1}},
    "order 2": {"overrides": {"order": 2}},
    "order 4": {"overrides": {"order": 4}},
    "l_max 1, 1": {"overrides": {"l_max": [1, 1]}},
    "l_max 2, 2": {"overrides": {"l_max": [2, 2]}},
    "l_max 4, 3": {"overrides": {"l_max": [4, 3]}},
    "L_I = 0": {"overrides": {"l_message": 0}},
    "16 channels": {"overrides": {"channels": 16}},
    "64 channels": {"overrides": {"channels": 64}},
    "MACE-like truncation (T = 2, order 3, l_max 3, 3, L_I = 1)": {"overrides": {"l_max": [3, 3]}},
    "NequIP-like truncation (T = 4, order 1, l_max 2, L_I = 2)": {
        "overrides": {"l_max": [2, 2, 2, 2], "order": 1, "l_message": 2}
    },
    "L_I = 2": {"overrides": {"l_message": 2}},
    "L_I = 2, l_max 3, 3": {"overrides": {"l_max": [3, 3], "l_message": 2}},
    "L_I = 3, l_max 3, 3": {"overrides": {"l_max": [3, 3], "l_message": 3}},
    "order_decay 0.03": {"overrides": {"order_decay": 0.03}},
    "order_decay 0.3, degree_decay 0.7": {"overrides": {"order_decay": 0.3, "degree_decay": 0.7}},
    "the recipe: 64 channels, L_I = 2, l_max 3, 3, order_decay 0.03": {
        "overrides": {"channels": 64, "l_max": [3, 3], "l_message": 2, "order_decay": 0.03}
    },
}


def measure(variant: dict[str, Any], steps: int, seed: int, structures: int = 50) -> dict[str, float]:
    """Errors (energy meV, forces meV/Å) and core seconds of one variant."""
    from train import DATA, TASKS

    import gace
    from gace.evaluation import evaluate
    from gace.structures.io import read_structures, write_structures
    from gace.training.run import train

    task = TASKS[f"rmd17-ethanol-{structures}"]
    if not (DATA / task.file).exists():
        sys.exit(f"error: {DATA / task.file} is absent: set GACE_BENCHMARK_DATA to the folder of the data")
    config = yaml.safe_load((HERE / "potentials/recipes/molecules.yaml").read_text())
    config["potential"]["overrides"] = variant.get("overrides", {})
    # architectures are compared from scratch, so not at the small rate that follows a pretraining
    del config["pretraining"]
    config["training"].pop("learning_rate", None)
    config["training"] |= {"max_steps": steps} | variant.get("training", {})
    config["seed"] = seed
    with tempfile.TemporaryDirectory() as folder:
        write_structures(Path(folder) / "train.xyz", read_structures(DATA / task.file, task.train))
        config["data"] = {
            "train": str(Path(folder) / "train.xyz"),
            "isolated_atoms": str(DATA / str(task.isolated_atoms)),
        }
        result = train(config, Path(folder) / "run", progress=False)
        found = evaluate(gace.load(result.bundle), read_structures(DATA / task.test, "::5"))
    return {
        "energy": found["energy"]["mae"],
        "forces": found["forces"]["mae"],
        "core_seconds": result.core_seconds,
    }


def main() -> None:
    """Train, evaluate and print, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--structures", type=int, choices=[50, 950], default=50, help="to train on")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=sorted(VARIANTS), help="these rows only")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    lines = ["| variant | energy, meV | forces, meV/Å | core seconds |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    rows = {}
    for name in args.only or VARIANTS:
        seeds = range(1, args.seeds + 1)
        runs = [measure(VARIANTS[name], args.steps, seed, args.structures) for seed in seeds]
        rows[name] = runs
        cells = []
        for key in ("energy", "forces"):
            values = [one[key] for one in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        seconds = statistics.mean(one["core_seconds"] for one in runs)
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    if args.json:
        print(json.dumps({"steps": args.steps, "rows": rows}))


if __name__ == "__main__":
    main()
