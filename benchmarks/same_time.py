"""Errors of gace and its peers after the same processor time of training on one core, on the same files.

    python benchmarks/same_time.py mlearn-Si --seconds 300 --peer mace=PEERS/mace/bin/python --out table.md

Data and recipe are those of the kept potential of that name (`benchmarks/potentials/train.py --list`),
without pretraining: all see the reference labels alone. Where the components of shear stresses stand in
another order than their key says, they are put right in both files, for all. The clock counts the steps of
training; importing, reading, making neighbour lists and compiling are not counted for any. Each round trains
gace and then the peers, with other seeds. ``--ours-seconds`` gives gace another time than the peers. With
``--whole`` gace trains what a kept crystal consists of (every recipe of the family, graph ACEs of three
seeds, weights by left-out structures) in the time that takes, reading included; with ``--kept`` the kept
potential stands in the place of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "potentials"))
PEERS = {
    "mace": "mace_accuracy.py",
    "nequip": "nequip_accuracy.py",
    "tp": "tensorpotential_accuracy.py",
}
QUANTITIES = {"energy": "energy, meV", "forces": "forces, meV/Å", "stress": "stress, meV/Å³"}


class Files(NamedTuple):
    """What all are trained and tested on."""

    train: Path
    test: Path


def files(name: str, out: Path) -> Files:
    """Training and test structures, in ``out``, with stresses in the order their key says."""
    from train import DATA, TASKS, configuration

    from gace.structures.io import labels_of, read_structures, write_structures
    from gace.training.stress_order import corrected, in_order

    configuration(TASKS[name], out)
    written = Files(out / "data/train.xyz", out / "data/test.xyz")
    train, found = in_order(read_structures(written.train))
    for one in found:
        print(f"{name}: {one}", file=sys.stderr)
    test = read_structures(DATA / TASKS[name].test)
    write_structures(written.train, train)
    write_structures(written.test, corrected(test, [labels_of(atoms) for atoms in test], found)[0])
    return written


def kept(name: str, test: Path) -> dict[str, Any]:
    """Errors of the kept potential; what its trainings took is in `benchmarks/results/accuracy.md`."""
    import torch

    import gace
    from gace.structures.io import read_structures

    torch.set_num_threads(1)
    potential = gace.load(HERE / "potentials" / name, device="cpu")
    found = gace.evaluate(potential, read_structures(test))
    return {
        "package": f"gace, kept ({len(potential.members)} members)",
        "cpu_seconds": "",
        "updates": "",
        **_sizes_and_errors(potential, found),
    }


def whole(name: str, test: Path, seed: int, out: Path) -> dict[str, Any]:
    """Train all that a kept crystal is the mean of: `potentials/train.py NAME`, then twice ``--add``.

    The time is all that this process spent from the first training to the last, reading included.
    """
    import torch
    from left_out import trained_without
    from seeds import with_more
    from train import TASKS, configuration

    import gace
    from gace.potential.combination import combine, fitted_weights
    from gace.structures.io import read_structures

    torch.set_num_threads(1)
    task = TASKS[name]
    if len(task.recipes) == 1:
        sys.exit(
            f"error: --whole {name}: it is no crystal, and its recipe has a pretraining, which peers lack"
        )
    begun = time.process_time()

    def trained(recipe: str, number: int) -> Any:
        config = {**configuration(task, out, recipe), "seed": number, "threads": 1}
        return gace.load(
            gace.train(config, out / f"{recipe}-{number}", progress=False).bundle, dtype="float32"
        )

    weights = fitted_weights(*trained_without(name, out, threads=1))
    first = combine([trained(recipe, seed) for recipe in task.recipes], weights)
    potential = with_more(first, [trained(task.recipes[-1], seed + more) for more in (1, 2)])
    spent = time.process_time() - begun
    return {
        "package": f"gace, whole ({len(potential.members)} members)",
        "cpu_seconds": round(spent),
        "updates": "",
        **_sizes_and_errors(potential, gace.evaluate(potential, read_structures(test))),
    }


def _sizes_and_errors(potential: Any, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": sum(one.numel() for member in potential.members for one in member.parameters()),
        **{key: found[key] for key in ("energy", "energy_per_atom", "forces", "stress")},
    }


def ours(
    name: str, test: Path, recipe: str | None, seconds: float, seed: int, overrides: list[str]
) -> dict[str, Any]:
    """Train by a recipe of the family for so many CPU seconds; errors on the test file.

    Least squares take what they take: neither more nor less.
    """
    import torch
    from learning import FOREVER, BudgetedTrainer, drive, prepare
    from train import TASKS, configuration

    import gace
    from gace.config import apply_override, parse_config
    from gace.potential.potential import Potential
    from gace.structures.io import read_structures
    from gace.training.config import TrainConfig
    from gace.training.model import is_linear

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        content = configuration(TASKS[name], out, recipe)
        content.pop("pretraining", None)
        content["seed"], content["threads"] = seed, 1
        training = content["training"]
        for key in ("max_steps", "learning_rate"):  # the rate of a model that goes on is not for a new one
            training.pop(key, None)
        training |= {"max_epochs": FOREVER, "checkpoint_seconds": FOREVER, "validate_every": FOREVER}
        for override in overrides:
            apply_override(content, override)
        config = parse_config(content, TrainConfig).with_learning_rate()
        if is_linear(config):
            result = gace.train(config, out / "run", progress=False)
            spent, steps = result.core_seconds, 1
            potential = gace.load(result.bundle, device="cpu")
        else:
            trainer, data, _, _ = prepare(config, out, BudgetedTrainer)
            trainer.begin(seconds)
            drive(trainer, out, trainer.used_up)
            spent, steps = trainer.spent, trainer.step
            potential = Potential([trainer.result()], isolated_atom_energies=data.isolated_atoms)
    found = gace.evaluate(potential, read_structures(test))
    return {
        "package": "gace",
        "cpu_seconds": round(spent),
        "updates": steps,
        **_sizes_and_errors(potential, found),
    }


def theirs(name: str, written: Files, seconds: float, seed: int, peer: str, python: str) -> dict[str, Any]:
    """The same by a peer, in its own environment."""
    from train import DATA, TASKS

    task = TASKS[name]
    command = [python, str(HERE / PEERS[peer]), str(written.train), str(written.test)]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
    if task.isolated_atoms is not None:
        command += ["--isolated-atoms", str(DATA / task.isolated_atoms)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"error: {peer} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def peers_of(given: list[str]) -> dict[str, str]:
    """Python of each peer, from ``NAME=PYTHON`` or the environment (``GACE_PEER_MACE`` and so on)."""
    found = {
        peer: os.environ[variable]
        for peer in PEERS
        if (variable := f"GACE_PEER_{peer.upper()}") in os.environ
    }
    for one in given:
        peer, _, python = one.partition("=")
        if peer not in PEERS or not python:
            sys.exit(f"error: --peer {one}: write NAME=PYTHON, with NAME one of {', '.join(PEERS)}")
        found[peer] = python
    return found


def _rounded(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def compare(
    name: str, written: Files, args: argparse.Namespace, peers: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Results by package, one for each round."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, args.rounds + 1):
        for peer in (None, *peers):
            if peer is not None:
                one = theirs(name, written, args.seconds, seed, peer, peers[peer])
            elif args.kept:
                one = kept(name, written.test)
            elif args.whole:
                with tempfile.TemporaryDirectory() as folder:
                    one = whole(name, written.test, seed, Path(folder))
            else:
                seconds = args.seconds if args.ours_seconds is None else args.ours_seconds
                one = ours(name, written.test, args.recipe, seconds, seed, args.overrides)
            found.setdefault(one["package"], []).append(one)
            if args.log:
                with args.log.open("a") as log:
                    log.write(json.dumps({"name": name, "seed": seed, **one}) + "\n")
    return found


def main() -> None:
    """Train in turn, print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of training")
    parser.add_argument("--ours-seconds", type=float, help="the same of gace, if it is to have another time")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"one of {', '.join(PEERS)}"
    )
    parser.add_argument("--recipe", help="in place of the first of the family, such as crystals-linear")
    ready = parser.add_mutually_exclusive_group()
    ready.add_argument("--kept", action="store_true", help="the kept potential instead of training one")
    ready.add_argument("--whole", action="store_true", help="train all that a kept crystal is the mean of")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--log", type=Path, help="append every result to this file, one JSON object a line")
    parser.add_argument("--out", type=Path, help="write the table as markdown")
    args = parser.parse_args()
    peers = peers_of(args.peer)
    lines = [
        "| data | package | CPU s | updates | parameters | " + " | ".join(QUANTITIES.values()) + " |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(name, files(name, Path(folder)), args, peers)
        for package, several in found.items():
            cells = [
                " / ".join(
                    _rounded(statistics.median(one[quantity][kind] for one in several))
                    for kind in ("rmse", "mae")
                )
                if several[0].get(quantity)
                else ""
                for quantity in QUANTITIES
            ]
            first = several[0]
            cells = [
                name,
                package,
                str(first["cpu_seconds"]),
                str(first["updates"]),
                str(first["parameters"]),
                *cells,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines.append(f"\nRMSE / MAE on the test file; medians of {args.rounds} trainings with other seeds.")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
