"""Output files in the format that their name says."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ase import Atoms

from gace.errors import InputError
from gace.files import replacing
from gace.structures.io import without_calculator, write_structures


class Format(NamedTuple):
    """A file format of ASE."""

    name: str
    """ASE's own."""
    several: bool
    """Whether a file holds more than one structure."""


EXTENDED_XYZ = Format("extxyz", several=True)
BY_SUFFIX = {
    ".cif": Format("cif", several=True),
    ".pdb": Format("proteindatabank", several=True),
    ".poscar": Format("vasp", several=False),
    ".traj": Format("traj", several=True),
    ".vasp": Format("vasp", several=False),
    ".xsf": Format("xsf", several=True),
}
BY_NAME = {
    "CONTCAR": Format("vasp", several=False),
    "POSCAR": Format("vasp", several=False),
    "XDATCAR": Format("vasp-xdatcar", several=True),
}


def format_of(path: Path, *, several: bool = False) -> Format:
    """The format that a file's name says: extended XYZ unless it is one of those above.

    Args:
        path: the file to be written.
        several: whether more than one structure goes into it.

    Raises:
        InputError: the format holds one structure, or is asked for compressed and is not extended XYZ.
    """
    plain = path.name.removesuffix(".gz")
    found = BY_NAME.get(plain) or BY_SUFFIX.get(Path(plain).suffix.lower()) or EXTENDED_XYZ
    if found != EXTENDED_XYZ and plain != path.name:
        raise InputError(f"cannot write {path}: only extended XYZ is compressed, name it .xyz.gz or {plain}")
    if several and not found.several:
        raise InputError(f"cannot write {path}: that format holds one structure, name it .xyz or .traj, say")
    return found


def check_format(path: Path | None, structure: Atoms, *, several: bool = False) -> None:
    """Refuse a file whose format cannot hold structures like this one, before anything is computed.

    Raises:
        InputError: as :func:`format_of` and :func:`write_as_named`.
    """
    if path is None or (found := format_of(path, several=several)) == EXTENDED_XYZ:
        return
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / path.name, [structure], found, path)


def write_as_named(path: Path, structures: Sequence[Atoms]) -> None:
    """Write structures in the format that the name says, whole or not at all; no calculator's results.

    Raises:
        InputError: the format cannot hold these structures, or the file cannot be written.
    """
    found = format_of(path, several=len(structures) > 1)
    if found == EXTENDED_XYZ:
        write_structures(path, structures)
        return
    with replacing(path) as temporary:
        _write(temporary, structures, found, path)


def _write(file: Path, structures: Sequence[Atoms], found: Format, path: Path) -> None:
    """Write to ``file`` what is meant for ``path``."""
    from ase.io import write

    try:
        write(file, [without_calculator(atoms) for atoms in structures], format=found.name)
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot write {path} as {found.name}: {reason}") from None
