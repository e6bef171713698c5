"""Ground states of isolated atoms."""

from __future__ import annotations

from gace.errors import InputError

_SHELLS = ("s", "p", "d", "f")

# Neutral atoms whose ground configuration departs from the order of filling (Madelung's rule):
# number of unpaired electrons by Hund's first rule in the observed configuration.
_EXCEPTIONS = {
    "Cr": 6, "Cu": 1, "Nb": 5, "Mo": 6, "Ru": 4, "Rh": 3, "Pd": 0, "Ag": 1, "La": 1, "Ce": 2,
    "Gd": 8, "Pt": 2, "Au": 1, "Ac": 1, "Th": 2, "Pa": 3, "U": 4, "Np": 5, "Cm": 8, "Lr": 1,
}  # fmt: skip


def unpaired_electrons(symbol: str) -> int:
    """Number of unpaired electrons of a neutral atom in its ground state (Hund's first rule).

    Raises:
        InputError: no such element.
    """
    from ase.data import atomic_numbers

    if symbol in _EXCEPTIONS:
        return _EXCEPTIONS[symbol]
    if symbol not in atomic_numbers or symbol == "X":
        raise InputError(f"no such element: '{symbol}'")
    electrons = atomic_numbers[symbol]
    for degree in _filling_order():
        orbitals = 2 * degree + 1
        if electrons <= 2 * orbitals:
            return electrons if electrons <= orbitals else 2 * orbitals - electrons
        electrons -= 2 * orbitals
    raise InputError(f"no ground state known for element '{symbol}'")


def _filling_order() -> list[int]:
    """Degrees l of the shells in Madelung's order: ascending n + l, then n."""
    shells = [(n + l, n, l) for n in range(1, 9) for l in range(min(n, len(_SHELLS)))]
    return [l for _, _, l in sorted(shells)]
