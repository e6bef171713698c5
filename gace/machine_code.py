"""Build C++ once per machine into a shared library, and find it again.

The library is kept in the user's cache, keyed by source, compiler and processor, with its own checksum at its
end: one that a full disk or a crash has cut short would end every process without a word.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def found_compiler() -> str | None:
    """The C++ compiler on the PATH, None if there is none."""
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def place_of(
    name: str, compiler: str, flags: Sequence[str], files: Sequence[Path], *, more: Sequence[str] = ()
) -> Path:
    """Where the library of these sources, compiler and processor lies, ``name-<key>.so``.

    Args:
        name: what it is called.
        compiler: its path; its version is part of the key.
        flags: given to it.
        files: sources and headers.
        more: what else the library depends on.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    key = hashlib.sha256(version + repr((tuple(flags), processor(), "checksum", *more)).encode())
    for file in files:
        key.update(file.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gace" / f"{name}-{key.hexdigest()[:20]}.so"


def processor() -> str:
    """What decides which instructions the compiler may use: a home folder serves unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def is_whole(path: Path) -> bool:
    """Whether the library is there as it was built."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    size = hashlib.sha256().digest_size
    return len(content) > size and hashlib.sha256(content[:-size]).digest() == content[-size:]


def build(
    compiler: str, path: Path, flags: Sequence[str], sources: Sequence[Path], include: Sequence[Path] = ()
) -> None:
    """Compile to a file of its own, then move it into place: others may be doing the same.

    Args:
        compiler: its path.
        path: of the library.
        flags: given to the compiler.
        sources: a translation unit each.
        include: folders with further headers.

    Raises:
        subprocess.SubprocessError: the compiler refuses, with its message in ``stderr``, or takes too long.
        OSError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = [str(Path(folder) / f"{n}-{source.name}.o") for n, source in enumerate(sources)]

        def run(*arguments: str) -> None:
            command = [compiler, *flags, *(f"-I{one}" for one in include), *arguments]
            subprocess.run(command, capture_output=True, check=True, timeout=300)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # a file each, all at once: the first user waits
            list(pool.map(lambda source, made: run("-c", str(source), "-o", made), sources, objects))
        made = Path(folder) / path.name
        run("-shared", *objects, "-o", str(made))
        content = made.read_bytes()
        with made.open("ab") as file:  # the loader takes no notice of what comes after the sections
            file.write(hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)


def reason_of(error: BaseException) -> str:
    """What the compiler or the system says."""
    text = getattr(error, "stderr", None) or str(error)
    return text.decode(errors="replace") if isinstance(text, bytes) else text
