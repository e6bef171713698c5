"""Running an input whose potential is ``pair_style gace``: compiled C++, on any number of MPI ranks."""

from __future__ import annotations

import atexit
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gace.engines.lammps.library import open_lammps
from gace.engines.lammps.script import FIX, ScriptOutcome, bare, read_lines
from gace.errors import GaceError

_STYLE = re.compile(r"""^\s*pair_style\s+["']?(hybrid\S*\s+.*)?\bgace\b""")
_INCLUDE = re.compile(r"""^\s*include\s+["']?([^"'\s]+)""")


def uses_style(path: str | Path) -> bool:
    """Whether an input, or a file it includes, names ``pair_style gace``, alone or in a hybrid one.

    Raises:
        InputError: it cannot be read.
    """
    return _names_it(read_lines(path), set())


def uses_coupling(path: str | Path) -> bool:
    """Whether an input has a fix external, by which Python hands the potential in.

    Raises:
        InputError: it cannot be read.
    """
    return any(FIX.match(bare(line)) for line in read_lines(path))


def _names_it(lines: list[str], seen: set[Path]) -> bool:
    whole = re.sub(r"&[ \t]*\n", " ", "\n".join(map(bare, lines)))  # LAMMPS goes on in the next line after &
    for line in whole.splitlines():
        if _STYLE.match(line):
            return True
        if (found := _INCLUDE.match(line)) is None:
            continue
        included = Path(found[1])
        if included not in seen and included.is_file():  # one named by a variable is not looked for
            seen.add(included)
            if _names_it(read_lines(included), seen):
                return True
    return False


def run_style(
    path: str | Path, *, arguments: Sequence[str] = (), say: Callable[[str], object] | None = None
) -> tuple[ScriptOutcome, bool]:
    """Run an input of LAMMPS with the plug-in loaded before its first line.

    Under ``mpiexec`` each rank calls it. Relative paths in the input start at the current folder.

    Args:
        path: the input.
        arguments: LAMMPS' own command-line options.
        say: is told what takes a while.

    Returns:
        How it ended, and whether this is the first rank.

    Raises:
        InputError: the plug-in cannot be built.
        MissingDependencyError: LAMMPS or a C++ compiler is absent.
        GaceError: LAMMPS stopped with an error.
    """
    from gace.native.plugin import installed_plugin

    plugin, began = installed_plugin(say), time.perf_counter()
    lmp = open_lammps(arguments)
    atexit.unregister(lmp.lib.lammps_mpi_finalize)
    try:
        first = int(lmp.extract_setting("world_rank")) == 0
        try:
            lmp.command(f'plugin load "{plugin}"')
            if not lmp.has_style("pair", "gace"):  # LAMMPS writes why into its log, and goes on
                raise GaceError(f"LAMMPS cannot load its plug-in {plugin}: its log says why")
            lmp.file(str(path))
        except GaceError:
            raise
        except Exception as error:  # LAMMPS' module raises bare Exception
            raise GaceError(f"LAMMPS stopped: {' '.join(str(error).split())}") from None
        outcome = ScriptOutcome(
            steps=int(lmp.extract_global("ntimestep")),
            atoms=int(lmp.get_natoms()),
            energy=_energy(lmp),
            gamma_max=None,
            evaluations=None,
            searches=None,
            seconds=time.perf_counter() - began,
        )
        if int(lmp.extract_setting("world_size")) > 1:
            # A rank that ends without a word to MPI has the others killed, were they still writing. One that
            # failed must not wait for them, so only here; and at the very end: more inputs may be run before.
            atexit.register(lmp.lib.lammps_mpi_finalize)
        return outcome, first
    finally:
        lmp.close()


def _energy(lmp: Any) -> float:
    """Potential energy of the last step, eV; NaN if none was computed."""
    try:
        return float(lmp.get_thermo("pe"))
    except Exception:  # LAMMPS' module raises bare Exception
        return math.nan
