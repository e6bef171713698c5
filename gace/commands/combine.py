"""``gace combine``: several potentials as one."""

from __future__ import annotations

from pathlib import Path

import click

from gace.commands.options import json_option, load_potential, report


@click.command("combine")
@click.argument("potentials", metavar="POTENTIAL...", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option(
    "--dtype",
    default="float64",
    show_default=True,
    help="Precision in which parameters are kept: float32 is half.",
)
@json_option
def command(potentials: tuple[str, ...], out: Path, dtype: str, as_json: bool) -> None:
    """Write the mean of all members of two or more POTENTIALs as one bundle.

    They must be for the same labels: elements, cutoff, isolated-atom energies and level of theory have
    to agree. Error bars and novelty measures are left behind; the members' spread is reported uncalibrated.
    """
    from gace.potential.bundle import bundle_hash, save_bundle
    from gace.potential.combination import combine

    whole = combine([load_potential(one, "cpu", dtype) for one in potentials])
    save_bundle(whole, out)
    report({"path": str(out), "n_members": len(whole.members), "bundle_hash": bundle_hash(out)}, as_json)
