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
    """Run the LAMMPS input INPUT with a potential.

    \b
    By compiled C++, on any number of MPI ranks (mpiexec -n 8 gace lammps INPUT); the input says
        pair_style gace
        pair_coeff * * sic.gace Si C
    with a file that 'gace export' wrote; --potential and --elements are left out.

    \b
    By Python, in one process, with any bundle, also on a GPU; the input has 'pair_style zero 2.0' (or none)
    and, after the box is made and before the first run, the line
        fix gace all external pf/callback 1 1
    """  # noqa: D301  # click wants the character, not its name
    from gace.engines.lammps import run_script, run_style, uses_coupling, uses_style

    if log != "none" and not Path(log).parent.is_dir():
        raise InputError(f"no such folder for --log: {Path(log).parent}")
    arguments = ["-log", log, *(["-screen", "none"] if as_json else [])]
    for name, value in variables:
        arguments += ["-var", name, value]
    style, coupling = uses_style(script), uses_coupling(script)
    if style and coupling:
        raise InputError(f"{script} has both pair_style gace and a fix external: leave one of them out")
    # a style may be named by a variable: where nothing says otherwise the input knows its potential
    if style or (potential is None and elements is None and not coupling):
        if given := _given("potential", "elements", "device", "dtype", "evaluation"):
            raise InputError(
                f"{script} has its potential in pair_style gace, which runs on processors in the precision "
                f"of its file: leave out {given}"
            )
        outcome, first = run_style(script, arguments=arguments, say=lambda text: click.echo(text, err=True))
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


def _given(*names: str) -> str:
    """Those of the options that stand on the command line."""
    context = click.get_current_context()
    options = {one.name: one.opts[0] for one in context.command.params}
    source = click.core.ParameterSource.COMMANDLINE
    return ", ".join(options[name] for name in names if context.get_parameter_source(name) is source)
