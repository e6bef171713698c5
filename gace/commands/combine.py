"""``gace combine``: several potentials as one."""

from __future__ import annotations

from pathlib import Path

import click

from gace.commands.options import json_option, load_potential, report
from gace.errors import InputError


@click.command("combine")
@click.argument("potentials", metavar="POTENTIAL...", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option(
    "--dtype",
    default="float64",
    show_default=True,
    help="Precision in which parameters are kept: float32 is half.",
)
@click.option(
    "--weights",
    metavar="W,W,…",
    help="Weight of each POTENTIAL, comma-separated; default: all members alike.",
)
@click.option(
    "--fit-weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Labelled structures none of them has seen: take the weights with which the mean errs least there.",
)
@json_option
def command(
    potentials: tuple[str, ...],
    out: Path,
    dtype: str,
    weights: str | None,
    fit_weights: Path | None,
    as_json: bool,
) -> None:
    """Write the mean of all members of two or more POTENTIALs as one bundle.

    They must be for the same labels: elements, cutoff, isolated-atom energies and level of theory have
    to agree. Error bars and novelty measures are left behind; the members' spread is reported uncalibrated.
    """
    from gace.potential.bundle import bundle_hash, save_bundle
    from gace.potential.combination import combine, fitted_weights
    from gace.structures.io import read_structures

    if weights is not None and fit_weights is not None:
        raise InputError("--weights and --fit-weights exclude each other")
    loaded = [load_potential(one, "cpu", dtype) for one in potentials]
    chosen = None if weights is None else _numbers(weights)
    if fit_weights is not None:
        chosen = fitted_weights(loaded, read_structures(fit_weights))
    whole = combine(loaded, chosen)
    save_bundle(whole, out)
    found = {"path": str(out), "n_members": len(whole.members), "weights": chosen}
    report({**found, "bundle_hash": bundle_hash(out)}, as_json)


def _numbers(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise InputError(f"--weights {text}: write numbers separated by commas, such as 1,3") from None
