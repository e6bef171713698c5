"""``gace select``: which candidates are worth a label, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gace.cli import print_json


@click.command("select")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def command(config: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Pick structures from a pool; leaves selected.xyz and selection.json in OUT."""
    from gace_platform.candidates.config import load_select_config
    from gace_platform.candidates.run import run_selection

    summary = run_selection(load_select_config(config, overrides), out, watch=True)
    if as_json:
        print_json(summary)
    else:
        _show(summary)


def _show(summary: dict[str, Any]) -> None:
    """The picks and what fell out, for people."""
    for pick in summary["picks"]:
        click.echo(f"{pick['rank']:3d}  {pick['structure_id']}  {pick['reason']}")
    click.echo(" → ".join(f"{name} {count}" for name, count in summary["funnel"].items()))
    for entry in summary["rejected"]:
        click.echo(f"  {entry['count']:5d} {entry['class']}: {entry['reason']}")
    if summary["n_selected"] < summary["n_requested"]:
        click.echo(f"only {summary['n_selected']} of {summary['n_requested']} could be picked")
