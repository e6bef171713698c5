"""``gace export``: a potential as one file, for programs without gace's Python or without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gace.commands.options import json_option, load_potential, model_options, potential_argument, report
from gace.errors import InputError


@click.command("export")
@potential_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write, *.gace or *.pt2.")
@model_options
@json_option
def command(potential: str, out: Path, device: str, dtype: str, as_json: bool) -> None:
    """Write POTENTIAL as one file, in one precision.

    \b
    *.gace  weights and tables for gace's compiled C++: LAMMPS' pair_style gace, ASE without PyTorch.
            Error bars and novelty grade included; made at once; processors only.
    *.pt2   machine code of PyTorch's ahead-of-time compiler, which runs without gace, from Python or C++;
            for one kind of device; the mean of the members. It takes minutes to make.

    ``gace md``, ``relax``, ``evaluate`` and ``lammps`` take either file in the place of a bundle.
    """  # noqa: D301  # click wants the character, not its name
    kept: tuple[str, ...] = ("elements", "cutoff", "n_members", "device", "dtype", "bytes")
    summary: dict[str, Any]
    if out.suffix == ".gace":
        if device.startswith("cuda"):
            raise InputError("a file *.gace is for processors: export *.pt2 for a GPU")
        from gace.native import write

        summary = write(load_potential(potential, "cpu", dtype), out)
    else:
        from gace.potential.exported import export

        summary = export(load_potential(potential, device, dtype), out)
        kept = (*kept, "seconds")
    report({"path": str(out), **{name: summary[name] for name in kept}}, as_json)
