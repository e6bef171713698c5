"""``gace committee``: models trained apart on a cluster, joined with their error bars."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def command() -> None:
    """Committees of potentials."""


@command.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value of CONFIG.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def train(config: Path, out: Path, overrides: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Train a committee as CONFIG.yaml says: the keys of gace train, committee, cluster and scratch.

    Leaves OUT/potential (one bundle with all members and their error bars), OUT/members and
    OUT/summary.json. The same command goes on with an interrupted one.
    """
    from gace.cli import print_json
    from gace.config import load_config
    from gace_platform.committee.config import CommitteeConfig

    settings = load_config(config, CommitteeConfig, overrides).relative_to(config.resolve().parent)
    from gace_platform.committee.train import train_committee

    def progress(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    summary = train_committee(settings, out, progress)
    if as_json:
        print_json(summary)
        return
    errors = summary["held_out"]
    if "forces_mae" in errors:
        click.echo(
            f"held-out force error {errors['forces_mae']:.1f} meV/Å on {errors['n_structures']} structures"
        )
    click.echo(
        f"{summary['n_members']} members, {summary['core_seconds']:.0f} core seconds: {summary['bundle']}"
    )
