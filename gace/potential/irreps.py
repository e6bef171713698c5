"""Which angular momenta and parities an array holds along its component axis."""

from __future__ import annotations

from typing import NamedTuple


class Irrep(NamedTuple):
    """Degree and parity; ``parity`` is +1 where inversion gives (-1)^degree, -1 for pseudo-tensors."""

    degree: int
    parity: int

    @property
    def dim(self) -> int:
        """Number of components, 2l + 1."""
        return 2 * self.degree + 1

    def couples_to(self, other: Irrep) -> list[Irrep]:
        """All irreps contained in the product with ``other``."""
        low, high = abs(self.degree - other.degree), self.degree + other.degree
        return [
            Irrep(L, self.parity * other.parity * (-1) ** (self.degree + other.degree + L))
            for L in range(low, high + 1)
        ]


SCALAR = Irrep(0, 1)


class Irreps(tuple[Irrep, ...]):
    """Ordered irreps; arrays over them have shape ``(dim, N, K)``, components leading."""

    __slots__ = ()

    @property
    def dim(self) -> int:
        """Total number of components."""
        return sum(irrep.dim for irrep in self)

    def slices(self) -> list[slice]:
        """Where each irrep's components lie along the component axis."""
        found, start = [], 0
        for irrep in self:
            found.append(slice(start, start + irrep.dim))
            start += irrep.dim
        return found

    def owner(self) -> list[int]:
        """For every component the position of its irrep."""
        return [position for position, irrep in enumerate(self) for _ in range(irrep.dim)]


def natural(l_max: int) -> Irreps:
    """Degrees 0 … l_max with the parity of the spherical harmonics."""
    return Irreps(Irrep(l, 1) for l in range(l_max + 1))


def both_parities(l_max: int) -> Irreps:
    """Degrees 0 … l_max, natural parity first, then the pseudo-tensors."""
    return Irreps([*natural(l_max), *(Irrep(l, -1) for l in range(l_max + 1))])
