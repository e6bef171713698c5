"""Build the C++ kernels once per machine and load them.

Plain C functions without PyTorch's headers: a few seconds of compile time, and any version of PyTorch
will do. Where and how the library is kept: :mod:`gace.machine_code`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import warnings
from pathlib import Path

from gace import machine_code

HERE = Path(__file__).parent
SOURCES = (
    "bonds.cpp", "coupling.cpp", "density.cpp", "expansion.cpp", "linear.cpp", "mixed.cpp", "splined.cpp",
)  # fmt: skip
HEADERS = ("vectors.h", "coupling.h", "density.h")
# tuned for its own processor (Zen 4) GCC keeps addresses in vector registers; couplings take a tenth longer
FLAGS = ("-O3", "-march=native", "-mtune=generic", "-std=c++17", "-fopenmp", "-fPIC")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, built if need be; None where there is no compiler or with ``GACE_KERNELS=off``."""
    compiler = machine_code.found_compiler()
    if os.environ.get("GACE_KERNELS", "").lower() == "off" or compiler is None:
        return None
    try:
        path = _path(compiler)
        if not machine_code.is_whole(path):
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
        reason = machine_code.reason_of(error)
        warnings.warn(f"kernels could not be built, going on without: {reason!r}", stacklevel=2)
        return None


def _path(compiler: str) -> Path:
    """Where the library of these sources, compiler and processor lies."""
    files = [HERE / name for name in (*SOURCES, *HEADERS)]
    return machine_code.place_of("kernels", compiler, FLAGS, files)


def _build(compiler: str, path: Path) -> None:
    machine_code.build(compiler, path, FLAGS, [HERE / name for name in SOURCES])
