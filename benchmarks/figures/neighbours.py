"""Time per atom against the number of neighbours, for one, two and three layers.

Claim: cost is linear in the number of neighbours in every layer, since neighbours are summed before
anything is coupled. Diamond with a fixed number of atoms; the cutoff is put into the gaps between neighbour
shells, so that every atom has the same number of neighbours. Energy and forces, median processor time of
interleaved runs.
"""

from __future__ import annotations

import numpy as np
import torch
from common import (
    calibrated,
    diamond,
    draw,
    force_call,
    interleaved,
    linear_fit,
    mean_neighbours,
    model_of_depth,
    parser,
    report,
)

from gace.structures.neighbours import build_graph, find_edges


def gaps(least: int, most: int, width: float = 0.15) -> list[float]:
    """Cutoffs, Å, in gaps of ``width`` between shells that give ``least`` … ``most`` neighbours."""
    ideal = diamond(rattle=0.0)
    edges = find_edges(ideal, 7.0)
    radii, counts = np.unique(
        np.linalg.norm(edges.vector[edges.centre == 0], axis=1).round(3), return_counts=True
    )
    inside = np.cumsum(counts)
    return [
        float((a + b) / 2)
        for a, b, n in zip(radii, radii[1:], inside, strict=False)
        if b - a >= width and least <= n <= most
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--channels", type=int, default=32)
    options.add_argument("--repeats", type=int, default=9)
    options.add_argument("--most", type=int, default=150, help="neighbours at most")
    options.add_argument("--dtype", default="float32")
    args = options.parse_args()
    torch.set_num_threads(1)
    atoms, dtype = diamond(), getattr(torch, args.dtype)
    calls, neighbours = {}, {}
    for cutoff in gaps(10, args.most):
        graph = build_graph([atoms], ["C"], cutoff)
        neighbours[cutoff] = mean_neighbours(graph, cutoff)
        for layers in args.layers:
            model = model_of_depth(
                layers, ["C"], cutoff, channels=args.channels, mean_neighbours=neighbours[cutoff]
            )
            calls[layers, cutoff] = force_call(calibrated(model, atoms), graph, dtype)
    times = interleaved(calls, args.repeats)
    per_atom = {key: 1e3 * value / len(atoms) for key, value in times.items()}
    x = list(neighbours.values())
    fits = {T: linear_fit(x, [per_atom[T, cutoff] for cutoff in neighbours]) for T in args.layers}
    rows = [
        [f"{cutoff:.2f}", neighbours[cutoff], *(per_atom[T, cutoff] for T in args.layers)]
        for cutoff in neighbours
    ]
    notes = [
        f"T = {T}: {a:.0f} + {b:.2f} N µs per atom, R² = {square:.4f}" for T, (a, b, square) in fits.items()
    ]
    head = ["cutoff Å", "neighbours N", *(f"T={T} µs/atom" for T in args.layers)]
    title = f"Time per atom against neighbours ({len(atoms)} atoms, {args.channels} channels, {args.dtype})"
    report(args, title, head, rows, notes, fits={str(T): fit for T, fit in fits.items()})

    def paint(axes):
        for T, (a, b, square) in fits.items():
            points = axes.plot(x, [per_atom[T, cutoff] for cutoff in neighbours], "o")
            axes.plot([0, max(x)], [a, a + b * max(x)], color=points[0].get_color(), lw=1,
                      label=f"T = {T}, R² = {square:.4f}")  # fmt: skip
        axes.set(
            xlabel="neighbours", ylabel="µs per atom (energy and forces)", xlim=(0, None), ylim=(0, None)
        )
        axes.legend()

    draw(args, paint)


if __name__ == "__main__":
    main()
