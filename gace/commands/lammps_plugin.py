"""``gace lammps-plugin``: LAMMPS' ``pair_style gace`` for a LAMMPS of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from gace.commands.options import check_writable, json_option, report


@click.command("lammps-plugin")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write, such as gaceplugin.so."
)
@click.option(
    "--lammps",
    type=click.Path(path_type=Path),
    help="Folder with that LAMMPS' headers (src of its source tree); default the installed Python package's.",
)
@click.option(
    "--mpi", type=click.Path(path_type=Path), help="Folder with its mpi.h; not with a compiler mpicxx."
)
@click.option("--compiler", help="C++ compiler, such as mpicxx; default c++, g++ or clang++.")
@click.option(
    "--march",
    default="native",
    show_default=True,
    help="Instructions that are used, as GCC's -march: x86-64-v3 for a cluster of unlike machines.",
)
@click.option(
    "--define",
    "definitions",
    multiple=True,
    default=("LAMMPS_SMALLBIG",),
    show_default=True,
    help="What that LAMMPS was compiled with: LAMMPS_BIGBIG, or LAMMPS_SMALLBIG.",
)
@json_option
def command(
    out: Path,
    lammps: Path | None,
    mpi: Path | None,
    compiler: str | None,
    march: str,
    definitions: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compile the plug-in that gives a LAMMPS 'pair_style gace', for what 'gace export' writes as *.gace.

    \b
    In the input:   plugin load gaceplugin.so
                    pair_style gace
                    pair_coeff * * sic.gace Si C
    """  # noqa: D301  # click wants the character, not its name
    from gace.native.plugin import build_plugin

    check_writable(out)
    flags = tuple(f"-D{one}" for one in definitions)
    made = build_plugin(out, lammps=lammps, mpi=mpi, compiler=compiler, architecture=march, definitions=flags)
    report({"path": str(made), "bytes": made.stat().st_size, "march": march}, as_json)
