"""``gace relax``: relax a structure, and its cell, with a potential."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gace.commands.options import (
    check_writable,
    finite,
    json_option,
    load_potential,
    model_options,
    potential_argument,
    progress_bar,
    read_one,
    report,
)


@click.command("relax")
@potential_argument
@click.argument("structure", metavar="STRUCTURE")
@click.option("--fmax", type=float, default=0.01, show_default=True, help="eV/Å, bound on any atom's force.")
@click.option("--steps", type=int, default=500, show_default=True, help="At most this many.")
@click.option("--cell", is_flag=True, help="Relax the cell too.")
@click.option("--optimiser", type=click.Choice(["lbfgs", "bfgs", "fire"]), default="lbfgs", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The relaxed structure, in the format of its name."
)
@model_options
@json_option
def command(
    potential: str,
    structure: str,
    fmax: float,
    steps: int,
    cell: bool,
    optimiser: str,
    out: Path | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Relax the last structure in STRUCTURE with POTENTIAL.

    Not to converge within the steps is reported, and fails (exit code 1).
    """
    from gace.engines import relaxation
    from gace.errors import GaceError
    from gace.structures.formats import check_format, write_as_named

    check_writable(out)
    start = read_one(structure)
    check_format(out, start)
    calculator = load_potential(potential, device, dtype).calculator()
    with progress_bar("relaxing", steps, "steps") as advance:
        outcome = relaxation(
            start,
            calculator,
            fmax=fmax,
            steps=steps,
            cell=cell,
            optimiser=optimiser,  # type: ignore[arg-type]
            observe=lambda step, energy, force: advance(step, f"{energy:.4f} eV  {force:.4f} eV/Å"),
        )
    if out is not None:
        write_as_named(out, [outcome.atoms])
    summary: dict[str, Any] = {
        "converged": outcome.converged,
        "steps": outcome.steps,
        "energy": finite(outcome.energy),
        "fmax": finite(outcome.fmax),
        "stress_max": None if outcome.stress_max is None else finite(outcome.stress_max),
        "structure": None if out is None else str(out),
    }
    report(summary, as_json)
    if finite(outcome.energy) is None:
        raise GaceError(
            f"the energy is {outcome.energy} after {outcome.steps} steps: two atoms lie in one place, or the "
            "potential does not hold here"
        )
    if not outcome.converged:
        raise GaceError(
            f"not converged in {outcome.steps} steps: the largest force is {outcome.fmax:.4g} eV/Å"
        )
