"""Whether two crystals are one: frames of one in place, others by pymatgen's StructureMatcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from gace.errors import missing

LENGTHS = 0.002
"""Relative difference of cell lengths up to which two cells are one."""


def same_crystal(structures: Sequence[Atoms], tolerance: float) -> Callable[[int, int], bool]:
    """A test of two rows of ``structures`` for :func:`gace.selection.deduplicate`.

    Molecules, slabs and wires (not periodic in three directions) are taken for copies when their
    descriptors and compositions agree (of molecules formulas), since the matcher knows bulk crystals only.
    The volume is not scaled: a strained cell is another structure.

    Frames of one crystal are compared atom by atom: a pool of cold ones holds very many close pairs, and
    the matcher takes a tenth of a second for each.

    Args:
        structures: known ones and candidates, in the rows' order.
        tolerance: root mean square displacement over the cube root of the volume per atom.
    """
    converted: dict[int, Any] = {}
    matcher: list[Any] = []

    def crystal(row: int) -> Any:
        from pymatgen.io.ase import AseAtomsAdaptor

        if row not in converted:
            plain = Atoms(numbers=structures[row].numbers, cell=structures[row].cell, pbc=True)
            plain.positions = structures[row].positions
            # pymatgen's own 0.25 Å takes a thermal crystal for the perfect one, and all its frames for copies
            converted[row] = AseAtomsAdaptor.get_structure(plain).get_primitive_structure(
                tolerance=tolerance * _length(plain)
            )
        return converted[row]

    def same(one: int, two: int) -> bool:
        if not (structures[one].pbc.all() and structures[two].pbc.all()):
            return _alike(structures[one], structures[two])
        if not matcher:  # though few pairs may need it: that it is missing does not depend on the pool
            matcher.append(_matcher(tolerance))
        if abs(_length(structures[one]) / _length(structures[two]) - 1) > 2 * LENGTHS:  # angles differ too
            return False
        displacement = _in_place(structures[one], structures[two])
        if displacement is not None:
            return displacement <= tolerance
        distance = matcher[0].get_rms_dist(crystal(one), crystal(two))
        return distance is not None and distance[0] <= tolerance

    return same


def _alike(one: Atoms, two: Atoms) -> bool:
    """Whether descriptors tell all: without neighbours in reach they do not even tell the elements."""
    if one.pbc.any() != two.pbc.any():
        return False
    if one.pbc.any():  # a slab may be described by a larger cell
        return bool(one.symbols.formula.reduce()[0] == two.symbols.formula.reduce()[0])
    return bool(one.symbols.formula == two.symbols.formula)


def _length(atoms: Atoms) -> float:
    """Cube root of the volume per atom, Å."""
    return float(atoms.cell.volume / len(atoms)) ** (1 / 3)


def _in_place(one: Atoms, two: Atoms) -> float | None:
    """Root mean square displacement but for a common shift, over the cube root of the volume per atom.

    None where these are not two frames of one crystal: other atoms, cells or places.
    """
    if not np.array_equal(one.numbers, two.numbers) or not np.allclose(one.cell, two.cell, rtol=0, atol=1e-6):
        return None
    moved = (two.positions - one.positions) @ np.linalg.inv(one.cell.array)
    moved -= moved[0]
    moved -= np.rint(moved)
    length = np.linalg.norm((moved - moved.mean(0)) @ one.cell.array, axis=1) / _length(one)
    # farther than that another atom may be the partner
    return float(np.sqrt(np.square(length).mean())) if length.max() < 0.25 else None


def _matcher(tolerance: float) -> Any:
    """A strict StructureMatcher: cells within 0.2 % and 0.2°."""
    try:
        from pymatgen.core.structure_matcher import StructureMatcher
    except ImportError:
        try:
            from pymatgen.analysis.structure_matcher import StructureMatcher
        except ImportError:
            raise missing("pymatgen", "platform") from None
    # the matcher gives up beyond stol; a little room keeps its search from ending at the very edge
    return StructureMatcher(
        ltol=LENGTHS,
        stol=2 * tolerance,
        angle_tol=0.2,
        primitive_cell=False,
        scale=False,
        attempt_supercell=False,
    )
