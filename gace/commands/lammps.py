"""``gace lammps``: a LAMMPS input with a potential."""

from __future__ import annotations

from pathlib import Path

import click

from gace.commands.options import finite, json_option, model_options, path_option, report
from gace.errors import InputError


@click.command("lammps")
@click.argument("script", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--potential", help="A bundle folder, a models:/ URI, or an exported file.")
@click.option("--elements", help="Of LAMMPS' atom types 1, 2, …, with commas: Si,C.")
@click.option(
    "--var", "variables", nargs=2, multiple=True, metavar="NAME VALUE", help="As LAMMPS' own option -var."
)
@click.option("--log", default="log.lammps", show_default=True, help="LAMMPS' log file, or none.")
@path_option
@model_options
@json_option
def command(
    script: Path,
    potential: str | None,
    elements: str | None,
    variables: tuple[tuple[str, str], ...],
    log: str,
    evaluation: str,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    r"""Run the LAMMPS input INPUT with a potential.

    \b
    By compiled C++, on any number of MPI ranks (mpiexec -n 8 gace lammps INPUT); the input says
        pair_style gace
        pair_coeff * * sic.gace Si C
    with a file that 'gace export' wrote; --potential and --elements are left out.

    \b
    By Python, in one process, with any bundle, also on a GPU; the input has 'pair_style zero 2.0' (or none)
    and, after the box is made and before the first run, the line
        fix gace all external pf/callback 1 1
    """
    from gace.engines.lammps import run_script, run_style, uses_style

    arguments = ["-log", log, *(["-screen", "none"] if as_json else [])]
    for name, value in variables:
        arguments += ["-var", name, value]
    if uses_style(script):
        if potential is not None or elements is not None:
            raise InputError(
                f"{script} has its potential in pair_style gace: leave out --potential and --elements"
            )
        outcome, first = run_style(script, arguments=arguments)
        if not first:  # another rank reports
            return
    elif potential is None or elements is None:
        raise InputError(f"--potential and --elements are missing: {script} has no pair_style gace")
    else:
        outcome = run_script(
            script,
            potential,
            elements=[symbol.strip() for symbol in elements.split(",") if symbol.strip()],
            device=device,
            dtype=dtype,
            evaluation=evaluation,
            arguments=arguments,
        )
    summary = {
        "status": "finished",
        "steps": outcome.steps,
        "atoms": outcome.atoms,
        "energy": finite(outcome.energy),
        "gamma_max": None if outcome.gamma_max is None else finite(outcome.gamma_max),
        "evaluations": outcome.evaluations,
        "neighbour_searches": outcome.searches,
        "seconds": outcome.seconds,
        "log": None if log == "none" else log,
    }
    report(summary, as_json)
