"""The accuracy tables: errors of the kept potentials seed by seed beside the published ones (figure 8).

    python benchmarks/figures/accuracy_tables.py --out errors.png --markdown errors.md [NAME …]

Every kept potential is a mean of several trainings of one recipe that differ in the seed (of parameters and
order of the structures; for molecules also of the walks or the pretraining, see
``benchmarks/results/accuracy.md``), for crystals beside a linear ACE, which has no seed.
Each of them alone is what one training gives a user. Tests and measures are those of
``benchmarks/accuracy.py``: the published ones, but for 3BPA, whose test is a *proxy*.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from common import BENCHMARKS, draw, parser, report

STRESS = 1e-9
"""Stress errors below this (meV/Å³) are no errors: molecules have none."""


def row(name: str) -> dict[str, Any]:
    """Errors of each seed by itself and of their mean, in the published measure."""
    from accuracy import HERE, PUBLISHED, test_structures
    from seeds import by_seed

    import gace
    from gace.evaluation import evaluate

    potential = gace.load(HERE / "potentials" / name)
    structures = test_structures(name)
    kind = "mae" if name.startswith("rmd17") else "rmse"

    def errors(of: Any) -> dict[str, float]:
        found = evaluate(of.evaluated_by("tabulated"), structures)  # to six digits the same, in half the time
        return {
            "energy": found["energy"][kind],
            "forces": found["forces"][kind],
            "stress": found["stress"][kind] if found["stress"] else 0.0,
        }

    alone = [errors(one) for one in by_seed(potential)]
    return {
        "name": name,
        "measure": kind.upper(),
        "structures": len(structures),
        "seeds": alone,
        "kept": errors(potential) if len(alone) > 1 else alone[0],
        "published": PUBLISHED.get(name, {}),
    }


def spread(values: list[float]) -> str:
    """Mean and standard deviation of some seeds."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ({statistics.stdev(values):.2f})"


def main() -> None:
    for folder in (BENCHMARKS, BENCHMARKS / "potentials"):
        sys.path.insert(0, str(folder))
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help="kept potentials; default all of them")
    args = options.parse_args()
    from train import HERE, TASKS

    kept = [name for name in TASKS if (HERE / name / "config.json").exists()]
    unknown = sorted(set(args.names) - set(kept))
    if unknown:
        sys.exit(f"error: no kept potential called {', '.join(unknown)}; there are: {', '.join(kept)}")
    rows = [row(name) for name in args.names or kept]
    table = []
    for one in rows:
        seeds = one["seeds"]
        columns = []
        for what in ("energy", "forces", "stress"):
            whole = one["kept"][what]
            columns += ["", ""] if whole < STRESS else [spread([s[what] for s in seeds]), f"{whole:.2f}"]
        best = sorted(one["published"].items(), key=lambda known: known[1][1])[:1]
        published = "".join(f"{who} {e:g} / {f:g}" for who, (e, f) in best)
        table.append([one["name"], one["measure"], str(len(seeds)), *columns, published])
    heading = ["", "measure", "seeds"]
    for what in ("energy", "forces", "stress"):
        heading += [f"{what}, one seed", f"{what}, kept"]
    heading.append("best published")
    notes = [
        "one seed: mean (standard deviation) of the trainings by themselves; kept: their mean as a potential",
        "the test of 3bpa-300K is a proxy; stresses of Si and Mo are against the labels as given",
    ]
    title = "Errors of the kept potentials, seed by seed (meV, meV/Å, meV/Å³)"
    report(args, title, heading, table, notes, errors=rows)

    def paint(axes: Any) -> None:
        marks = {"MACE": "x", "NequIP": "v", "PACE": "^", "ACE": "s"}
        named: set[str] = set()

        def point(x: list[float], y: int, label: str, **style: Any) -> None:
            axes.scatter(x, [y] * len(x), label=None if label in named else label, **style)
            named.add(label)

        for place, one in enumerate(rows):
            point([seed["forces"] for seed in one["seeds"]], place, "one seed", s=14, color="C0")
            point([one["kept"]["forces"]], place, "kept: their mean", s=160, color="C0", marker="|")
            for who, (_, forces) in one["published"].items():
                style = dict(s=26, color=f"C{list(marks).index(who) + 1}", marker=marks[who])
                point([forces], place, f"{who}, published", **style)
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), [f"{one['name']} ({one['measure']})" for one in rows])
        axes.invert_yaxis()
        axes.set_xlabel("forces, meV/Å")
        axes.legend(fontsize=7)

    draw(args, paint, width=7.0)


if __name__ == "__main__":
    main()
