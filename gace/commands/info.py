"""``gace info``: what a potential is and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gace.cli import print_json
from gace.commands.options import json_option, potential_argument


@click.command("info")
@potential_argument
@json_option
def command(potential: str, as_json: bool) -> None:
    """What POTENTIAL (a bundle folder, models:/ URI or file *.gace) is; its checksums are verified."""
    from gace.potential.uri import fetched

    if potential.endswith(".gace"):
        from gace.native import NativeModel

        described = NativeModel(potential).described
        if as_json:
            print_json({"path": potential, **described})
        else:
            show_file(described)
        return
    with fetched(potential) as folder:
        summary = describe_bundle(folder)
    if as_json:
        print_json(summary)
    else:
        show(summary)


def describe_bundle(folder: Path) -> dict[str, Any]:
    """The configuration of a bundle with its hash and what its uncertainty consists of.

    Raises:
        BundleError: as :func:`gace.load`.
    """
    from gace.potential.bundle import bundle_hash, load, read_config

    config = read_config(folder)
    potential = load(folder, device="cpu")
    known = potential.uncertainty
    sizes = [sum(value.numel() for value in member.parameters()) for member in potential.members]
    return {
        **config,
        "n_parameters": sizes[0],
        "member_parameters": sizes,
        "uncertainty": {
            "error_bars": potential.has_error_bars,
            "novelty": potential.has_novelty,
            "n_calibration": 0 if known is None else int(known.n_calibration),
            "calibration": "none" if known is None else known.calibration,
        },
        "bundle_hash": bundle_hash(folder),
    }


def show(summary: dict[str, Any]) -> None:
    """Print the description, one line per entry."""
    sizes = sorted(set(summary["member_parameters"]), reverse=True)
    parameters = " or ".join(f"{size:,}" for size in sizes)
    rows = {
        "elements": ", ".join(summary["elements"]),
        "cutoff": f"{summary['cutoff']:g} Å",
        "members": f"{summary['n_members']}, {parameters} parameters each",
        "level of theory": _line(summary["level_of_theory"]),
        "uncertainty": _line(summary["uncertainty"]),
        "isolated atoms": _line(summary["isolated_atom_energies"]) + " eV",
        "architecture": _line(summary["architecture"]),
        "metadata": _line(summary["metadata"]),
        "hash": summary["bundle_hash"],
    }
    _print(rows)


def show_file(described: dict[str, Any]) -> None:
    """Print what an exported file says of itself, likewise."""
    bars = described["error_bars"]
    calibrated = bars["energy"] is not None or bars["forces"] is not None
    known = {"error_bars": bars["has"], "calibrated": calibrated, "novelty": described["novelty"]}
    rows = {
        "elements": ", ".join(described["elements"]),
        "cutoff": f"{described['cutoff']:g} Å",
        "members": f"{described['n_members']}, {described['dtype']}",
        "level of theory": _line(described["level_of_theory"]),
        "uncertainty": _line(known),
        "isolated atoms": _line(described["isolated_atom_energies"]) + " eV",
        "metadata": _line(described["metadata"]),
    }
    _print(rows)


def _print(rows: dict[str, str]) -> None:
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")


def _line(value: Any) -> str:
    if not value:
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return str(value)
