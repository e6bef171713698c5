"""Pairs of atoms by vesin's C library: its Python module imports PyTorch where that is installed."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gace.errors import InputError, MissingDependencyError
from gace.native.calls import Reason, pointer


def folder() -> Path:
    """Where vesin is installed; it is not imported.

    Raises:
        MissingDependencyError: it is not.
    """
    found = importlib.util.find_spec("vesin")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError("vesin is not installed: pip install vesin")
    return Path(next(iter(found.submodule_search_locations)))


@functools.cache
def _functions() -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
    """Addresses of the search, and of what frees its result."""
    (library,) = (folder() / "lib").glob("libvesin.*")
    loaded = ctypes.CDLL(str(library))
    return ctypes.cast(loaded.vesin_neighbors, ctypes.c_void_p), ctypes.cast(
        loaded.vesin_free, ctypes.c_void_p
    )


def pairs(
    positions: NDArray[np.float64], cell: NDArray[np.float64], periodic: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Centres ``(E,)``, neighbours ``(E,)`` and images ``(E, 3)`` of directed pairs, in no certain order.

    Raises:
        InputError: vesin refuses.
    """
    from gace.native.library import library

    own = library()
    own.gace_pairs.restype = ctypes.c_void_p
    points, box = np.ascontiguousarray(positions, float), np.ascontiguousarray(cell, float)
    along = np.ascontiguousarray(periodic, np.uint8)
    count, reason = ctypes.c_int64(), Reason()
    handle = own.gace_pairs(
        *_functions(), pointer(points), ctypes.c_int64(len(points)), pointer(box), pointer(along),
        ctypes.c_double(cutoff), ctypes.byref(count), *reason.room,
    )  # fmt: skip
    if not handle:
        raise InputError(f"no neighbours can be found: {reason}")
    centre, neighbour = (np.empty(count.value, np.int64) for _ in range(2))
    image = np.empty((count.value, 3), np.int64)
    own.gace_take_pairs(ctypes.c_void_p(handle), *map(pointer, (centre, neighbour, image)))
    return centre, neighbour, image
