"""Which invariants a linear ACE is made of: products of 1 … 4 atomic-base functions, no two dependent.

A factor is ``A_{z n l m} = Σ_j δ(z_j, z) R_n(r_ij) Y_lm(r_ij)``, so that chemistry, radial index and
degree are explicit, nothing is contracted and nothing about the basis is learnt. Products of equal
factors under different intermediate couplings are linearly dependent; one maximal independent set of
couplings is found numerically, once for each pattern of degrees and equal factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from gace.basis import real_clebsch_gordan

MAX_ORDER = 4


class Factor(NamedTuple):
    """One atomic-base function, its component m left open."""

    l: int
    """Degree of the spherical harmonic."""
    n: int
    """Radial index, from 0."""
    z: int
    """Element index of the neighbours."""


class Invariant(NamedTuple):
    """A product of factors coupled to zero: (first two → L), (last two → L), joined to a scalar."""

    factors: tuple[Factor, ...]
    """One to four, sorted."""
    L: int
    """Intermediate degree; the only factor's, both factors', or the last one's below order four."""

    @property
    def order(self) -> int:
        """Number of factors ν."""
        return len(self.factors)


def level(factors: tuple[Factor, ...], degree_weight: float, order_cost: float) -> float:
    """How high up in the basis a product stands: ``Σ (n + degree_weight · l + order_cost)``."""
    return sum(factor.n + degree_weight * factor.l + order_cost for factor in factors)


def enumerate_invariants(
    n_elements: int, order: int, highest: float, degree_weight: float, order_cost: float, max_degree: int
) -> list[Invariant]:
    """All independent invariants up to a level, by level; see :func:`level`.

    Args:
        n_elements: of the neighbours.
        order: highest number of factors, 1 … 4.
        highest: largest level.
        degree_weight: price of one unit of l, in units of n.
        order_cost: price of one more factor.
        max_degree: highest degree of a factor.
    """
    alone = [
        Factor(l, n, z)
        for l in range(max_degree + 1)
        for n in range(int(highest) + 1)
        for z in range(n_elements)
        if level((Factor(l, n, z),), degree_weight, order_cost) <= highest
    ]
    price = {one: level((one,), degree_weight, order_cost) for one in alone}

    def products(start: int, room: float, left: int) -> Iterator[tuple[Factor, ...]]:
        for position in range(start, len(alone)):
            one = alone[position]
            if price[one] > room + 1e-9:
                continue
            yield (one,)
            if left > 1:
                for rest in products(position, room - price[one], left - 1):
                    yield (one, *rest)

    found = [
        Invariant(factors, L)
        for factors in products(0, highest, order)
        for L in intermediate_degrees(factors)
    ]
    return sorted(found, key=lambda one: (level(one.factors, degree_weight, order_cost), one))


def intermediate_degrees(factors: tuple[Factor, ...]) -> tuple[int, ...]:
    """Intermediate degrees whose invariants form a basis of all invariants of these (sorted) factors."""
    degrees = tuple(factor.l for factor in factors)
    if sum(degrees) % 2:
        return ()
    if len(degrees) == 1:
        return (0,) if degrees[0] == 0 else ()
    if len(degrees) == 2:
        return (degrees[0],) if degrees[0] == degrees[1] else ()
    if len(degrees) == 3:
        low, high = abs(degrees[0] - degrees[1]), degrees[0] + degrees[1]
        return (degrees[2],) if low <= degrees[2] <= high else ()
    groups = tuple(factors.index(one) for one in factors)
    return _independent(degrees, groups)


@cache
def _independent(degrees: tuple[int, ...], groups: tuple[int, ...]) -> tuple[int, ...]:
    """Independent couplings of four factors, where equal ``groups`` mark equal factors."""
    a, b, c, d = degrees
    low, high = max(abs(a - b), abs(c - d)), min(a + b, c + d)
    candidates = range(low, high + 1)
    if not candidates:
        return ()
    rng = np.random.default_rng(0)  # generic points only: any will do, always the same
    rows = []
    for _ in range(2 * len(candidates) + 4):
        vectors = {group: rng.standard_normal(2 * l + 1) for group, l in zip(groups, degrees, strict=True)}
        x = [vectors[group] for group in groups]
        rows.append([float(_coupled(x[0], x[1], L) @ _coupled(x[2], x[3], L)) for L in candidates])
    values: NDArray[np.float64] = np.array(rows)
    _, triangle, pivots = qr(values, mode="economic", pivoting=True)
    size = np.abs(np.diag(triangle))
    rank = int((size > 1e-9 * max(size[0], 1e-300)).sum()) if size[0] > 1e-9 else 0
    return tuple(sorted(candidates[position] for position in pivots[:rank]))


def _coupled(x: NDArray[np.float64], y: NDArray[np.float64], L: int) -> NDArray[np.float64]:
    """The part of degree ``L`` of the product of two vectors of components."""
    table = real_clebsch_gordan((len(x) - 1) // 2, (len(y) - 1) // 2, L)
    return np.asarray(np.einsum("Mab,a,b->M", table, x, y))


def choose_level(
    n_elements: int, order: int, size: int, degree_weight: float, order_cost: float, max_degree: int
) -> float:
    """The highest level (in steps of a half) whose basis has no more than ``size`` invariants."""
    chosen = 1.0 + order_cost
    while True:
        wider = chosen + 0.5
        found = enumerate_invariants(n_elements, order, wider, degree_weight, order_cost, max_degree)
        if len(found) > size or wider > 60:
            return chosen
        chosen = wider
