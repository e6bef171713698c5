"""Time per step and memory against the number of atoms, until memory is full.

Claim: cost per atom does not depend on the number of atoms. Diamond silicon (28 neighbours within 5 Å)
through the ASE calculator; each size in a process of its own, so that its peak memory is its own. Stops
before the next size would need more than ``--memory`` GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from common import BENCHMARKS, draw, linear_fit, parser, report


def sizes() -> list[tuple[int, int, int]]:
    """Repetitions of the cubic cell of 8 atoms, doubling the number of atoms from size to size."""
    found, shape = [], [1, 1, 1]
    for index in range(20):
        shape[index % 3] *= 2
        found.append((shape[0], shape[1], shape[2]))
    return found


def one_size(args: argparse.Namespace, shape: tuple[int, int, int]) -> dict[str, float]:
    """Time and memory of one size, measured here."""
    sys.path.insert(0, str(BENCHMARKS))
    import torch
    from ase.build import bulk
    from clock import Clock, peak_mb
    from workloads import swing

    import gace
    from gace.potential.graph_ace import GraphACE
    from gace.structures.neighbours import build_graph

    torch.set_num_threads(1)
    atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(shape)
    atoms.rattle(0.03, seed=1)
    model = GraphACE.from_preset(args.model, elements=["Si"], cutoff=5.0, mean_neighbours=28.0, seed=0)
    model.calibrate(build_graph([bulk("Si", "diamond", a=5.4, cubic=True)], ["Si"], 5.0))
    potential = gace.Potential([model], isolated_atom_energies={"Si": 0.0})
    base = peak_mb() or 0
    atoms.calc, move = potential.calculator("cpu", args.dtype, uncertainty=False), swing(atoms)

    def step(k: int) -> None:
        move(k)
        atoms.get_forces()

    step(1000)
    clock = Clock().repeat(step, steps=args.steps, seconds=args.seconds, least=2)
    return {**clock.summary(n_atoms=len(atoms)), "peak_mb": peak_mb() or 0, "base_mb": base}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="2L-medium")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--memory", type=float, default=4.0, help="GB that a process may use")
    options.add_argument("--most", type=int, default=100_000, help="atoms at most")
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--seconds", type=float, default=5.0, help="CPU seconds for each size")
    options.add_argument("--shape", type=int, nargs=3, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.shape:
        print(json.dumps(one_size(args, tuple(args.shape))))
        return
    found: list[dict[str, float]] = []
    ending = f"the largest size asked for, {args.most} atoms"
    for shape in sizes():
        count = 8 * shape[0] * shape[1] * shape[2]
        if count > args.most:
            break
        if len(found) > 1:
            # what grew with the last doubling grows twice as much with the next
            expected = 3 * found[-1]["peak_mb"] - 2 * found[-2]["peak_mb"]
            if expected > 1024 * args.memory:
                ending = (
                    f"{count} atoms would need about {expected / 1024:.1f} GB of the {args.memory:g} allowed"
                )
                break
        command = [sys.executable, __file__, "--model", args.model, "--dtype", args.dtype]
        command += ["--steps", str(args.steps), "--seconds", str(args.seconds), "--shape", *map(str, shape)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if ended.returncode:
            lines = ended.stderr.strip().splitlines() or [f"signal {-ended.returncode}"]
            ending = f"{count} atoms failed: {lines[-1]}"
            break
        found.append(json.loads(ended.stdout.splitlines()[-1]))
    rows = [
        [str(one["natoms"]), one["ms_per_step"], one["us_per_atom"], str(one["peak_mb"])] for one in found
    ]
    large = [one for one in found if one["natoms"] >= 64]
    notes = [f"the end: {ending}"]
    if len(large) > 1:
        times = [one["us_per_atom"] for one in large]
        notes.append(
            f"from 64 atoms on, the time per atom lies within a factor {max(times) / min(times):.2f}"
        )
        a, b, _ = linear_fit([one["natoms"] for one in large], [one["peak_mb"] for one in large])
        notes.append(f"memory: {a:.0f} MB + {1024 * b:.0f} kB per atom")
    title = f"Time per step against atoms ({args.model}, {args.dtype}, silicon)"
    report(args, title, ["atoms", "ms/step", "µs/atom", "peak MB"], rows, notes)

    def paint(axes):
        axes.loglog([one["natoms"] for one in found], [one["ms_per_step"] for one in found], "o-")
        axes.set(xlabel="atoms", ylabel="ms per step (energy and forces)")
        axes.grid(alpha=0.3)

    draw(args, paint)


if __name__ == "__main__":
    main()
