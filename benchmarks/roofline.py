"""Operations and bytes of energies and forces per atom, counted, and the time a machine needs at least.

    python benchmarks/roofline.py --model 2L-medium --neighbours 60 --bandwidth 4800 --teraflops 67

(an H200 in float32). Counted is what the kernels read and write once (inputs, outputs, gathered messages) and
the multiplications and additions they do; the time is the larger of bytes over bandwidth and operations over
peak, kernel by kernel. Data that stay in caches between kernels make a machine faster than that, launches
slower.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from typing import NamedTuple

from gace.potential.graph_ace import GraphACE


class Work(NamedTuple):
    """Of one kernel, per atom."""

    name: str
    operations: float
    """Multiplications and additions."""
    numbers: float
    """Read and written."""


def of_density(name: str, J: int, L: int, C: int, K: int, carried: bool) -> Iterator[Work]:
    """Sum over neighbours: values, what harmonics and radial functions are owed, what messages are owed."""
    lm, bond = L * L, L * L + L * K + (C * K if carried else 0)
    out, product = lm * C * K, lm * C * K
    yield Work(f"{name} density", J * (2 * product + L * C * K), J * bond + out)
    yield Work(f"{name} density, slopes", J * (4 * product + 3 * L * C * K), J * (bond + lm + L * K) + out)
    if carried:
        yield Work(f"{name} density, messages", J * (2 * product + lm * K), J * (bond + 2 * C * K) + out)


def of_coupling(name: str, size: list[int], K: int, equal: bool) -> Iterator[Work]:
    """Sums of products: values, and what either factor is owed."""
    _, _, left, right, targets, by_row, by_left = size[:7]
    factors = left if equal else left + right
    yield Work(f"{name} {'square' if equal else 'product'}", 4 * by_row * K, (factors + targets) * K)
    yield Work(f"{name} slopes", 4 * (by_left if equal else 2 * by_row) * K, (2 * factors + targets) * K)


def of_model(model: GraphACE, J: int, tabulated: bool) -> Iterator[Work]:
    """All that is done for one atom with ``J`` neighbours."""
    for t, layer in enumerate(model.layers, 1):
        K, L = layer.channels, layer.l_max + 1
        C = 1 if layer.incoming is None else layer.incoming.dim
        if tabulated:
            yield Work(f"{t} tables", J * L * K * 12, J * (L * K + 1))
            yield Work(f"{t} tables, slopes", J * L * K * 14, J * (L * K + 2))
        else:
            widths = [model.hyperparameters()["n_radial"], *model.hyperparameters()["radial_hidden"], L * K]
            products = sum(a * b for a, b in itertools.pairwise(widths))
            yield Work(f"{t} radial networks", 2 * products * J, J * 2 * sum(widths))
            yield Work(f"{t} radial networks, slopes", 4 * products * J, J * 4 * sum(widths))
        yield from of_density(f"{t}", J, L, C, K, layer.incoming is not None)
        sparse = layer.sparse
        if sparse.raw is not None:
            yield from of_coupling(f"{t} raw", sparse.raw.size, K, False)
        paths = sum(sparse.density_paths)
        yield Work(f"{t} mixing", 3 * 2 * paths * K * K, 6 * sparse.density_irreps.dim * K)
        for name, product in sparse.products.items():
            yield from of_coupling(f"{t} {name}", product.size, K, product.equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="2L-medium")
    parser.add_argument("--neighbours", type=int, default=60)
    parser.add_argument("--networks", action="store_true", help="radial functions by networks, not by tables")
    parser.add_argument("--bytes", type=int, default=4, help="of a number: 4 or 8")
    parser.add_argument("--bandwidth", type=float, default=4800, help="GB/s")
    parser.add_argument("--teraflops", type=float, default=67)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = GraphACE.from_preset(options.model, elements=["C", "H", "O"])
    rows = []
    for work in of_model(model, options.neighbours, not options.networks):
        memory = 1e3 * work.numbers * options.bytes / options.bandwidth / 1e3  # ns
        arithmetic = work.operations / options.teraflops / 1e3
        rows.append((*work, memory, arithmetic, max(memory, arithmetic)))
    print("| kernel | kFLOP/atom | kB/atom | ns by memory | ns by arithmetic |\n|---|---|---|---|---|")
    for name, operations, numbers, memory, arithmetic, _ in rows:
        size = numbers * options.bytes / 1e3
        print(f"| {name} | {operations / 1e3:.1f} | {size:.1f} | {memory:.2f} | {arithmetic:.2f} |")
    total = {
        "model": options.model,
        "neighbours": options.neighbours,
        "kflop_per_atom": round(sum(row[1] for row in rows) / 1e3, 1),
        "kb_per_atom": round(sum(row[2] for row in rows) * options.bytes / 1e3, 1),
        "ns_per_atom": round(sum(row[5] for row in rows), 1),
    }
    print(
        "| **all** | " + " | ".join(str(total[f"{name}_per_atom"]) for name in ("kflop", "kb", "ns")) + " | |"
    )
    if options.json:
        print(json.dumps(total))


if __name__ == "__main__":
    main()
