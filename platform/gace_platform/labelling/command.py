"""`gace labels`: pay for reference calculations once, and look at what was paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gace.cli import print_json
from gace.errors import GaceError, InputError
from gace_platform.labelling.care import (
    audit_command,
    import_command,
    ladder,
    list_labels,
    quarantine,
    retry,
    show,
)


@click.group()
def command() -> None:
    """Label structures with a reference method; every label is paid for once."""


@command.command("run")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def run(config: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Label the structures named in CONFIG; leaves labelled.xyz and labels.json in OUT."""
    from gace_platform.labelling.config import load_label_config
    from gace_platform.labelling.run import run_labels

    loaded = load_label_config(config, overrides)
    try:
        summary = run_labels(loaded, out, _show)
    except OSError as error:
        if isinstance(error, GaceError):
            raise
        where = f" {error.filename}" if error.filename else ""
        raise GaceError(
            f"cannot write{where}: {error.strerror or error}; the labels so far are stored, run it again"
        ) from error
    summary["labelled"] = str(out / "labelled.xyz")
    summary["labels"] = str(out / "labels.json")
    if as_json:
        print_json(summary)
    else:
        click.echo(
            "{accepted} accepted, {quarantined} quarantined of {structures}; "
            "{computed} computed, {reused} reused; {core_seconds:.1f} core seconds".format(**summary)
        )


@command.command("isolated")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for isolated_atoms.xyz.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def isolated(config: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Isolated-atom energies of the elements in CONFIG's structures (and its `elements`)."""
    from gace.structures.io import read_structures
    from gace_platform.labelling.config import load_label_config
    from gace_platform.labelling.run import energies_of, run_isolated_atoms, summarise

    loaded = load_label_config(config, overrides)
    structures = [] if loaded.structures is None else read_structures(loaded.structures)
    symbols = {symbol for atoms in structures for symbol in atoms.get_chemical_symbols()} | set(
        loaded.elements
    )
    if not symbols:
        raise InputError("no elements: give 'structures' or 'elements'")
    verdicts = run_isolated_atoms(loaded, sorted(symbols), out, _show)
    energies = energies_of(verdicts)
    if as_json:
        core_seconds = summarise([], verdicts)["core_seconds"]
        print_json(
            {
                "isolated_atoms": energies,
                "quarantined": len(verdicts) - len(energies),
                "core_seconds": core_seconds,
            }
        )
    else:
        for symbol, energy in energies.items():
            click.echo(f"{symbol:2s} {energy:18.8f} eV")


@command.command("review")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for review.json.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of CONFIG.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON summary as the last line.")
def review(config: Path, out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Compare fresh labels with what a potential (or the teacher) expects, as campaigns do."""
    from gace_platform.labelling.review import load_review_config, run_review

    result = run_review(load_review_config(config, overrides), out)
    if as_json:
        print_json(result)
        return
    for key, why in result["suspects"].items():
        click.echo(f"{key}  {why}")
    click.echo(f"{len(result['suspects'])} suspects among {result['labels']} labels")


def _show(verdict: Any, done: int, total: int) -> None:
    """One line of progress on standard error."""
    price = "reused" if verdict.reused else f"{verdict.record.core_seconds:.1f} core s"
    reason = f": {verdict.reason.splitlines()[0]}" if verdict.reason else ""
    click.echo(
        f"{done}/{total} {verdict.atoms.get_chemical_formula()} {verdict.verdict} ({price}){reason}", err=True
    )


for _command in (list_labels, show, retry, quarantine, ladder, import_command, audit_command):
    command.add_command(_command)
