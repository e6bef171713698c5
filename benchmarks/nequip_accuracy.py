"""NequIP trained for so many CPU seconds on one core: its errors beside ours (`benchmarks/same_time.py`).

Run by a Python that has nequip, which gace does not need:
``VENV/bin/python benchmarks/nequip_accuracy.py TRAIN TEST --seconds 300``. Prints one line of JSON.

Settings are those of its tutorial: four layers, l_max 2, no odd parity, 64 features, cutoff 5 Å, squared
errors of energy per atom, forces and stress weighted 1 : 1 : 1, Adam with AMSGrad at 0.01, a moving average
(0.99 in place of 0.999, since the budget is short), gradients clipped to norm 10; a cosine takes the rate to
a hundredth at the end of the budget.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from ase.data import chemical_symbols  # noqa: E402
from nequip.data import AtomicDataDict, from_ase  # noqa: E402
from nequip.integrations.utils import basic_transforms  # noqa: E402
from nequip.model import NequIPGNNModel  # noqa: E402
from nequip.utils.global_state import set_global_state  # noqa: E402
from peer_accuracy import Prediction, Sets, arguments, forces_rms, read_sets, report  # noqa: E402

CUTOFF = 5.0
RATE = 0.01


def main() -> None:
    """Train, evaluate, print."""
    args = arguments(__doc__)
    torch.set_num_threads(1)
    set_global_state(allow_tf32=False)
    sets = read_sets(args)
    symbols = [chemical_symbols[z] for z in sets.numbers]
    graph_of = _Graphs(symbols, args.seed)
    graphs = [graph_of(atoms) for atoms in sets.train]
    neighbours = sum(one["edge_index"].shape[1] for one in graphs) / sum(map(len, sets.train))
    model = _model(symbols, args.seed, neighbours, forces_rms(sets.train), _mean_energies(sets))
    updates, spent = _train(model, graphs, sets, args.seconds, args.batch_size, args.seed)

    def predict(atoms: Any) -> Prediction:
        found = model(AtomicDataDict.batched_from_list([graph_of(atoms)]))
        stress = found["stress"][0].detach().double().numpy() if sets.with_stress else None
        return float(found["total_energy"]), found["forces"].detach().double().numpy(), stress

    parameters = sum(one.numel() for one in model.parameters() if one.requires_grad)
    numbers = {"cpu_seconds": round(spent), "updates": updates, "parameters": parameters}
    report(args, "nequip", "4 layers, l_max 2, 64 features", sets, predict, **numbers)


class _Graphs:
    """Graphs with their neighbour lists, without labels."""

    def __init__(self, symbols: list[str], seed: int) -> None:
        metadata = _model(symbols, seed, 12.0, 1.0, dict.fromkeys(symbols, 0.0)).metadata
        self.transforms = basic_transforms(metadata, CUTOFF, symbols, {one: one for one in symbols})

    def __call__(self, atoms: Any) -> dict[str, Any]:
        bare = atoms.copy()
        bare.info.clear()
        graph = from_ase(bare)
        for transform in self.transforms:
            graph = transform(graph)
        return {key: value for key, value in graph.items() if key not in ("total_energy", "forces", "stress")}


def _mean_energies(sets: Sets) -> dict[str, float]:
    """Energy per atom that the isolated atoms leave, the same for each element."""
    rest = sum(float(atoms.info["REF_energy"]) - sets.base(atoms) for atoms in sets.train)
    mean = rest / sum(map(len, sets.train))
    return {chemical_symbols[z]: mean for z in sets.numbers}


def _model(symbols: list[str], seed: int, neighbours: float, scale: float, shifts: dict[str, float]) -> Any:
    return NequIPGNNModel(
        seed=seed,
        model_dtype="float32",
        type_names=symbols,
        r_max=CUTOFF,
        num_layers=4,
        l_max=2,
        parity=False,
        num_features=64,
        radial_mlp_depth=1,
        radial_mlp_width=128,
        avg_num_neighbors=neighbours,
        per_type_energy_scales=dict.fromkeys(symbols, scale),
        per_type_energy_shifts=shifts,
        compile_mode="eager",
    )


def _train(
    model: Any, graphs: list[Any], sets: Sets, budget: float, batch: int, seed: int
) -> tuple[int, float]:
    """Number of updates and CPU seconds; the model is left with the moving average of its parameters."""
    energies = torch.tensor([float(one.info["REF_energy"]) - sets.base(one) for one in sets.train])
    sizes = torch.tensor([len(one) for one in sets.train])
    forces = [torch.tensor(one.arrays["REF_forces"]) for one in sets.train]
    if sets.with_stress:
        stresses = torch.tensor(np.array([np.array(one.info["REF_stress"], float) for one in sets.train]))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, amsgrad=True)
    average = [one.detach().clone() for one in model.parameters()]
    order = np.random.default_rng(seed)
    model.train()
    updates, started, left = 0, time.process_time(), True
    while left:
        shuffled = order.permutation(len(graphs))
        for first in range(0, len(graphs) - batch + 1, batch):
            share = (time.process_time() - started) / budget
            left = share < 1
            if not left:
                break
            for group in optimizer.param_groups:
                group["lr"] = RATE * max(0.01, 0.5 * (1 + math.cos(math.pi * share)))
            chosen = shuffled[first : first + batch]
            optimizer.zero_grad(set_to_none=True)
            found = model(AtomicDataDict.batched_from_list([dict(graphs[one]) for one in chosen]))
            per_atom = (found["total_energy"].view(-1) - energies[chosen]) / sizes[chosen]
            loss = per_atom.square().mean()
            loss = loss + (found["forces"] - torch.cat([forces[one] for one in chosen])).square().mean()
            if sets.with_stress:
                loss = loss + (found["stress"] - stresses[chosen]).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            updates += 1
            share_of_new = max(0.01, 1 / (1 + updates))
            torch._foreach_lerp_(average, [one.detach() for one in model.parameters()], share_of_new)
    spent = time.process_time() - started
    with torch.no_grad():
        for parameter, mean in zip(model.parameters(), average, strict=True):
            parameter.copy_(mean)
    model.eval()
    return updates, spent


if __name__ == "__main__":
    main()
