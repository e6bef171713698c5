"""MACE on a GPU by each of its paths: energy and forces of crystals, and training steps, in wall time.

    python benchmarks/mace_gpu.py --work inf --atoms 1000,4096,10648 --path cueq --json
    python benchmarks/mace_gpu.py --work train --batch 5,32,128 --path cueq --json

Run by a Python that has mace-torch, cuequivariance-torch and cuequivariance-ops-torch-cu13, which gace does
not need. The model is a ScaleShiftMACE with MACE's default blocks (RealAgnosticResidualInteractionBlock, both
layers), l up to 3, correlation 3, two interactions, cutoff 5 Å. No TF32: float32 stays float32.

===================  ==================================================================================
``eager``            as MACECalculator and mace_run_train do by default
``compiled``         ``mace.tools.compile.prepare`` and ``torch.compile``, as with ``compile_mode="default"``
``cueq``             converted for cuEquivariance, as with ``enable_cueq``: on a GPU with fused convolutions
``cueq-compiled``    both; mace_run_train compiles nothing, so in training both ``compiled`` are our attempt
===================  ==================================================================================

``inf``: diamond, 8 n³ atoms. The edges are given; at each step atoms move on the device, then the model is
called with ``training=False``: only this call is timed. Compiled models return energy and forces alone, freed
of the graph, which saves MACE the backward pass that MACECalculator keeps; where this fails they are compiled
as MACECalculator does, and ``note`` says so. Shapes are torch.compile's own affair: the first size is
compiled for itself, the second for all; a process for each size compiles each for itself.

``train``: structures of 3BPA in batches that lie on the device, so that loading costs nothing. Adam with
AMSGrad, weights 1 : 100, moving average 0.99, gradients clipped to norm 10.

Processes that share the device take turns (``--ready FOLDER``, see ``turns.py``).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from clock import barrier_of, peak_mb  # noqa: E402
from mace import data, modules  # noqa: E402
from mace.tools import torch_geometric, utils  # noqa: E402
from mace.tools.compile import prepare  # noqa: E402
from mace.tools.scripts_utils import extract_model  # noqa: E402
from torch_ema import ExponentialMovingAverage  # noqa: E402
from turns import Turn, tell_ready  # noqa: E402
from workloads import CUTOFF, ISOLATED_ATOMS, diamond, labelled  # noqa: E402

HIDDEN = {"m128x1o": "128x0e+128x1o", "m64x1o": "64x0e+64x1o", "m128x0e": "128x0e"}
PATHS = ("eager", "compiled", "cueq", "cueq-compiled")
WARM_UP = 3
"""Calls of each size before the clock runs."""
VARIANTS = 3
"""Batches of each size in training, taken in turn."""

Evaluate = Callable[[dict[str, Any]], tuple[torch.Tensor, torch.Tensor]]
"""From a graph to energies ``(B,)`` in eV and forces ``(N, 3)`` in eV/Å."""


class Size(NamedTuple):
    """Work of one size."""

    amount: int
    """Atoms, or structures of a batch."""
    batches: list[Any]
    """MACE's batches, in the host's memory."""


class Job(NamedTuple):
    """A model that is ready, and how it takes a step."""

    sizes: list[Size]
    stepper: Callable[[Size], tuple[Callable[[int], None], Callable[[int], None]]]
    """Two functions of the step's number: what comes before it, untimed, and the step."""
    facts: dict[str, Any]
    """Copied into each row."""


