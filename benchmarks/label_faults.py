"""A thousand labels with planted failures: is anything poisoned, lost, or given up too early?

Prints a table and leaves it in ``benchmarks/results/label-faults.md`` with ``--write``.
Run: ``python benchmarks/label_faults.py --structures 1000 --fraction 0.3``
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from ase import Atoms

from gace.randomness import generator
from gace.structures.io import write_structures
from gace_platform.labelling.config import LabelConfig
from gace_platform.labelling.engines.faults import FaultyEngine
from gace_platform.labelling.engines.teacher import TeacherEngine
from gace_platform.labelling.run import run_labels
from gace_platform.ledger import LabelStore

RESULTS = Path(__file__).parent / "results" / "label-faults.md"


def clusters(count: int, seed: int) -> list[Atoms]:
    """Small argon clusters, no two the same."""
    frames = []
    for number in range(count):
        random = generator(seed, "cluster", number)
        grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)], dtype=float)
        chosen = grid[random.permutation(8)[: 4 + number % 4]] * 1.2
        frames.append(
            Atoms(f"Ar{len(chosen)}", positions=chosen + random.normal(scale=0.05, size=chosen.shape))
        )
    return frames


def measure(count: int, fraction: float, seed: int) -> dict:
    """Label ``count`` structures, then compare every label and account with what should be."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        frames = clusters(count, seed)
        write_structures(where / "pool.xyz", frames)
        faults = {"fraction": fraction, "seed": seed, "scratch": where / "lost"}
        config = LabelConfig(
            reference={"engine": "teacher", "calculator": "lj", "faults": faults},
            structures=where / "pool.xyz",
            store=where / "store",
            attempts=4,
        )
        began = time.monotonic()
        run_labels(config, where / "out")
        wall = time.monotonic() - began
        rows = json.loads((where / "out" / "labels.json").read_text())["structures"]
        store = LabelStore(where / "store")
        engine = FaultyEngine(config.reference, config.reference.faults)
        honest = TeacherEngine(config.reference)
        kinds, recovered, poisoned, attempts, ideal = Counter(), Counter(), 0, 0, 0
        for row in rows:
            record = store.get(row["key"])
            atoms = record.atoms()
            kind, helps = engine.fate(atoms)
            kinds[kind or "none", "recoverable" if helps or kind is None else "hopeless"] += 1
            attempts += len(record.attempts)
            # the least that can do: one attempt, and one with the remedy that helps
            ideal += 1 if kind is None or helps is None else 2
            if row["verdict"] == "accepted":
                label = honest.run(atoms, 0)
                forces_differ = np.abs(label.forces - record.forces_array()).max() > 1e-6
                poisoned += bool(abs(label.energy - record.energy) > 1e-6 or forces_differ)
                recovered[kind or "none"] += 1
        events = {entry["key"] for entry in store.journal if entry["event"] in ("computed", "quarantined")}
        recoverable = sum(n for (kind, how), n in kinds.items() if kind != "none" and how == "recoverable")
        return {
            "structures": count,
            "faulty": sum(n for (kind, _), n in kinds.items() if kind != "none"),
            "poisoned": poisoned,
            "unaccounted": count - len(events & {row["key"] for row in rows}),
            "recoverable": recoverable,
            "recovered": sum(n for kind, n in recovered.items() if kind != "none"),
            "attempts": attempts,
            "ideal_attempts": ideal,
            "paid_twice": store.paid_twice(),
            "wall_seconds": round(wall, 1),
            "by_kind": {
                kind: {
                    "met": sum(n for (name, _), n in kinds.items() if name == kind),
                    "recoverable": kinds[kind, "recoverable"],
                    "recovered": recovered[kind],
                }
                for kind in sorted({name for name, _ in kinds} - {"none"})
            },
        }


def table(found: dict) -> str:
    """The figures as Markdown."""
    share = found["recovered"] / max(1, found["recoverable"])
    ratio = found["attempts"] / found["ideal_attempts"]
    lines = [
        "# Labels with planted failures",
        "",
        "`python benchmarks/label_faults.py --write`: argon clusters, Lennard-Jones for DFT, failures of",
        "six kinds planted by `reference.faults` (a lost node is a real SIGKILL of the engine process).",
        "Ideal attempts: one per structure, and one more with the remedy that helps where one does.",
        "",
        "| | | asked for |",
        "|---|---|---|",
        f"| structures, with a planted failure | {found['structures']}, {found['faulty']} | 1000, 30 % |",
        f"| poisoned labels | {found['poisoned']} | 0 |",
        f"| structures without an account | {found['unaccounted']} | 0 |",
        f"| recovered of the recoverable | {found['recovered']} of {found['recoverable']} ({share:.1%}) "
        "| ≥ 90 % |",
        f"| attempts, ideal | {found['attempts']}, {found['ideal_attempts']} ({ratio:.3f}) | ≤ 1.3 |",
        f"| labels paid twice | {found['paid_twice']} | 0 |",
        "",
        "| failure | met | recoverable | recovered |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {row['met']} | {row['recoverable']} | {row['recovered']} |"
        for kind, row in found["by_kind"].items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structures", type=int, default=1000)
    parser.add_argument("--fraction", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results")
    arguments = parser.parse_args()
    found = measure(arguments.structures, arguments.fraction, arguments.seed)
    text = table(found)
    print(text)
    if arguments.write:
        RESULTS.write_text(text)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
