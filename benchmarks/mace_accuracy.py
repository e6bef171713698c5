"""MACE trained for so many CPU seconds on one core: its errors beside ours (`benchmarks/same_time.py`).

Run by a Python that has mace-torch, which gace does not need:
``VENV/bin/python benchmarks/mace_accuracy.py TRAIN TEST --seconds 300``. Prints one line of JSON.

Settings are those of mace_run_train where they matter: 64x0e+64x1o, two interactions, correlation 3, cutoff
5 Å, Adam with AMSGrad at 0.01, moving average 0.99, weights of energy, forces and stress 1 : 100 : 1 and
1000 : 100 : 10 in the last quarter, gradients clipped to norm 10; a cosine takes the rate to a hundredth at
the end of the budget.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from importlib.metadata import version
from typing import Any

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase.io import read  # noqa: E402
from mace import data, modules  # noqa: E402
from mace.tools import torch_geometric, utils  # noqa: E402
from torch_ema import ExponentialMovingAverage  # noqa: E402

CUTOFF = 5.0


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", help="extended XYZ with REF_energy, REF_forces and perhaps REF_stress")
    parser.add_argument("test")
    parser.add_argument("--seconds", type=float, required=True, help="CPU seconds of training")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--isolated-atoms", help="extended XYZ of one-atom structures; else a mean per atom")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    torch.set_default_dtype(torch.float32)
    train, test = read(args.train, ":"), read(args.test, ":")
    numbers = sorted({int(z) for atoms in train for z in atoms.numbers})
    table = utils.AtomicNumberTable(numbers)
    shifts = _shifts(train, numbers, args.isolated_atoms)
    sets = [[_as_graph(atoms, shifts, table) for atoms in some] for some in (train, test)]
    with_stress = any("REF_stress" in atoms.info for atoms in train)
    model = _model(sets[0], numbers, train)
    started = time.process_time()
    updates, average = _train(model, sets[0], args.seconds, args.batch_size, with_stress)
    spent = time.process_time() - started
    with average.average_parameters():
        errors = _errors(model, sets[1], test, shifts, with_stress)
    line = {
        "package": "mace-torch",
        "version": version("mace-torch"),
        "model": "64x0e+64x1o",
        "train": args.train,
        "test": args.test,
        "cpu_seconds": round(spent),
        "updates": updates,
        "batch": args.batch_size,
        "parameters": sum(one.numel() for one in model.parameters()),
        **errors,
    }
    print(json.dumps(line), flush=True)


def _shifts(train: list[Any], numbers: list[int], isolated: str | None) -> dict[int, float]:
    """Energy per element: of isolated atoms, or the least squares of the training energies."""
    if isolated is not None:
        return {int(one.numbers[0]): float(one.info["REF_energy"]) for one in read(isolated, ":")}
    counts = np.array([[(atoms.numbers == z).sum() for z in numbers] for atoms in train], dtype=float)
    energies = np.array([atoms.info["REF_energy"] for atoms in train], dtype=float)
    found, *_ = np.linalg.lstsq(counts, energies, rcond=None)
    return dict(zip(numbers, map(float, found), strict=True))


def _as_graph(atoms: Any, shifts: dict[int, float], table: Any) -> Any:
    """Graph with energy above the shifts."""
    atoms = atoms.copy()
    atoms.info["REF_energy"] = float(atoms.info["REF_energy"]) - sum(shifts[int(z)] for z in atoms.numbers)
    if "REF_stress" in atoms.info:
        atoms.info["REF_stress"] = np.asarray(atoms.info["REF_stress"], dtype=float)
    keys = data.KeySpecification(
        info_keys={"energy": "REF_energy", "stress": "REF_stress"}, arrays_keys={"forces": "REF_forces"}
    )
    return data.AtomicData.from_config(
        data.config_from_atoms(atoms, key_specification=keys), z_table=table, cutoff=CUTOFF
    )


def _model(graphs: list[Any], numbers: list[int], train: list[Any]) -> Any:
    """ScaleShiftMACE, its scale the root mean square force."""
    from e3nn import o3  # loads only once mace is there

    neighbours = float(np.mean([one.edge_index.shape[1] / one.num_nodes for one in graphs]))
    forces = np.concatenate([atoms.arrays["REF_forces"].ravel() for atoms in train])
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
        hidden_irreps=o3.Irreps("64x0e+64x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=neighbours,
        atomic_numbers=numbers,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
        atomic_inter_scale=float(np.sqrt((forces**2).mean())),
        atomic_inter_shift=float(np.mean([float(one.energy) / one.num_nodes for one in graphs])),
    )


def _train(model: Any, graphs: list[Any], budget: float, batch: int, stress: bool) -> tuple[int, Any]:
    """Number of updates, and the moving average of the parameters."""
    first = modules.WeightedEnergyForcesStressLoss(1.0, 100.0, 1.0)
    last = modules.WeightedEnergyForcesStressLoss(1000.0, 100.0, 10.0)
    if not stress:
        first = modules.WeightedEnergyForcesLoss(1.0, 100.0)
        last = modules.WeightedEnergyForcesLoss(1000.0, 100.0)
    loader = torch_geometric.dataloader.DataLoader(
        dataset=graphs, batch_size=batch, shuffle=True, drop_last=True
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    average = ExponentialMovingAverage(model.parameters(), decay=0.99)
    updates, started = 0, time.process_time()
    while True:
        for graph in loader:
            share = (time.process_time() - started) / budget
            if share >= 1:
                return updates, average
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * max(0.01, 0.5 * (1 + math.cos(math.pi * share)))
            optimizer.zero_grad(set_to_none=True)
            found = model(graph.to_dict(), training=True, compute_force=True, compute_stress=stress)
            (first if share < 0.75 else last)(pred=found, ref=graph).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            average.update()
            updates += 1


def _errors(
    model: Any, graphs: list[Any], test: list[Any], shifts: dict[int, float], stress: bool
) -> dict[str, Any]:
    """Errors in meV, meV/atom, meV/Å and meV/Å³."""
    energy, forces, tensors, sizes = [], [], [], []
    for graph, atoms in zip(
        torch_geometric.dataloader.DataLoader(dataset=graphs, batch_size=1, shuffle=False), test, strict=True
    ):
        found = model(graph.to_dict(), training=False, compute_force=True, compute_stress=stress)
        expected = float(atoms.info["REF_energy"]) - sum(shifts[int(z)] for z in atoms.numbers)
        energy.append(float(found["energy"][0]) - expected)
        forces.append((found["forces"].detach().numpy() - atoms.arrays["REF_forces"]).ravel())
        sizes.append(len(atoms))
        if stress and "REF_stress" in atoms.info:
            expected = np.asarray(atoms.info["REF_stress"], dtype=float)
            tensors.append((found["stress"][0].detach().numpy() - expected).ravel())
    per_atom = np.array(energy) / np.array(sizes)
    parts = {"energy": np.array(energy), "energy_per_atom": per_atom, "forces": np.concatenate(forces)}
    if tensors:
        parts["stress"] = np.concatenate(tensors)
    return {
        name: {
            "mae": round(float(np.abs(one).mean()) * 1e3, 3),
            "rmse": round(float(np.sqrt((one**2).mean())) * 1e3, 3),
        }
        for name, one in parts.items()
    }


if __name__ == "__main__":
    main()
