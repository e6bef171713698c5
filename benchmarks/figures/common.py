"""What the scripts of this folder share: models of any depth, processor time, fits, tables, drawings."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from gace.potential.derivatives import energy_and_gradients
from gace.potential.graph_ace import GraphACE
from gace.structures.graph import Graph
from gace.structures.neighbours import build_graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BENCHMARKS = Path(__file__).resolve().parent.parent


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every figure has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, metavar="FIGURE", help="draw the figure (.png, .svg, .pdf)")
    made.add_argument("--markdown", type=Path, help="also write the table as markdown")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return made


def model_of_depth(layers: int, elements: Sequence[str], cutoff: float, **changes: Any) -> GraphACE:
    """A graph ACE of equal layers (l_max 3, order 3, 32 channels, L_I 1), random parameters."""
    settings: dict[str, Any] = {
        "l_max": [3] * layers,
        "order": 3,
        "channels": 32,
        "l_message": 1,
        "densities": 8,
        **changes,
    }
    return GraphACE(elements=list(elements), cutoff=cutoff, seed=1, **settings)


def calibrated(model: GraphACE, *structures: Atoms) -> GraphACE:
    """The model with its internal scales measured on some structures."""
    model.calibrate(build_graph(structures, model.elements, model.cutoff))
    return model


def diamond(repeat: int = 2, rattle: float = 0.01) -> Atoms:
    """Diamond, 8·repeat³ atoms."""
    atoms = bulk("C", "diamond", a=3.567, cubic=True).repeat(repeat)
    atoms.rattle(rattle, seed=1)
    return atoms


def mean_neighbours(graph: Graph, cutoff: float) -> float:
    """Mean number of neighbours within the cutoff."""
    return float((graph.edge_vector.norm(dim=-1) < cutoff).sum()) / len(graph.species)


def force_call(model: GraphACE, graph: Graph, dtype: torch.dtype) -> Callable[[], object]:
    """Evaluation of energy and forces, ready to be timed."""
    model, graph = model.to(dtype).requires_grad_(False), graph.to("cpu", dtype)
    return lambda: energy_and_gradients(model, graph)


def interleaved(calls: Mapping[Any, Callable[[], object]], repeats: int) -> dict[Any, float]:
    """Median processor time of each call, ms; they are run in turn, after one round of warming up."""
    for call in calls.values():
        call()
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            began = time.process_time()
            call()
            times[key].append(1e3 * (time.process_time() - began))
    return {key: statistics.median(values) for key, values in times.items()}


def linear_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Intercept, slope and R² of the line of least squares."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - intercept - slope * np.asarray(x)
    return float(intercept), float(slope), float(1 - rest.var() / np.var(y))


def report(
    args: argparse.Namespace,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: Sequence[str] = (),
    **values: Any,
) -> None:
    """Print the table and the findings; write markdown and JSON if asked to."""
    from rich.console import Console
    from rich.table import Table

    sys.path.insert(0, str(BENCHMARKS))
    from clock import machine

    cells = [[one if isinstance(one, str) else f"{one:.4g}" for one in row] for row in rows]
    table = Table(title=title)
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in cells:
        table.add_row(*row)
    console = Console(width=120)
    console.print(table)
    for note in notes:
        console.print(f"• {note}", highlight=False)
    where = f"{datetime.now(UTC).date()}; {machine()}, one thread"
    if args.markdown:
        command = " ".join(["python", f"benchmarks/figures/{Path(sys.argv[0]).name}", *_shown(sys.argv[1:])])
        lines = [f"# {title}", "", f"{where}; `{command}`", ""]
        if args.out:
            relative = os.path.relpath(args.out, args.markdown.parent)
            lines += [f"![{title}]({relative})", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in cells]
        lines += ["", *(f"- {note}" for note in notes)]
        args.markdown.parent.mkdir(parents=True, exist_ok=True)
        args.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if args.json:
        named = [dict(zip(head, row, strict=True)) for row in rows]
        print(json.dumps({"title": title, "machine": where, "rows": named, **values}))


def _shown(options: Sequence[str]) -> list[str]:
    """Command-line options without those that name files of one machine."""
    shown, skip = [], False
    for one in options:
        if skip or one in ("--out", "--markdown", "--json"):
            skip = not skip and one != "--json"
            continue
        shown.append(Path(one).name if "/" in one else one)
    return shown


def draw(args: argparse.Namespace, paint: Callable[[Axes], None], width: float = 5.0) -> None:
    """Make the figure if a file for it was named."""
    if not args.out:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, 3.6), layout="constrained")
    paint(axes)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
