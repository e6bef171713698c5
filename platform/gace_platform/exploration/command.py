"""``gace explore``: walkers look for structures worth a label."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value of CONFIG.")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def command(config: Path, out: Path, overrides: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Explore by molecular dynamics as CONFIG.yaml says.

    Leaves OUT/candidates.xyz and OUT/summary.json. The same command reuses the walks that an
    interrupted one has finished.
    """
    from gace.cli import print_json
    from gace.config import load_config
    from gace_platform.exploration.config import ExploreConfig
    from gace_platform.exploration.explore import explore

    settings = load_config(config, ExploreConfig, overrides).relative_to(config.resolve().parent)

    def progress(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    summary = explore(settings, out, progress)
    if as_json:
        print_json(summary)
        return
    endings = ", ".join(f"{count} {ending}" for ending, count in summary["endings"].items())
    click.echo(f"{summary['n_candidates']} candidates from {len(summary['walkers'])} walkers ({endings})")
    click.echo(summary["candidates"])
