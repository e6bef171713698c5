"""Whether two crystals are one: pymatgen's StructureMatcher, asked only about close pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ase import Atoms

from gace.errors import missing


def same_crystal(structures: Sequence[Atoms], tolerance: float) -> Callable[[int, int], bool]:
    """A test of two rows of ``structures`` for :func:`gace.selection.deduplicate`.

    Molecules, slabs and wires (not periodic in three directions) are taken for copies when their
    descriptors and compositions agree (of molecules formulas), since the matcher knows bulk crystals only.
    The volume is not scaled: a strained cell is another structure.

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
            converted[row] = AseAtomsAdaptor.get_structure(plain)
        return converted[row]

    def same(one: int, two: int) -> bool:
        if not (structures[one].pbc.all() and structures[two].pbc.all()):
            return _alike(structures[one], structures[two])
        if not matcher:
            matcher.append(_matcher(tolerance))
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


def _matcher(tolerance: float) -> Any:
    """A strict StructureMatcher: cells within 0.2 % and 0.2°, primitive cells compared."""
    try:
        from pymatgen.core.structure_matcher import StructureMatcher
    except ImportError:
        try:
            from pymatgen.analysis.structure_matcher import StructureMatcher
        except ImportError:
            raise missing("pymatgen", "platform") from None
    # the matcher gives up beyond stol; a little room keeps its search from ending at the very edge
    return StructureMatcher(
        ltol=0.002,
        stol=2 * tolerance,
        angle_tol=0.2,
        primitive_cell=True,
        scale=False,
        attempt_supercell=False,
    )
