"""``gace export``: a potential as one file of machine code."""

from __future__ import annotations

from pathlib import Path

import click

from gace.commands.options import json_option, load_potential, model_options, potential_argument, report


@click.command("export")
@potential_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write, *.pt2.")
@model_options
@json_option
def command(potential: str, out: Path, device: str, dtype: str, as_json: bool) -> None:
    """Write POTENTIAL as machine code that runs without gace, from Python or C++.

    The code is for one device and one precision and gives the mean of the members. ``gace md``, ``relax``,
    ``evaluate`` and ``lammps`` take the file in the place of a bundle. It takes minutes to make.
    """
    from gace.potential.exported import export

    summary = export(load_potential(potential, device, dtype), out)
    kept = ("elements", "cutoff", "n_members", "device", "dtype", "bytes", "seconds")
    report({"path": str(out), **{name: summary[name] for name in kept}}, as_json)
