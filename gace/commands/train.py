"""``gace train``: labelled structures in, a potential bundle out."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; resumed if it is one."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value of CONFIG.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def command(config: Path, out: Path, overrides: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Train a potential as CONFIG.yaml says.

    Leaves OUT/potential (the bundle), OUT/metrics.jsonl, OUT/config.yaml and OUT/summary.json. The same
    command goes on with an interrupted run, and returns at once from a finished one.
    """
    from gace.cli import print_json
    from gace.config import load_config
    from gace.training.config import TrainConfig

    settings = load_config(config, TrainConfig, overrides).relative_to(config.resolve().parent)
    from gace.training.run import train

    result = train(settings, out, progress=not quiet)
    if as_json:
        print_json(result.summary())
        return
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
