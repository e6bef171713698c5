"""Train one of the kept potentials from the published data by its family's recipe.

    python benchmarks/potentials/train.py rmd17-ethanol-50 --work runs
    python benchmarks/potentials/train.py rmd17-ethanol-50 --seed 2 --members 2 --add
    python benchmarks/potentials/train.py --list

Where a potential has several recipes, their weights in the mean are those that err least on every fifth
training structure, left out of further trainings (``left_out.py``). Leaves ``WORK/NAME/`` (the run of ``gace
train``, which an interrupted call goes on with) and copies bundle, configuration and training log to
``benchmarks/potentials/NAME/``. Data are read from the folder that GACE_BENCHMARK_DATA names (default:
``shared/data`` beside the repository).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GACE_BENCHMARK_DATA", HERE.parents[2] / "shared/data"))


class Task(NamedTuple):
    """Which structures of which file a potential learns from."""

    recipes: tuple[str, ...]
    """One training each; the kept potential is their weighted mean."""
    file: str
    train: str
    """Slice of the file."""
    validation: str
    isolated_atoms: str | None
    test: str


def _rmd17(molecule: str, train: str, validation: str) -> Task:
    folder = f"rMD17/{molecule}"
    return Task(
        ("molecules",),
        f"{folder}/train_01.xyz.gz",
        train,
        validation,
        "rMD17/isolated_atoms.xyz",
        f"{folder}/test_01.xyz.gz",
    )


def _mlearn(element: str) -> Task:
    folder = f"mlearn_{element}"
    return Task(
        ("crystals-linear", "crystals"), f"{folder}/train.xyz.gz", ":", "::10", None, f"{folder}/test.xyz"
    )


TASKS = {
    "acac-300K": Task(
        ("molecules",),
        "AcAc/train_300K.xyz.gz",
        ":450",
        "450:",
        "AcAc/isolated_atoms.xyz",
        "AcAc/test_MD_300K.xyz.gz",
    ),
    "3bpa-300K": Task(
        ("molecules",),
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
    parser.add_argument("--members", type=int, default=1, help="trainings from seed on; all are kept as one")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        help="go on from the pretraining of this run below WORK: it looks at no label, so that of the same "
        "molecule with fewer structures will do",
    )
    parser.add_argument("--no-copy", action="store_true", help="leave benchmarks/potentials alone")
    parser.add_argument(
        "--add",
        action="store_true",
        help="graph ACEs of more seeds beside those that are kept, which stay as they are",
    )
    args = parser.parse_args()
    if args.list or args.name is None:
        print("\n".join(sorted(TASKS)))
        return
    from gace.training.run import train

    task, out = TASKS[args.name], args.work / args.name
    runs = []
    for recipe in task.recipes[-1:] if args.add else task.recipes:
        config = configuration(task, out, recipe)
        if args.seed is not None:
            config["seed"] = args.seed
        linear = config["potential"]["preset"].startswith("linear-")
        if args.steps is not None and not linear:
            config["training"]["max_steps"] = args.steps
        asked = config
        if args.pretrained is not None and not linear:
            start = args.work / args.pretrained / "run" / "pretraining" / "run" / "potential"
            config = {**asked, "potential": {**asked["potential"], "start_from": str(start)}}
            config.pop("pretraining", None)
        first = config["seed"]
        for member in range(1 if linear else args.members):  # least squares have no seed
            folder = "run" if recipe == task.recipes[0] else recipe
            run = out / (folder if member == 0 else f"{folder}-{member + 1}")
            result = train({**config, "seed": first + member}, run, progress=False)
            line = {"name": args.name, "recipe": recipe, "seed": first + member, **result.metrics}
            print(json.dumps({**line, "core_seconds": result.core_seconds}), flush=True)
            runs.append(Run(recipe, {**asked, "seed": first + member}, result.bundle))
    if args.add:
        if not args.no_copy:
            add(args.name, runs)
        return
    weights = None
    if len(task.recipes) > 1:
        from left_out import trained_without

        from gace.potential.combination import fitted_weights

        weights = fitted_weights(*trained_without(args.name, args.work))
        print(json.dumps({"name": args.name, "weights": weights}), flush=True)
    if not args.no_copy:
        keep(args.name, runs, args.pretrained, weights)


class Run(NamedTuple):
    """One finished training."""

    recipe: str
    config: dict[str, Any]
    bundle: Path


def configuration(task: Task, out: Path, recipe: str | None = None) -> dict[str, Any]:
    """The configuration of ``gace train`` by one of the task's recipes (the first).

    Its data are written to ``out/data``.
    """
    from gace.structures.io import read_structures, write_structures

    if not (DATA / task.file).exists():
        sys.exit(f"error: {DATA / task.file} is absent: set GACE_BENCHMARK_DATA to the folder of the data")
    (out / "data").mkdir(parents=True, exist_ok=True)
    for part in ("train", "validation"):
        write_structures(out / f"data/{part}.xyz", read_structures(DATA / task.file, getattr(task, part)))
    config: dict[str, Any] = yaml.safe_load(
        (HERE / "recipes" / f"{recipe or task.recipes[0]}.yaml").read_text()
    )
    files = {part: str(out / f"data/{part}.xyz") for part in ("train", "validation")}
    config["data"] = {**config.get("data", {}), **files}
    if task.isolated_atoms is not None:
        config["data"]["isolated_atoms"] = str(DATA / task.isolated_atoms)
    return config


def keep(
    name: str, runs: list[Run], pretrained: str | None = None, weights: list[float] | None = None
) -> None:
    """Bundle (the mean of all), configurations and validated epochs to ``benchmarks/potentials/NAME``.

    Configurations are ``training.yaml``, ``training-2.yaml`` and so on, one for each recipe.
    """
    import gace
    from gace.potential import combine, save_bundle

    kept = HERE / name
    shutil.rmtree(kept, ignore_errors=True)
    # least squares leave double precision, which the coefficients do not need
    several = [gace.load(run.bundle, device="cpu", dtype="float32") for run in runs]
    whole = combine(several, weights) if len(several) > 1 else several[0]
    save_bundle(whole, kept)
    documents: dict[str, str] = {}
    for number, run in enumerate(runs):
        _keep_logs(kept, run, number)
        order = run.config["data"].get("stress_order")
        own = {} if order is None else {"stress_order": order}
        content = {**run.config, "data": TASKS[name]._asdict() | {"folder": "GACE_BENCHMARK_DATA"} | own}
        content["data"]["recipes"] = list(TASKS[name].recipes)
        documents.setdefault(run.recipe, yaml.safe_dump(content, sort_keys=False))
    for number, (recipe, text) in enumerate(documents.items(), start=1):
        if pretrained is not None:
            text += f"# the pretraining is that of {pretrained}\n"
        seeds = [str(run.config["seed"]) for run in runs if run.recipe == recipe]
        if len(runs) > 1:
            text += f"# {recipe}: {len(seeds)} of {len(runs)} members, seeds {', '.join(seeds)}\n"
        if weights is not None:
            text += f"# weight in the mean {weights[number - 1]:g}\n"
        (kept / f"training{'' if number == 1 else f'-{number}'}.yaml").write_text(text)


def add(name: str, runs: list[Run]) -> None:
    """More seeds of the graph ACE to ``benchmarks/potentials/NAME``; they share the weight that it has."""
    from seeds import with_more

    import gace
    from gace.errors import InputError
    from gace.potential import save_bundle

    kept = HERE / name
    before = gace.load(kept, device="cpu", dtype="float32")
    there = len(before.members)
    more = [gace.load(run.bundle, device="cpu", dtype="float32") for run in runs]
    try:
        whole = with_more(before, more)
    except InputError as problem:
        sys.exit(f"error: {name} is left as it is: {problem}")
    # saving replaces what else is in the folder
    others = {file.name: file.read_text() for file in kept.iterdir() if file.suffix in (".jsonl", ".yaml")}
    save_bundle(whole, kept)
    for file, text in others.items():
        (kept / file).write_text(text)
    for number, run in enumerate(runs, start=there):
        _keep_logs(kept, run, number)
    recipe = kept / ("training.yaml" if len(TASKS[name].recipes) == 1 else "training-2.yaml")
    seeds = ", ".join(str(run.config["seed"]) for run in runs)
    own = ", each with walks and a pretraining of its own" if "pretraining" in runs[0].config else ""
    recipe.write_text(recipe.read_text() + f"# and {runs[0].recipe} with seeds {seeds}{own}\n")


def _keep_logs(kept: Path, run: Run, number: int) -> None:
    """The log of a member, and that of its pretraining if it had one of its own."""
    member = "" if number == 0 else f"-{number + 1}"
    for log, folder in (
        ("metrics", run.bundle.parent),
        ("metrics-pretraining", run.bundle.parent / "pretraining/run"),
    ):
        if not (folder / "metrics.jsonl").exists():
            continue
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        # hundreds of short epochs say little: those that were validated do
        told = [line for line in lines if '"validation"' in line] or lines
        (kept / f"{log}{member}.jsonl").write_text("".join(told))


if __name__ == "__main__":
    main()
