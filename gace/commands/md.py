"""``gace md``: molecular dynamics with a potential."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gace.commands.options import (
    check_writable,
    finite,
    json_option,
    load_potential,
    model_options,
    path_option,
    potential_argument,
    progress_bar,
    read_one,
    report,
)

if TYPE_CHECKING:
    from ase import Atoms

    from gace.engines.dynamics import Frame


@click.command("md")
@potential_argument
@click.argument("structure", metavar="STRUCTURE")
@click.option("--temperature", type=float, default=300.0, show_default=True, help="K.")
@click.option("--final-temperature", type=float, help="K; end of a linear ramp (nvt).")
@click.option("--steps", type=int, default=1000, show_default=True)
@click.option("--timestep", type=float, default=0.5, show_default=True, help="fs.")
@click.option("--ensemble", type=click.Choice(["nve", "nvt"]), default="nvt", show_default=True)
@click.option("--friction", type=float, default=0.01, show_default=True, help="1/fs (nvt).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Trajectory, in the format of its name; grows in OUT.part as extended XYZ and becomes OUT when the "
    "run ends or is interrupted.",
)
@click.option("--log-every", type=int, default=10, show_default=True, help="Steps between kept frames.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of velocities and thermostat.")
@path_option
@model_options
@json_option
def command(
    potential: str,
    structure: str,
    temperature: float,
    final_temperature: float | None,
    steps: int,
    timestep: float,
    ensemble: str,
    friction: float,
    out: Path | None,
    log_every: int,
    seed: int,
    evaluation: str,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Run molecular dynamics from the last structure in STRUCTURE with POTENTIAL."""
    from gace.engines import molecular_dynamics
    from gace.errors import GaceError
    from gace.structures.formats import check_format
    from gace.structures.trajectory import Trajectory

    check_writable(out)
    start = read_one(structure)
    check_format(out, start, several=True)
    calculator = load_potential(potential, device, dtype).calculator(path=evaluation)
    gammas: list[float] = []
    with Trajectory(out) as trajectory, progress_bar("dynamics", steps, "steps") as advance:

        def observe(frame: Frame) -> None:
            gamma = frame.atoms.calc.results.get("gamma")
            if gamma is not None:
                gammas.append(float(gamma.max()))
            if out is not None:
                trajectory.append(snapshot(frame))
            advance(frame.step, f"{frame.temperature:.0f} K  {frame.total_energy:.4f} eV")

        outcome = molecular_dynamics(
            start,
            calculator,
            steps=steps,
            temperature=temperature,
            final_temperature=final_temperature,
            timestep=timestep,
            ensemble=ensemble,  # type: ignore[arg-type]
            friction=friction,
            seed=seed,
            every=log_every,
            observe=observe,
        )
    summary: dict[str, Any] = {
        "status": outcome.status,
        "steps": outcome.steps,
        "time_ps": outcome.steps * timestep / 1000,
        "mean_temperature": finite(outcome.mean_temperature),
        "energy_drift_mev_per_atom_ps": outcome.energy_drift,
        "gamma_max": finite(max(gammas)) if gammas else None,
        "trajectory": None if out is None else str(out),
    }
    report(summary, as_json)
    if outcome.status == "diverged":
        raise GaceError(
            f"the run diverged after {outcome.steps} steps: use a shorter timestep, or the potential does "
            "not hold here (its training data lack such structures)"
        )


def snapshot(frame: Frame) -> Atoms:
    """A copy of a frame with velocities and results, ready for extended XYZ."""
    results = frame.atoms.calc.results
    kept = frame.atoms.copy()
    kept.calc = None
    kept.info.update(
        time_ps=frame.time,
        temperature=frame.temperature,
        potential_energy=frame.potential_energy,
        kinetic_energy=frame.kinetic_energy,
    )
    kept.arrays["predicted_forces"] = results["forces"].copy()
    if "energy_std" in results:
        kept.info["energy_std"] = results["energy_std"]
    if "gamma" in results:
        kept.info["gamma"] = float(results["gamma"].max())
    return kept
