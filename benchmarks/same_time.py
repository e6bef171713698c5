"""Errors of gace and its peers after the same processor time of training on one core, on the same files.

    python benchmarks/same_time.py mlearn-Si --seconds 300 --peer mace=PEERS/mace/bin/python --out table.md

Data and recipe are those of the kept potential of that name (`benchmarks/potentials/train.py --list`),
without pretraining: all see the reference labels alone. The clock counts the steps of training; importing,
reading, making neighbour lists and compiling are not counted for any. Each round trains gace and then
the peers, with other seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "potentials"))
PEERS = {
    "mace": "mace_accuracy.py",
    "nequip": "nequip_accuracy.py",
    "tp": "tensorpotential_accuracy.py",
}
QUANTITIES = {"energy": "energy, meV", "forces": "forces, meV/Å", "stress": "stress, meV/Å³"}


def ours(name: str, recipe: str | None, seconds: float, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Train by a recipe of the family for so many CPU seconds; errors on the test file.

    Least squares take what they take: neither more nor less.
    """
    import torch
    from learning import FOREVER, BudgetedTrainer, drive, prepare
    from train import DATA, TASKS, configuration

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
    found = gace.evaluate(potential, read_structures(DATA / TASKS[name].test))
    return {
        "package": "gace",
        "cpu_seconds": round(spent),
        "updates": steps,
        "parameters": sum(one.numel() for one in potential.members[0].parameters()),
        **{key: found[key] for key in ("energy", "energy_per_atom", "forces", "stress")},
    }


def theirs(name: str, seconds: float, seed: int, peer: str, python: str) -> dict[str, Any]:
    """The same by a peer, in its own environment."""
    from train import DATA, TASKS, configuration

    task = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        configuration(task, Path(folder))
        command = [python, str(HERE / PEERS[peer]), f"{folder}/data/train.xyz", str(DATA / task.test)]
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


def main() -> None:
    """Train in turn, print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of training")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"one of {', '.join(PEERS)}"
    )
    parser.add_argument("--recipe", help="in place of the first of the family, such as crystals-linear")
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
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in range(1, args.rounds + 1):
            for peer in (None, *peers):
                if peer is None:
                    one = ours(name, args.recipe, args.seconds, seed, args.overrides)
                else:
                    one = theirs(name, args.seconds, seed, peer, peers[peer])
                found.setdefault(one["package"], []).append(one)
                if args.log:
                    with args.log.open("a") as log:
                        log.write(json.dumps({"name": name, "seed": seed, **one}) + "\n")
        for package, several in found.items():
            cells = [
                " / ".join(
                    f"{statistics.median(one[quantity][kind] for one in several):.1f}"
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
