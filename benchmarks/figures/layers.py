"""Time per atom against the number of layers, beside a star of the same reach.

Claim: T layers of cutoff r reach T·r at a cost linear in T, while a star that reaches as far has T³ times the
neighbours. Diamond; energy and forces, median processor time of interleaved runs.
"""

from __future__ import annotations

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

from gace.structures.neighbours import build_graph


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cutoff", type=float, default=2.74, help="Å; 2.74 holds 16 neighbours")
    options.add_argument("--most", type=int, default=4, help="layers at most")
    options.add_argument("--repeats", type=int, default=11)
    options.add_argument("--dtype", default="float32")
    args = options.parse_args()
    torch.set_num_threads(1)
    atoms, dtype, depths = diamond(), getattr(torch, args.dtype), range(1, args.most + 1)
    calls, neighbours = {}, {}
    for T in depths:
        for kind, layers, cutoff in (("tree", T, args.cutoff), ("star", 1, T * args.cutoff)):
            graph = build_graph([atoms], ["C"], cutoff)
            neighbours[kind, T] = mean_neighbours(graph, cutoff)
            model = model_of_depth(layers, ["C"], cutoff, mean_neighbours=neighbours[kind, T])
            calls[kind, T] = force_call(calibrated(model, atoms), graph, dtype)
    times = interleaved(calls, args.repeats)
    per_atom = {key: 1e3 * value / len(atoms) for key, value in times.items()}
    a, b, square = linear_fit(list(depths), [per_atom["tree", T] for T in depths])
    rows = [
        [str(T), T * args.cutoff, neighbours["tree", T], per_atom["tree", T],
         neighbours["star", T], per_atom["star", T]]
        for T in depths
    ]  # fmt: skip
    head = ["layers T", "reach Å", "tree: neighbours", "tree µs/atom", "star: neighbours", "star µs/atom"]
    notes = [f"tree: {a:.0f} + {b:.0f} T µs per atom, R² = {square:.4f}"]
    report(args, "Time per atom against layers", head, rows, notes, fit=[a, b, square])

    def paint(axes):
        axes.plot(depths, [per_atom["star", T] for T in depths], "s--", label="star, cutoff T·r")
        points = axes.plot(depths, [per_atom["tree", T] for T in depths], "o")
        axes.plot(depths, [a + b * T for T in depths], color=points[0].get_color(), lw=1,
                  label=f"T layers, cutoff r, R² = {square:.4f}")  # fmt: skip
        axes.set(xlabel="T", ylabel="µs per atom (energy and forces)", ylim=(0, None), xticks=list(depths))
        axes.legend()

    draw(args, paint)


if __name__ == "__main__":
    main()
