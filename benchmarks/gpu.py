"""gace on a GPU: time per atom of energies and forces, of training steps, and where it goes.

    python benchmarks/gpu.py --work inf --atoms 1000,4096,10648,21952,46656 --json
    python benchmarks/gpu.py --work train --batch 5,32,128 --json
    python benchmarks/gpu.py --work profile --atoms 10648

``mace_gpu.py`` does the same with MACE. ``inf``: rattled diamond whose atoms move at every step; what is
timed is an evaluation with neighbours known and everything on the device, as it is for the peer. ``md``: a
step of the ASE calculator, neighbour list included. ``train``: steps of gace's own trainer on 3BPA, cutting
of batches included. ``profile``: time of each kernel, and what the card's memory and arithmetic reach.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from turns import Turn
from workloads import CUTOFF, diamond, swing

from gace.potential import compiled
from gace.potential.compiled import evaluators
from gace.potential.graph_ace import GraphACE
from gace.potential.potential import Potential
from gace.structures.graph import Graph
from gace.structures.neighbours import build_graph


def potential_of(args: argparse.Namespace) -> Potential:
    """The preset with random parameters, calibrated; time does not depend on them."""
    atoms = diamond(64)
    graph = build_graph([atoms], ["C"], CUTOFF)
    inside = graph.edge_vector.norm(dim=-1) < CUTOFF
    model = GraphACE.from_preset(
        args.model, elements=["C"], cutoff=CUTOFF, mean_neighbours=float(inside.sum()) / len(atoms), scale=0.1
    )
    model.calibrate(graph)
    return Potential([model], isolated_atom_energies={"C": 0.0}).to(args.device, args.dtype)


def times(work: Callable[[int], object], seconds: float, device: str) -> list[float]:
    """Milliseconds of each call, the first five left out."""
    barrier = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    found: list[float] = []
    for k in range(10**6):
        barrier()
        began = time.perf_counter()
        work(k)
        barrier()
        found.append(1e3 * (time.perf_counter() - began))
        if k >= 7 and sum(found[5:]) > 1e3 * seconds:
            break
    return found[5:]


def row(args: argparse.Namespace, **values: Any) -> None:
    """One result, at once."""
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    header = {"package": "gace", "model": args.model, "dtype": args.dtype, "path": args.path}
    print(json.dumps({**header, "work": args.work, **values, "device": device}), flush=True)


def summary(found: list[float], n_atoms: int) -> dict[str, float]:
    """Median and minimum."""
    median = float(np.median(found))
    return {
        "ms_per_step": round(median, 3),
        "ms_min": round(min(found), 3),
        "us_per_atom": round(1e3 * median / n_atoms, 4),
    }


def peak() -> int:
    """MiB on the card since it was last asked."""
    if not torch.cuda.is_available():
        return 0
    found = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return round(found / 2**20)


def graphs(potential: Potential, atoms: Atoms, args: argparse.Namespace) -> Callable[[int], Graph]:
    """The graph at step k: bond vectors of atoms that swing, formed on the device."""
    calculator = potential.calculator(skin=0.0, path="eager")
    graph = calculator.graph(atoms)
    moves = 0.02 * torch.randn(*graph.edge_vector.shape[:1], 3, device=graph.edge_vector.device)
    moves = moves.to(graph.edge_vector.dtype)
    difference = moves[graph.neighbour] - moves[:, None]
    start = graph.edge_vector

    def at(k: int) -> Graph:
        return graph._replace(edge_vector=start + float(np.sin(0.3 * k)) * difference)

    return at


def inference(args: argparse.Namespace) -> None:
    """Evaluations at each size."""
    potential = potential_of(args)
    (evaluate,) = evaluators([one.requires_grad_(False) for one in potential.members], args.path)
    small = graphs(potential, diamond(args.sizes[0]), args)
    for k in range(5):
        evaluate(small(k))
    with Turn(args.ready):
        for n in args.sizes:
            try:
                at = graphs(potential, diamond(n), args)
                peak()
                found = times(lambda k, at=at: evaluate(at(k)).forces, args.seconds, args.device)
            except torch.cuda.OutOfMemoryError as error:
                row(args, natoms=n, error=str(error).split(".")[0])
                continue
            row(args, natoms=n, slots=at(0).neighbour.shape[1], **summary(found, n), peak_mb=peak())


def dynamics(args: argparse.Namespace) -> None:
    """Steps of the calculator at each size."""
    potential = potential_of(args)
    with Turn(args.ready):
        for n in args.sizes:
            atoms = diamond(n)
            atoms.calc = potential.calculator(skin=0.5, path=args.path)
            move = swing(atoms)

            def step(k: int, atoms: Atoms = atoms, move: Callable[[int], None] = move) -> None:
                move(k)
                atoms.get_forces()

            peak()
            found = times(step, args.seconds, args.device)
            row(args, natoms=n, **summary(found, n), searches=atoms.calc.neighbours.searches, peak_mb=peak())


def trainers(args: argparse.Namespace, folder: Path) -> Iterator[tuple[int, int, Path, Any]]:
    """For each size of batch: it, its atoms, a folder, and a trainer on structures that fill batches."""
    from learning import configuration, prepare
    from workloads import labelled

    from gace.structures.io import write_structures
    from gace.training.trainer import Trainer

    frames = labelled("train_300K", args.data)
    for batch in args.sizes:
        out = folder / str(batch)
        out.mkdir()
        write_structures(out / "train.xyz", frames[: batch * max(1, len(frames) // batch)])
        config = configuration(
            args, out / "train.xyz", batch_size=batch, max_epochs=10**9, checkpoint_seconds=10**9
        )
        yield batch, batch * len(frames[0]), out, prepare(config, out, Trainer)[0]


def training(args: argparse.Namespace) -> None:
    """Steps of the trainer for each size of batch."""
    from learning import StepTimer, drive

    with tempfile.TemporaryDirectory() as folder:
        made = list(trainers(args, Path(folder)))
        with Turn(args.ready):
            for batch, n_atoms, out, trainer in made:
                peak()
                timer = StepTimer(args)
                drive(trainer, out, timer)
                found = [1e3 * one for one in timer.clock.wall]
                each = {"structures_per_s": round(1e3 * batch / float(np.median(found)), 1)}
                first = [one[0] for one in timer.first.pairs]
                row(args, batch=batch, **summary(found, n_atoms), **each, peak_mb=peak(), first_s=first)


def profile(args: argparse.Namespace) -> None:
    """Time of each kernel of an evaluation, and the card's ceilings."""
    potential = potential_of(args)
    (evaluate,) = evaluators([one.requires_grad_(False) for one in potential.members], args.path)
    n, steps = args.sizes[0], 5
    with Turn(args.ready):
        at = graphs(potential, diamond(n), args)
        for k in range(4):
            evaluate(at(k))
        with recorded() as found:
            for k in range(steps):
                evaluate(at(k))
        for key, value in ceilings().items():
            print(f"{key}: {value:.1f}")
    print(f"{n} atoms, {at(0).neighbour.shape[1]} slots")
    table(found, steps, n)


