"""Shear stresses whose components stand in another order than their key says.

Programs do not agree: Voigt has xx yy zz yz xz xy, VASP xx yy zz xy yz zx, LAMMPS xx yy zz xy xz yz. Read by
the wrong convention a stress stays symmetric and keeps its pressure, so nothing but the energies and forces
of the same structures can tell. A potential that knows those can: of the six orders of the shear components
one fits its own stresses, and structures that were labelled in one go share it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COMPONENTS = ("yz", "xz", "xy")
ROWS, COLUMNS = [1, 0, 0], [2, 2, 1]
"""Where those stand in a matrix."""
ORDERS = tuple(itertools.permutations(range(3)))
"""The first is the one given."""
CLEARLY = 2.0
"""By which factor another order must fit better, for all structures of a kind and for one."""
FEWEST = 3
"""Structures of a kind that must say so."""
AGREEING = 0.9
"""Share of the structures with an opinion that must say so."""


class Reordered(NamedTuple):
    """Structures of one kind whose shear stresses fit in another order."""

    config_type: str
    order: tuple[str, str, str]
    """Which component the numbers given as yz, xz and xy really are."""
    n_structures: int
    as_given: float
    """Root mean square deviation of the shear components, eV/Å³."""
    reordered: float
    """The same in the order that fits."""

    def summary(self) -> dict[str, Any]:
        """What there is to say, JSON-able; deviations in meV/Å³."""
        return {
            "config_type": self.config_type,
            "order": list(self.order),
            "n_structures": self.n_structures,
            "as_given": 1e3 * self.as_given,
            "reordered": 1e3 * self.reordered,
            "message": str(self),
        }

    def __str__(self) -> str:
        given = [f"{a} as {b}" for a, b in zip(self.order, COMPONENTS, strict=True) if a != b]
        return (
            f"the shear stresses of {self.n_structures} structures of config_type '{self.config_type}' "
            f"fit with their components in another order ({1e3 * self.reordered:.2g} instead of "
            f"{1e3 * self.as_given:.2g} meV/Å³): the labels give {', '.join(given)}"
        )


def reordered_stresses(
    labels: Sequence[Array | None], expected: Sequence[Array | None], kinds: Sequence[str]
) -> list[Reordered]:
    """Kinds of structures whose labels fit what is expected only in another order of the shear components.

    Args:
        labels: stress of each structure, eV/Å³ ``(3, 3)``, or None.
        expected: the same by a potential, which need not have learnt stresses.
        kinds: which structures were labelled in one go: ``info["config_type"]``.

    Returns:
        One entry per kind that is clearly in another order, by name; nothing where the evidence is thin.
    """
    groups: dict[str, list[tuple[Array, Array]]] = defaultdict(list)
    for label, other, kind in zip(labels, expected, kinds, strict=True):
        if label is not None and other is not None:
            groups[kind].append((shear(label), shear(other)))
    found = []
    for kind, pairs in sorted(groups.items()):
        given, other = (np.array(one) for one in zip(*pairs, strict=True))
        found.append(_judged(kind, given, other))
    return [one for one in found if one is not None]


def _judged(kind: str, labels: Array, expected: Array) -> Reordered | None:
    """The order of one kind, None where it is the one given; both in eV/Å³ ``(n, 3)``."""
    misfit = np.array([np.square(labels[:, list(order)] - expected).sum(1) for order in ORDERS])
    if not np.isfinite(misfit).all():
        return None
    best = int(misfit.sum(1).argmin())
    given, other = misfit[0], misfit[best]
    # the smallest misfit that means something: structures without shear have no opinion
    noise = float(other.mean())
    against = int(((given > CLEARLY**2 * other) & (given > noise)).sum())
    in_favour = int(((other > CLEARLY**2 * given) & (other > noise)).sum())
    if best == 0 or given.sum() < CLEARLY**2 * other.sum():
        return None
    if against < FEWEST or against < AGREEING * (against + in_favour):
        return None
    size = 3 * len(labels)
    # column k of the right order is the number that was given as ORDERS[best][k]
    names = [""] * 3
    for right, place in enumerate(ORDERS[best]):
        names[place] = COMPONENTS[right]
    order = (names[0], names[1], names[2])
    return Reordered(kind, order, len(labels), *((float(one.sum()) / size) ** 0.5 for one in (given, other)))


def shear(stress: Array) -> Array:
    """yz, xz and xy of a stress ``(3, 3)``."""
    return np.asarray(stress, dtype=float)[ROWS, COLUMNS]


def put_right(stress: Array, found: Reordered) -> Array:
    """A label with its shear components where they belong, eV/Å³ ``(3, 3)``."""
    corrected = np.array(stress, dtype=float)
    given = shear(stress)
    for place, name in enumerate(found.order):
        right = COMPONENTS.index(name)
        i, j = ROWS[right], COLUMNS[right]
        corrected[i, j] = corrected[j, i] = given[place]
    return corrected
