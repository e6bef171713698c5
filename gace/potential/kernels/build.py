"""Build the C++ kernels once per machine and load them.

Plain C functions without PyTorch's headers: a few seconds of compile time, and any version of PyTorch
will do. The library is kept in the user's cache, keyed by source, compiler and processor, with its own
checksum at its end: one that a full disk or a crash has cut short would end every process without a word.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if os.environ.get("GACE_KERNELS", "").lower() == "off" or compiler is None:
        return None
    try:
        path = _path(compiler)
        if not _whole(path):
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home folder
        reason = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"kernels could not be built, going on without: {reason!r}", stacklevel=2)
        return None


def _path(compiler: str) -> Path:
    """Where the library of these sources, compiler and processor lies."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    key = hashlib.sha256(version + repr((FLAGS, _processor(), "checksum")).encode())
    for name in (*SOURCES, *HEADERS):
        key.update((HERE / name).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gace" / f"kernels-{key.hexdigest()[:20]}.so"


def _processor() -> str:
    """What decides which instructions the compiler may use: a home folder serves unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _whole(path: Path) -> bool:
    """Whether the library is there as it was built."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    size = hashlib.sha256().digest_size
    return len(content) > size and hashlib.sha256(content[:-size]).digest() == content[-size:]


def _build(compiler: str, path: Path) -> None:
    """Compile to a file of its own, then move it into place: others may be doing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = [str(Path(folder) / f"{name}.o") for name in SOURCES]

        def run(*arguments: str) -> None:
            subprocess.run([compiler, *FLAGS, *arguments], capture_output=True, check=True, timeout=300)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # a file each, all at once: the first user waits
            list(pool.map(lambda name, made: run("-c", str(HERE / name), "-o", made), SOURCES, objects))
        made = Path(folder) / path.name
        run("-shared", *objects, "-o", str(made))
        content = made.read_bytes()
        with made.open("ab") as file:  # the loader takes no notice of what comes after the sections
            file.write(hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