def profile_training(args: argparse.Namespace) -> None:
    """Time of each kernel of a training step."""
    from learning import drive

    steps, done = 5, 0
    with tempfile.TemporaryDirectory() as folder:
        for batch, n_atoms, out, trainer in trainers(args, Path(folder)):
            context = recorded()
            done = 0

            def enough(context: Any = context) -> bool:
                nonlocal done, found
                done += 1
                if done == 5:
                    found = context.__enter__()
                return done == 5 + steps

            found: Any = None
            with Turn(args.ready):
                drive(trainer, out, enough)
                context.__exit__(None, None, None)
            print(f"{batch} structures, {n_atoms} atoms")
            table(found, steps, n_atoms)


@contextmanager
def recorded() -> Iterator[Any]:
    """PyTorch's profiler, after what is under way and until all is done."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    torch.cuda.synchronize()
    with profiled(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        yield found
        torch.cuda.synchronize()


def table(found: Any, steps: int, n_atoms: int) -> None:
    """Print what took longest on the card."""
    print("ns an atom and step, calls a step, kernel")
    total = calls = 0.0
    events = [one for one in found.key_averages() if one.device_type == torch.autograd.DeviceType.CUDA]
    for one in sorted(events, key=lambda one: -one.self_device_time_total):
        nanoseconds = 1e3 * one.self_device_time_total / steps / n_atoms
        total, calls = total + nanoseconds, calls + one.count / steps
        if nanoseconds > 1.0:
            print(f"{nanoseconds:9.2f} {one.count / steps:7.1f}  {one.key[:110]}")
    print(f"{total:9.2f} {calls:7.1f}  all")


def ceilings() -> dict[str, float]:
    """GB/s of a copy (read and written), TFLOP/s of a matrix product in float32 without TF32."""

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(6):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        return min(seconds[1:])

    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.numel() * 4 / best(lambda: target.copy_(source)) / 1e9
    a, b = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    flops = 2 * 8192**3 / best(lambda: a @ b) / 1e12
    return {"copy GB/s": copied, "float32 product TFLOP/s": flops}


WORK = {
    "inf": inference,
    "md": dynamics,
    "train": training,
    "profile": profile,
    "profile-train": profile_training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", choices=list(WORK), default="inf")
    parser.add_argument("--model", default="2L-medium")
    parser.add_argument("--path", help="inf, md, profile: tabulated (default) or eager; train: auto or eager")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--atoms", dest="sizes", help="8 n³ each", default="1000,4096,10648,21952,46656")
    parser.add_argument("--batch", dest="sizes", help="structures of a batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each size")
    parser.add_argument("--bonds", type=int, help="computed at once; default as gace decides")
    parser.add_argument("--ready", type=Path, help="folder in which several programs agree who times when")
    parser.add_argument("--data", type=Path, help="folder of the 3BPA files")
    parser.add_argument("--json", action="store_true", help="rows are JSON always")
    args = parser.parse_args()
    args.sizes = [int(one) for one in args.sizes.split(",")]
    args.path = args.path or ("auto" if "train" in args.work else "tabulated")
    if args.bonds:
        compiled.eager_bonds = lambda x: args.bonds
    # what the training workloads of speed.py read
    args.config, args.overrides, args.cutoff, args.threads = None, [], CUTOFF, 1
    args.steps, args.min_steps, args.started = 10**6, 10, (time.time(), time.process_time())
    torch.set_num_threads(1)
    WORK[args.work](args)


if __name__ == "__main__":
    main()
