"""Train one of the kept potentials from the published data by its family's recipe.

    python benchmarks/potentials/train.py rmd17-ethanol-50 --work runs
    python benchmarks/potentials/train.py --list

Leaves ``WORK/NAME/`` (the run of ``gace train``, which an interrupted call goes on with) and copies bundle,
configuration and training log to ``benchmarks/potentials/NAME/``. Data are read from the folder that
GACE_BENCHMARK_DATA names (default: ``shared/data`` beside the repository).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GACE_BENCHMARK_DATA", HERE.parents[2] / "shared/data"))


class Task(NamedTuple):
    """Which structures of which file a potential learns from."""

    recipe: str
    file: str
    train: str
    """Slice of the file."""
    validation: str
    isolated_atoms: str | None
    test: str


def _rmd17(molecule: str, train: str, validation: str) -> Task:
    folder = f"rMD17/{molecule}"
    return Task(
        "molecules",
        f"{folder}/train_01.xyz.gz",
        train,
        validation,
        "rMD17/isolated_atoms.xyz",
        f"{folder}/test_01.xyz.gz",
    )


def _mlearn(element: str) -> Task:
    folder = f"mlearn_{element}"
    return Task("crystals", f"{folder}/train.xyz.gz", ":", "::10", None, f"{folder}/test.xyz")


TASKS = {
    "acac-300K": Task(
        "molecules",
        "AcAc/train_300K.xyz.gz",
        ":450",
        "450:",
        "AcAc/isolated_atoms.xyz",
        "AcAc/test_MD_300K.xyz.gz",
    ),
    "3bpa-300K": Task(
        "molecules",
        "3BPA/train_300K.xyz.gz",
        ":450",
        "450:",
        "3BPA/isolated_atoms.xyz",
        "3BPA/train_mixedT.xyz.gz",
    ),
    "rmd17-ethanol-50": _rmd17("ethanol", ":50", "50:100"),
    "rmd17-ethanol-950": _rmd17("ethanol", ":950", "950:1000"),
    "rmd17-aspirin-50": _rmd17("aspirin", ":50", "50:100"),
    "rmd17-aspirin-950": _rmd17("aspirin", ":950", "950:1000"),
    "mlearn-Si": _mlearn("Si"),
    "mlearn-Mo": _mlearn("Mo"),
    "mlearn-Li": _mlearn("Li"),
}


def main() -> None:
    """Train and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=sorted(TASKS))
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder for the run itself")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--no-copy", action="store_true", help="leave benchmarks/potentials alone")
    args = parser.parse_args()
    if args.list or args.name is None:
        print("\n".join(sorted(TASKS)))
        return
    from gace.structures.io import read_structures, write_structures
    from gace.training.run import train

    task = TASKS[args.name]
    if not (DATA / task.file).exists():
        sys.exit(f"error: {DATA / task.file} is absent: set GACE_BENCHMARK_DATA to the folder of the data")
    out = args.work / args.name
    (out / "data").mkdir(parents=True, exist_ok=True)
    for part in ("train", "validation"):
        write_structures(out / f"data/{part}.xyz", read_structures(DATA / task.file, getattr(task, part)))
    config = yaml.safe_load((HERE / "recipes" / f"{task.recipe}.yaml").read_text())
    config["data"] = {"train": str(out / "data/train.xyz"), "validation": str(out / "data/validation.xyz")}
    if task.isolated_atoms is not None:
        config["data"]["isolated_atoms"] = str(DATA / task.isolated_atoms)
    if args.seed is not None:
        config["seed"] = args.seed
    if args.steps is not None:
        config["training"]["max_steps"] = args.steps
    result = train(config, out / "run", progress=False)
    print(json.dumps({"name": args.name, **result.metrics, "core_seconds": result.core_seconds}))
    if args.no_copy:
        return
    kept = HERE / args.name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(result.bundle, kept)
    shutil.copy(out / "run/metrics.jsonl", kept / "metrics.jsonl")
    config["data"] = task._asdict() | {"folder": "GACE_BENCHMARK_DATA"}
    (kept / "training.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


if __name__ == "__main__":
    main()
