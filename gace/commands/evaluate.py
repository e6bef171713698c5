"""``gace evaluate``: errors of a potential on labelled structures."""

from __future__ import annotations

from typing import Any

import click

from gace.cli import print_json
from gace.commands.options import json_option, load_potential, model_options, potential_argument, progress_bar

ROWS = (
    ("energy", "energy (meV)"),
    ("energy_shifted", "energy, mean difference removed (meV)"),
    ("energy_per_atom", "energy per atom (meV)"),
    ("forces", "forces (meV/Å)"),
    ("stress", "stress (meV/Å³)"),
)


@click.command("evaluate")
@potential_argument
@click.argument("data", metavar="DATA")
@click.option("--uncertainty", is_flag=True, help="Also compare error bars with errors.")
@model_options
@json_option
def command(potential: str, data: str, uncertainty: bool, device: str, dtype: str, as_json: bool) -> None:
    """Errors of POTENTIAL (a bundle folder or models:/ URI) on the labelled structures in DATA."""
    from gace.evaluation import evaluate
    from gace.structures.io import read_structures

    structures = read_structures(data)
    loaded = load_potential(potential, device, dtype)
    with progress_bar("evaluating", len(structures), "structures") as advance:
        summary = evaluate(loaded, structures, uncertainty, progress=advance)
    if as_json:
        print_json(summary)
    else:
        show(summary)


def show(summary: dict[str, Any]) -> None:
    """Print the errors as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)
    kinds = summary["by_config_type"] if len(summary["by_config_type"]) > 1 else {}
    table = Table(title=f"{summary['n_structures']} structures, {summary['n_atoms']} atoms")
    for heading in ("", "MAE", "RMSE", *(f"MAE, {kind}" for kind in kinds)):
        table.add_column(heading, justify="right" if heading else "left")
    for key, title in ROWS:
        if summary[key] is None:
            continue
        per_kind = ["" if one[key] is None else f"{one[key]['mae']:.3f}" for one in kinds.values()]
        table.add_row(title, f"{summary[key]['mae']:.3f}", f"{summary[key]['rmse']:.3f}", *per_kind)
    console.print(table)
    for one in summary.get("stress_order", []):
        console.print(f"warning: {one['message']}", style="yellow", highlight=False)
    if "uncertainty" in summary:
        console.print(uncertainty_table(summary["uncertainty"]))


def uncertainty_table(measures: dict[str, dict[str, Any]]) -> Any:
    """Error bars against errors, one column per target."""
    from rich.table import Table

    table = Table("", *measures, title="error bars against errors")

    def row(title: str, values: list[Any]) -> None:
        table.add_row(title, *("–" if value is None else f"{value:.3f}" for value in values))

    for level in ("68", "90", "95"):
        row(f"within {level} % interval", [one.get("coverage", {}).get(level) for one in measures.values()])
    for key, title in (("zms", "⟨(e/σ)²⟩, ideal 1"), ("spearman", "Spearman"), ("auroc", "AUROC")):
        row(title, [one.get(key) for one in measures.values()])
    return table
