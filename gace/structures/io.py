"""Reading and writing structures, and the labels they carry.

A labelled structure is one frame of extended XYZ with ``REF_energy`` (eV), ``REF_forces``
(eV/Å) and, where known, ``REF_stress`` (eV/Å³, tension positive). Files whose energy and forces
stand under ASE's own names are understood as well.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.errors import InputError
from gace.files import replacing


class Labels(NamedTuple):
    """Reference values of one structure; None where absent."""

    energy: float | None
    """eV, of the whole structure."""

    forces: NDArray[np.float64] | None
    """eV/Å ``(N, 3)``; a NaN component is missing."""

    stress: NDArray[np.float64] | None
    """eV/Å³ ``(3, 3)``, tension positive."""


def read_structures(path: str | Path, index: str = ":") -> list[Atoms]:
    """Every structure of a file that ASE can read, gzip-compressed or not.

    Args:
        path: the file.
        index: which frames, as ASE writes it (``":"``, ``"-1"``, ``"0:100:2"``).

    Raises:
        InputError: the file is missing, empty, or not readable as structures.
    """
    from ase.io import read

    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}" if not path.exists() else f"not a file: {path}")
    # the plain .xyz reader of ASE would drop labels that extended XYZ carries
    form = "extxyz" if path.name.removesuffix(".gz").endswith((".xyz", ".extxyz")) else None
    try:
        # an @ belongs to the name: ASE would take what follows it for the frames to read
        frames = read(path, index=index, format=form, do_not_split_by_at_sign=True)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read structures from {path}: {reason}") from None
    structures = frames if isinstance(frames, list) else [frames]
    if not structures or not all(len(atoms) for atoms in structures):
        raise InputError(f"{path} holds {'an empty structure' if structures else 'no structures'}")
    return structures


def write_structures(path: str | Path, structures: Sequence[Atoms]) -> None:
    """Write extended XYZ, whole or not at all; results of a calculator are not written.

    Labels belong in ``info`` and ``arrays`` under their ``REF_`` names. A name that ends in
    ``.gz`` is compressed (without a time stamp, so that equal content gives equal bytes).

    Raises:
        InputError: the folder cannot be made or written.
    """
    import io

    from ase.io import write

    text = io.StringIO()
    if structures:
        write(text, [without_calculator(atoms) for atoms in structures], format="extxyz", write_results=False)
    content = compressed(text.getvalue().encode(), path)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def compressed(content: bytes, path: str | Path) -> bytes:
    """The content of a file: compressed, without a time stamp, if its name ends in ``.gz``."""
    return gzip.compress(content, mtime=0) if str(path).endswith(".gz") else content


def without_calculator(atoms: Atoms) -> Atoms:
    """A copy that keeps ``info`` and ``arrays`` but no calculator."""
    plain = atoms.copy()
    plain.calc = None
    return plain


def labels_of(atoms: Atoms) -> Labels:
    """The labels of a structure: ``REF_`` names first, else ASE's own results.

    Raises:
        InputError: a label has the wrong shape.
    """
    energy = _value(atoms, "energy")
    forces = _value(atoms, "forces")
    return Labels(_energy(energy), _forces(forces, len(atoms)), stress_matrix(_value(atoms, "stress")))


def config_type_of(atoms: Atoms) -> str:
    """The kind a structure counts as in tables and checks: ``info["config_type"]``, or ``default``."""
    return str(atoms.info.get("config_type", "default"))


def set_labels(
    atoms: Atoms,
    energy: float | None = None,
    forces: NDArray[np.float64] | None = None,
    stress: NDArray[np.float64] | None = None,
) -> Atoms:
    """A copy of ``atoms`` that carries these labels (eV, eV/Å, eV/Å³) under their ``REF_`` names."""
    labelled = without_calculator(atoms)
    if energy is not None:
        labelled.info["REF_energy"] = float(energy)
    if forces is not None:
        labelled.arrays["REF_forces"] = np.array(forces, dtype=float)
    if stress is not None:
        labelled.info["REF_stress"] = np.array(stress_matrix(stress), dtype=float)
    return labelled


def stress_matrix(stress: Any) -> NDArray[np.float64] | None:
    """A stress given as six Voigt components, nine numbers or a matrix, as ``(3, 3)``; None if missing.

    Raises:
        InputError: another shape.
    """
    if stress is None:
        return None
    values = np.asarray(stress, dtype=float)
    if values.size == 6:
        xx, yy, zz, yz, xz, xy = values.ravel()
        values = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    elif values.size == 9:
        values = values.reshape(3, 3)
    else:
        raise InputError(f"a stress has 6 or 9 numbers, not {values.size}")
    return None if np.isnan(values).any() else values


def _value(atoms: Atoms, name: str) -> Any:
    """A label by name from ``info`` or ``arrays``, else from an attached calculator's results."""
    for key in (f"REF_{name}", name):
        for place in (atoms.info, atoms.arrays):
            if key in place:
                return place[key]
        if key == name and atoms.calc is not None:
            with contextlib.suppress(AttributeError):
                return atoms.calc.results.get(name)
    return None


def _energy(value: Any) -> float | None:
    if value is None:
        return None
    try:
        energy = float(np.asarray(value, dtype=float).reshape(()))
    except (TypeError, ValueError):
        raise InputError(f"an energy label must be one number, got {value!r}") from None
    return None if np.isnan(energy) else energy


def _forces(value: Any, n_atoms: int) -> NDArray[np.float64] | None:
    if value is None:
        return None
    try:
        forces = np.asarray(value, dtype=float).reshape(n_atoms, 3)
    except (TypeError, ValueError):
        raise InputError(f"force labels must have the shape ({n_atoms}, 3)") from None
    return None if np.isnan(forces).all() else forces
