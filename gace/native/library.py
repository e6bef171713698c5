"""The compiled evaluation as a shared library, built once per machine."""

from __future__ import annotations

import ctypes
import functools
import subprocess
from pathlib import Path

from gace import machine_code
from gace.errors import InputError, MissingDependencyError
from gace.native import pairs

HERE = Path(__file__).parent / "cpp"
KERNELS = Path(__file__).parents[1] / "potential" / "kernels"

SOURCES = (
    *(HERE / f"{name}.cpp" for name in ("file", "graph", "layer", "linear", "potential", "readout")),
    *(KERNELS / f"{name}.cpp" for name in ("bonds", "coupling", "expansion", "linear", "mixed", "splined")),
)
"""What evaluates a potential; :data:`INTERFACE` or a program's own code comes on top."""

INTERFACE = (HERE / "interface.cpp", HERE / "neighbours.cpp")

HEADERS = (*sorted(HERE.glob("*.h")), *sorted(KERNELS.glob("*.h")))


def flags_for(architecture: str) -> tuple[str, ...]:
    """The compiler's flags; ``architecture`` as GCC's ``-march`` (``native``, ``x86-64-v3``)."""
    # why generic: see gace/potential/kernels/build.py
    tuned = (f"-march={architecture}", "-mtune=generic", "-std=c++17", "-fopenmp", "-fPIC")
    return ("-O3", *tuned, "-fvisibility=hidden")


@functools.cache
def library() -> ctypes.CDLL:
    """The library, built if need be (some seconds once).

    Raises:
        MissingDependencyError: there is no C++ compiler.
        InputError: it cannot be built; with the compiler's words.
    """
    compiler = machine_code.found_compiler()
    if compiler is None:
        raise MissingDependencyError(
            "files *.gace need a C++ compiler (c++, g++ or clang++) on the PATH, once"
        )
    flags, sources, vesin = flags_for("native"), (*SOURCES, *INTERFACE), pairs.folder() / "include"
    try:
        path = machine_code.place_of("native", compiler, flags, (*sources, *HEADERS, vesin / "vesin.h"))
        if not machine_code.is_whole(path):
            machine_code.build(compiler, path, flags, sources, [vesin])
        found = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
        raise InputError(f"cannot build what evaluates *.gace: {machine_code.reason_of(error)}") from None
    found.gace_read.restype = ctypes.c_void_p
    found.gace_free.argtypes = [ctypes.c_void_p]
    return found
