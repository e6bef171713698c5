"""What an error costs: force error after equal training time against the time of an evaluation.

    python benchmarks/figures/pareto.py --budget 300 --ours FS-medium --peer mace=peers/mace/bin/python

3BPA. Every contestant trains on the same 450 structures for the same CPU seconds on one core
(`acc:SECONDS`), then evaluates the 27 atoms (`inf:3bpa`), each in a process of its own; ours and the
peers are named as for ``side_by_side.py``. Errors are root mean squares on the *proxy* tests of the
peers' drivers. A contestant is on the front if none is both faster and more accurate.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import BENCHMARKS, draw, parser, report

TEMPERATURES = ("300K", "600K", "1200K")


def on_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names that no other beats in both time and error, fastest first."""
    front: list[str] = []
    best = float("inf")
    for name in sorted(points, key=lambda one: points[one]):
        if points[name][1] < best:
            best = points[name][1]
            front.append(name)
    return front


def main() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    import side_by_side

    options = parser(__doc__)
    options.add_argument("--budget", type=int, default=300, help="CPU seconds of training")
    options.add_argument("--ours", action="append", metavar="PRESET", help="default: all but the large ones")
    options.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON[,model=…]")
    options.add_argument("--drivers", type=Path, default=BENCHMARKS.parents[1] / "shared" / "peers")
    options.add_argument("--dtype", default="float32")
    args = options.parse_args()
    args.ours = args.ours or [
        f"{family}-{size}" for family in ("FS", "1L", "2L") for size in ("small", "medium")
    ]
    args.steps, args.seconds, args.timeout = 40, 4.0, 60.0 * args.budget
    contestants, absent = side_by_side.contestants(args)
    found: dict[str, dict[str, Any]] = {}
    for one in contestants:
        ours = one.name.startswith("gace ")
        # our training by the compiled step, whose making does not count; our evaluation as calculators do
        training = replace(one, command=(*one.command, "--path", "compiled")) if ours else one
        trained = side_by_side.measure(training, f"acc:{args.budget}", args.dtype, args)
        timed = side_by_side.measure(one, "inf:3bpa", args.dtype, args)
        problem = trained.get("error") or timed.get("error")
        if problem:
            absent.append(f"{one.name}: {problem}")
            continue
        found[one.name] = {"us_per_atom": timed["us_per_atom"], "rmse": trained["rmse"]}
        print(f"{one.name}: {found[one.name]}", file=sys.stderr)
    forces = {
        name: {T: of["rmse"][f"test_{T}"]["F_meV_A"] for T in TEMPERATURES} for name, of in found.items()
    }
    points = {name: (of["us_per_atom"], forces[name]["300K"]) for name, of in found.items()}
    front = on_front(points)
    rows = [
        [name, points[name][0], *(forces[name][T] for T in TEMPERATURES), "yes" if name in front else ""]
        for name in sorted(points, key=lambda one: points[one])
    ]
    head = ["", "µs per atom", *(f"forces {T}, meV/Å" for T in TEMPERATURES), "on the front"]
    title = f"3BPA after {args.budget} CPU seconds of training: force RMSE (proxies) against time"
    report(args, title, head, rows, [f"not measured: {one}" for one in absent], front=front, absent=absent)

    def paint(axes: Any) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        for name, (x, y) in points.items():
            axes.loglog(x, y, "o" if name.startswith("gace ") else "s", label=name)
        axes.loglog(*zip(*(points[name] for name in front), strict=True), "-", color="0.7", zorder=0)
        for axis in (axes.xaxis, axes.yaxis):  # 1, 2 and 5 times a power of ten: more would run together
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="energy and forces, µs per atom", ylabel="force RMSE at 300 K, meV/Å")
        axes.legend(fontsize=7)

    if points:
        draw(args, paint)


if __name__ == "__main__":
    main()