class EnergyAndForces(torch.nn.Module):
    """A MACE that returns energy and forces alone, without the graph of what made them."""

    def __init__(self, mace: torch.nn.Module) -> None:
        super().__init__()
        self.mace = mace

    def forward(self, graph: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies ``(B,)`` and forces ``(N, 3)``."""
        found = self.mace(graph, training=False, compute_force=True, compute_stress=False)
        return found["energy"].detach(), found["forces"].detach()


def main() -> None:
    """Prepare, wait for the turn, measure size by size."""
    args = arguments()
    torch.set_default_dtype(getattr(torch, args.dtype))
    synchronise = barrier_of(args.device)
    header = {
        "package": "mace-torch",
        "version": version("mace-torch"),
        "path": args.path,
        "model": args.model,
        "dtype": args.dtype,
        "work": args.work,
    }
    device = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    footer = {"device": device, "torch": torch.__version__}

    def show(row: dict[str, Any]) -> None:
        row = header | row | footer
        print(json.dumps(row) if args.json else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    try:
        job = inference(args, show) if args.work == "inf" else training(args, show)
        # shapes of the second size let torch.compile make them symbols; others are no new work to it
        for size in job.sizes[: 2 if "compiled" in args.path else 1]:
            _times(job, size, None, synchronise)
    except Exception as error:
        show({"error": _in_short(error)})
        if args.ready:
            tell_ready(args.ready)
        raise
    _forget(args.device)
    with Turn(args.ready):
        for size in job.sizes:
            show({**_measured(job, size, args, synchronise), **job.facts})
            _forget(args.device)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", required=True, choices=["inf", "train"])
    parser.add_argument(
        "--atoms",
        type=lambda text: sorted(map(int, text.split(","))),
        default=[1000],
        help="inf: 8 n³ of each crystal, with commas",
    )
    parser.add_argument(
        "--batch",
        type=lambda text: sorted(map(int, text.split(","))),
        default=[5],
        help="train: structures a batch, with commas",
    )
    parser.add_argument("--model", default="m128x1o", choices=sorted(HIDDEN))
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--path", default="eager", choices=PATHS)
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--data", type=Path, help="train: folder with train_300K.xyz")
    parser.add_argument("--ready", type=Path, metavar="FOLDER", help="where processes wait for each other")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed steps of each size, about")
    parser.add_argument("--json", action="store_true", help="print each row as one JSON object")
    return parser.parse_args()


def inference(args: argparse.Namespace, show: Callable[[dict[str, Any]], None]) -> Job:
    """Crystals, and the model that evaluates them."""
    sizes = [Size(count, [_batch([diamond(count)], [6])]) for count in args.atoms]
    first = sizes[0].batches[0]
    eager = _model(args.model, [6], first.edge_index.shape[1] / first.num_nodes).to(args.device)
    mace = _on_path(eager, args.path, args.device).requires_grad_(False)
    evaluate, note = _evaluator(mace, args, _on_device(first, args.device)[0])
    if args.path != "eager":
        found = evaluate(_on_device(first, args.device)[0])
        show(_difference(eager, found, _on_device(first, args.device)[0]))

    def stepper(size: Size) -> tuple[Callable[[int], None], Callable[[int], None]]:
        graph, _ = _on_device(size.batches[0], args.device)
        start = graph["positions"].detach().clone()
        random = torch.Generator().manual_seed(2)
        amplitude = 0.005 * torch.randn(start.shape, generator=random).to(start)

        def move(k: int) -> None:
            with torch.no_grad():
                graph["positions"].copy_(start + np.sin(0.3 * k) * amplitude)

        def step(_: int) -> None:
            evaluate(graph)

        return move, step

    return Job(
        sizes,
        stepper,
        {"parameters": sum(one.numel() for one in eager.parameters())} | ({"note": note} if note else {}),
    )


def training(args: argparse.Namespace, show: Callable[[dict[str, Any]], None]) -> Job:
    """Batches of molecules, and the model that learns them."""
    frames = labelled("train_300K", args.data)
    numbers = sorted({int(z) for atoms in frames for z in atoms.numbers})
    for atoms in frames:
        atoms.info["REF_energy"] -= sum(ISOLATED_ATOMS[one] for one in atoms.get_chemical_symbols())
    sizes = []
    for count in args.batch:
        starts = [i * count for i in range(VARIANTS) if (i + 1) * count <= len(frames)]
        if not starts:
            sys.exit(f"error: a batch of {count} needs more than the {len(frames)} structures there are")
        sizes.append(Size(count, [_batch(frames[i : i + count], numbers) for i in starts]))
    first = sizes[0].batches[0]
    eager = _model(args.model, numbers, first.edge_index.shape[1] / first.num_nodes).to(args.device)
    mace = _on_path(eager, args.path, args.device)
    parameters = list(mace.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, amsgrad=True)
    average = ExponentialMovingAverage(parameters, decay=0.99)
    loss_of = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    called = torch.compile(mace, mode=args.compile_mode) if "compiled" in args.path else mace
    keywords = {"training": True, "compute_force": True, "compute_virials": False, "compute_stress": False}
    if args.path != "eager":
        found = called(_on_device(first, args.device)[0], **keywords)
        reference = _on_device(first, args.device)[0]
        show(_difference(eager, (found["energy"].detach(), found["forces"].detach()), reference))
        del found

    def stepper(size: Size) -> tuple[Callable[[int], None], Callable[[int], None]]:
        batches = [_on_device(one, args.device) for one in size.batches]

        def prepare_step(k: int) -> None:
            batches[k % len(batches)][0]["positions"].grad = None  # each of MACE's batches is new

        def step(k: int) -> None:
            graph, batch = batches[k % len(batches)]
            optimizer.zero_grad(set_to_none=True)
            loss_of(pred=called(graph, **keywords), ref=batch).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            average.update()

        return prepare_step, step

    return Job(sizes, stepper, {"parameters": sum(one.numel() for one in eager.parameters())})


def _batch(structures: list[Any], numbers: list[int]) -> Any:
    """MACE's batch of structures, with edges, in the host's memory."""
    keys = data.KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})
    table = utils.AtomicNumberTable(numbers)
    configurations = [data.config_from_atoms(one, key_specification=keys) for one in structures]
    graphs = [data.AtomicData.from_config(one, z_table=table, cutoff=CUTOFF) for one in configurations]
    return torch_geometric.Batch.from_data_list(graphs)


def _on_device(batch: Any, device: str) -> tuple[dict[str, Any], Any]:
    """A copy of a batch on the device: as the model takes it, and as the loss does."""
    batch = batch.clone().to(device)
    graph = batch.to_dict()
    graph["positions"].requires_grad_(True)  # compiled models cannot do this themselves
    return graph, batch


def _model(name: str, numbers: list[int], neighbours: float) -> Any:
    """ScaleShiftMACE with random parameters; time does not depend on them."""
    from e3nn import o3  # loads only once mace is there

    torch.manual_seed(0)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(HIDDEN[name]),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=neighbours,
        atomic_numbers=numbers,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )


def _on_path(eager: Any, path: str, device: str) -> Any:
    """The same model, its modules exchanged or made fit for torch.compile."""
    if path == "eager":
        return eager
    if path == "compiled":
        return prepare(extract_model)(model=eager, map_location=device)
    from mace.cli.convert_e3nn_cueq import run

    if device == "cuda":
        import cuequivariance_ops_torch  # noqa: F401  (without it cuEquivariance would be slow in silence)
    convert = run if path == "cueq" else prepare(run)
    return convert(eager, device=device).to(device)


def _evaluator(mace: Any, args: argparse.Namespace, graph: dict[str, Any]) -> tuple[Evaluate, str]:
    """What evaluates graphs, tried on one, and a note on it."""
    evaluate = EnergyAndForces(mace)
    if "compiled" not in args.path:
        return evaluate, ""
    compiled = torch.compile(evaluate, mode=args.compile_mode, fullgraph=args.path == "compiled")
    try:
        compiled(graph)
    except Exception as error:
        print(f"compiled as MACECalculator does: {_in_short(error)}", file=sys.stderr, flush=True)
    else:
        return compiled, ""
    torch._dynamo.reset()
    whole = torch.compile(mace, mode=args.compile_mode)

    def as_calculator(graph: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        found = whole(graph, training=True, compute_force=True, compute_stress=False)
        return found["energy"].detach(), found["forces"].detach()

    return as_calculator, "compiled as MACECalculator does, with training=True"


def _difference(
    eager: Any, found: tuple[torch.Tensor, torch.Tensor], graph: dict[str, Any]
) -> dict[str, Any]:
    """How far energies and forces are from the eager path's, in the same precision."""
    energy, forces = EnergyAndForces(eager)(graph)
    return {
        "check": "against eager",
        "natoms": len(forces),
        "max_dF": float((found[1] - forces).abs().max()),
        "max_F": float(forces.abs().max()),
        "max_dE_per_atom": float((found[0] - energy).abs().max() * len(energy) / len(forces)),
    }


def _measured(
    job: Job, size: Size, args: argparse.Namespace, synchronise: Callable[[], object]
) -> dict[str, Any]:
    """The row of one size; one that fails has ``error``, and the others are measured all the same."""
    row: dict[str, Any] = {"natoms" if args.work == "inf" else "batch": size.amount}
    row["edges"] = round(np.mean([one.edge_index.shape[1] for one in size.batches]))
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        times = 1e3 * np.array(_times(job, size, args.seconds, synchronise))
    except Exception as error:
        return {**row, "error": _in_short(error)}
    median = float(np.median(times))
    row |= {"steps": len(times), "ms_per_step": round(median, 3), "ms_min": round(float(times.min()), 3)}
    if args.work == "inf":
        row["us_per_atom"] = round(1e3 * median / size.amount, 4)
    else:
        row["structures_per_s"] = round(1e3 * size.amount / median, 1)
    on_gpu = args.device == "cuda"
    row["peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else peak_mb()
    return row


def _times(job: Job, size: Size, seconds: float | None, synchronise: Callable[[], object]) -> list[float]:
    """Wall seconds of each step, three at least; None: only warm up."""
    before, step = job.stepper(size)
    for k in range(WARM_UP):
        before(k)
        step(k)
    synchronise()
    times: list[float] = []
    began = time.perf_counter()
    while seconds is not None and (len(times) < 3 or time.perf_counter() - began < seconds):
        before(WARM_UP + len(times))
        synchronise()
        started = time.perf_counter()
        step(WARM_UP + len(times))
        synchronise()
        times.append(time.perf_counter() - started)
    return times


def _in_short(error: Exception) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _forget(device: str) -> None:
    """Give memory that is no longer used back, for the processes beside this one."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
