"""MACE trained for so many CPU seconds on one core: its errors beside ours (`benchmarks/same_time.py`).

Run by a Python that has mace-torch, which gace does not need:
``VENV/bin/python benchmarks/mace_accuracy.py TRAIN TEST --seconds 300``. Prints one line of JSON.

Settings are those of mace_run_train where they matter: 64x0e+64x1o, two interactions, correlation 3, cutoff
5 Å, Adam with AMSGrad at 0.01, moving average 0.99, weights of energy, forces and stress 1 : 100 : 1 and
1000 : 100 : 10 in the last quarter, gradients clipped to norm 10; a cosine takes the rate to a hundredth at
the end of the budget.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mace import data, modules  # noqa: E402
from mace.tools import torch_geometric, utils  # noqa: E402
from peer_accuracy import Prediction, Sets, arguments, forces_rms, read_sets, report  # noqa: E402
from torch_ema import ExponentialMovingAverage  # noqa: E402

CUTOFF = 5.0


def main() -> None:
    """Train, evaluate, print."""
    args = arguments(__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    torch.set_default_dtype(torch.float32)
    sets = read_sets(args)
    table = utils.AtomicNumberTable(sets.numbers)
    graphs = [_as_graph(atoms, sets, table) for atoms in sets.train]
    model = _model(graphs, sets)
    started = time.process_time()
    updates, average = _train(model, graphs, args.seconds, args.batch_size, sets.with_stress)
    spent = time.process_time() - started

    def predict(atoms: Any) -> Prediction:
        loader = torch_geometric.dataloader.DataLoader(
            dataset=[_as_graph(atoms, sets, table)], batch_size=1, shuffle=False
        )
        graph = next(iter(loader)).to_dict()
        found = model(graph, training=False, compute_force=True, compute_stress=sets.with_stress)
        stress = found["stress"][0].detach().numpy() if sets.with_stress else None
        return float(found["energy"][0]), found["forces"].detach().numpy(), stress

    parameters = sum(one.numel() for one in model.parameters())
    numbers = {"cpu_seconds": round(spent), "updates": updates, "parameters": parameters}
    with average.average_parameters():
        report(args, "mace-torch", "64x0e+64x1o", sets, predict, **numbers)


def _as_graph(atoms: Any, sets: Sets, table: Any) -> Any:
    """Graph with energy above the shifts."""
    atoms = atoms.copy()
    atoms.info["REF_energy"] = float(atoms.info["REF_energy"]) - sets.base(atoms)
    if "REF_stress" in atoms.info:
        atoms.info["REF_stress"] = np.asarray(atoms.info["REF_stress"], dtype=float)
    keys = data.KeySpecification(
        info_keys={"energy": "REF_energy", "stress": "REF_stress"}, arrays_keys={"forces": "REF_forces"}
    )
    return data.AtomicData.from_config(
        data.config_from_atoms(atoms, key_specification=keys), z_table=table, cutoff=CUTOFF
    )


def _model(graphs: list[Any], sets: Sets) -> Any:
    """ScaleShiftMACE, its scale the root mean square force."""
    from e3nn import o3  # loads only once mace is there

    neighbours = float(np.mean([one.edge_index.shape[1] / one.num_nodes for one in graphs]))
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(sets.numbers),
        hidden_irreps=o3.Irreps("64x0e+64x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(sets.numbers)),
        avg_num_neighbors=neighbours,
        atomic_numbers=sets.numbers,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
        atomic_inter_scale=forces_rms(sets.train),
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


if __name__ == "__main__":
    main()
