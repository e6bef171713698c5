"""``gace train``: labelled structures in, a potential bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gace.training.config import TrainConfig


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; resumed if it is one."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value of CONFIG.")
@click.option("--find-learning-rate", is_flag=True, help="Sweep the learning rate instead of training.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def command(
    config: Path,
    out: Path,
    overrides: tuple[str, ...],
    find_learning_rate: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a potential as CONFIG.yaml says.

    Leaves OUT/potential (the bundle), OUT/metrics.jsonl, OUT/learning_curve.svg, OUT/config.yaml and
    OUT/summary.json. The same
    command goes on with an interrupted run, and returns at once from a finished one.
    """
    from gace.cli import print_json
    from gace.config import load_config
    from gace.training.config import TrainConfig

    settings = load_config(config, TrainConfig, overrides).relative_to(config.resolve().parent)
    if find_learning_rate:
        _sweep(settings, out, as_json)
        return
    from gace.training.run import train

    result = train(settings, out, progress=not quiet)
    if as_json:
        print_json(result.summary())
        return
    from gace.training.curve import table
    from gace.training.metrics import read_metrics

    lines = read_metrics(out / "metrics.jsonl")
    if lines and "loss" in lines[0]:
        click.echo(table(lines))
    for name, errors in result.metrics.items():
        parts = [
            f"{what.replace('_', ' ')} {errors[what]['mae']:.2f} {unit}"
            for what, unit in (("energy_per_atom", "meV/atom"), ("forces", "meV/Å"), ("stress", "meV/Å³"))
            if errors[what] is not None
        ]
        click.echo(f"{name}: mean absolute errors: {', '.join(parts)}")
    click.echo(
        f"{result.ending} after {result.epochs} epochs, {result.core_seconds:.0f} core seconds: "
        f"{result.bundle}"
    )


def _sweep(settings: TrainConfig, out: Path, as_json: bool) -> None:
    """``--find-learning-rate``: a table, a suggestion and a figure."""
    from gace.cli import print_json
    from gace.training.rate_finder import find_learning_rate

    sweep = find_learning_rate(settings, out)
    if as_json:
        print_json({"suggestion": sweep.suggestion, "learning_rate": sweep.rates, "loss": sweep.losses})
        return
    click.echo(sweep.table())
    click.echo(
        f"suggested: training.learning_rate: {sweep.suggestion:g} (figure: {out / 'learning_rates.svg'})"
    )
