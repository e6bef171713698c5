"""Time and memory of gace on fixed work, under the same keys as the peers' drivers print.

    python benchmarks/speed.py --workload inf:3bpa --model 2L-medium --dtype float32 --json
    python benchmarks/speed.py --workload train:b5 --dtype float32
    python benchmarks/speed.py --workload acc:300 --config recipe.yaml --set training.learning_rate=0.1

The workloads are described in ``workloads.py``, the clock in ``clock.py``, the training in ``learning.py``.
Inference goes through the ASE calculator: energy and forces of moving atoms, the neighbour list searched anew
at every step (``--skin 0.5`` reuses it, as dynamics do).
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARTED = time.time(), time.process_time()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", required=True, metavar="inf:NAME|train:bN|acc:SECONDS")
    parser.add_argument("--model", default="2L-medium", help="a preset of gace, or a bundle's folder")
    parser.add_argument("--dtype", default="float64", choices=["float32", "float64"])
    parser.add_argument(
        "--path",
        help="way of evaluation; default that of calculators, tabulated; of training: eager; native: as a "
        "file *.gace, without PyTorch",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cutoff", type=float, help="Å; default 5 for every preset, so that all compare")
    parser.add_argument("--skin", type=float, default=0.0, help="Å of neighbour list to be reused")
    parser.add_argument("--data", type=Path, help="folder with the 3BPA files")
    parser.add_argument("--config", type=Path, help="acc, train: configuration as of `gace train`")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep", type=Path, help="acc: write the trained bundle here")
    parser.add_argument("--steps", type=int, default=40, help="timed steps at most")
    parser.add_argument("--seconds", type=float, default=12, help="CPU seconds of timed steps at most")
    parser.add_argument("--min-steps", type=int, default=3, help="timed steps at least")
    parser.add_argument("--write", type=Path, help="inf: write the potential to this file *.gace and end")
    parser.add_argument("--tag", default="", help="copied into the output")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    if args.path is None:
        args.path = "tabulated" if args.workload.startswith("inf") else "eager"
    return args


def path_keyword(known: Mapping[str, object], path: str) -> dict[str, str]:
    """``path`` as a keyword for what has one; ends the program if anything but eager is asked in vain."""
    if "path" in known:
        return {"path": path}
    if path != "eager":
        sys.exit(f"error: this version of gace has no path but eager here, and '{path}' was asked for")
    return {}


def header(args: argparse.Namespace, device_name: str) -> dict[str, Any]:
    """What identifies a result."""
    from importlib.metadata import version

    return {
        "package": "gace",
        "version": version("gace"),
        "workload": args.workload,
        "model": args.model,
        "dtype": args.dtype,
        "path": args.path,
        "threads": args.threads,
        "device": device_name,
    }


def inference(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Energy and forces of one structure, step by step, through the calculator."""
    import numpy as np
    from clock import Clock, barrier_of, calibration, memory, since
    from workloads import structure, swing

    if args.path != "native":
        import torch  # part of the start that is timed
    imported = since(args.started)
    barrier = barrier_of(args.device)
    atoms, began = structure(name, args.data), time.time()
    if args.path == "native":
        from gace.native import NativeCalculator

        with tempfile.TemporaryDirectory() as folder:
            file, n_parameters = written(args, Path(folder) / "potential.gace")
            args.started = args.started[0] + time.time() - began, args.started[1]  # no part of the start
            began = time.time()
            calculator = NativeCalculator(file, skin=args.skin, uncertainty=False, threads=args.threads)
        version, cutoff = None, calculator.model.cutoff
    else:
        from made import potential_of

        potential = potential_of(args, name, atoms)
        n_parameters = sum(one.numel() for member in potential.members for one in member.parameters())
        keyword = path_keyword(inspect.signature(potential.calculator).parameters, args.path)
        calculator = potential.calculator(
            args.device, args.dtype, skin=args.skin, uncertainty=False, **keyword
        )
        version, cutoff = torch.__version__, potential.cutoff
    built = round(time.time() - began, 2)
    atoms.calc, move = calculator, swing(atoms)

    def step(k: int) -> None:
        move(k)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            sys.exit("error: energy or forces are not finite")

    first = Clock(barrier).repeat(lambda k: step(1000 + k), steps=1, seconds=1e9, least=1)
    cold = since(args.started)
    first.repeat(lambda k: step(1001 + k), steps=2, seconds=1e9, least=2)
    before = calibration()
    clock = Clock(barrier).repeat(step, steps=args.steps, seconds=args.seconds, least=args.min_steps)
    wall = args.threads > 1 or args.device != "cpu"
    return {
        **clock.summary(n_atoms=len(atoms), wall=wall),
        **memory(args.device),
        "torch": version,
        "cutoff": cutoff,
        "skin": args.skin,
        "import_wall_cpu_s": imported,
        "build_s": built,
        "cold_start_wall_cpu_s": cold,
        "n_params": n_parameters,
        "first_calls_wall_cpu_s": first.pairs,
        "calib_ms": [before, calibration()],
    }


def written(args: argparse.Namespace, file: Path) -> tuple[Path, int]:
    """The potential as a file, made by another process: making one takes PyTorch, evaluating it does not."""
    shared = ("workload", "model", "dtype", "cutoff", "data")
    given = [part for key in shared if (value := getattr(args, key)) for part in (f"--{key}", str(value))]
    command = [sys.executable, __file__, *given, "--path", "tabulated", "--write", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr.strip())
    return file, int(ended.stdout.split()[-1])


def write_potential(args: argparse.Namespace, name: str) -> None:
    """Write the potential of a workload and print its number of parameters."""
    from made import potential_of
    from workloads import structure

    from gace.native import write

    potential = potential_of(args, name, structure(name, args.data))
    write(potential.to("cpu", args.dtype), args.write)
    print(sum(one.numel() for member in potential.members for one in member.parameters()))


def number(text: str, workload: str) -> float:
    """The number in a workload's name."""
    try:
        return float(text)
    except ValueError:
        sys.exit(f"error: '{text}' in '{workload}' is not a number: say train:b5 or acc:300")


def main() -> None:
    args = arguments()
    args.started = STARTED
    for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
        os.environ[f"{library}_NUM_THREADS"] = str(args.threads)
    from clock import machine

    from gace.errors import GaceError

    if args.path != "native":
        import torch

        torch.set_num_threads(args.threads)
    kind, _, name = args.workload.partition(":")
    try:
        if kind == "inf" and args.write:
            write_potential(args, name)
            return
        if kind == "inf":
            result = inference(args, name)
        elif kind == "train":
            from learning import training_steps

            result = training_steps(args, int(number(name.removeprefix("b"), args.workload)))
        elif kind == "acc":
            from learning import accuracy

            result = accuracy(args, number(name, args.workload))
        else:
            sys.exit(f"error: no workload '{args.workload}': there are inf:NAME, train:bN and acc:SECONDS")
    except GaceError as error:
        sys.exit(f"error: {error}")
    device = machine()
    if args.device.startswith("cuda"):
        device = torch.cuda.get_device_name()
    result = {**header(args, device), **result, "tag": args.tag, "load": os.getloadavg()[0]}
    if args.json:
        print(json.dumps(result), flush=True)
        return
    for key, value in result.items():
        print(f"{key:24s} {value}")


if __name__ == "__main__":
    main()
