"""All products of a layer's density as lists, which compiled C++ takes in one call (``expansion.cpp``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from gace.potential.kernels.coupling import WeightedCoupling

_NOTHING = [0] * 10


class Coupled(NamedTuple):
    """One of the products."""

    product: WeightedCoupling
    weights: Tensor
    """``(paths, n_elements, K)``."""
    place: Tensor
    """Row of the result for each target ``(targets,)``."""


class Expansion:
    """Invariants, components of the message and mixed pairs of densities A ``(N, dim, K)``.

    They are the rows of one array, in this order: the scalars among the densities, among the pairs A A, the
    triples (A A) A and the quadruples (A A) (A A); what all of these add to the message, channels not yet
    mixed; and the pairs summed over paths, which are a factor of triples and quadruples.

    Args:
        dim: components of the density.
        scalars: so many of them come first as invariants.
        rows: numbers of invariants, of components of the message and of mixed pairs.
        target: component of the message for each of the density's first components in it ``(direct,)``.
        own: their weights ``(n_elements, direct, K)``.
        couplings: pairs, triples and quadruples, as far as there are any.

    Attributes:
        size: channels, elements, components and scalars of the density and components of it in the message;
            invariants, components of the message and mixed pairs; then ten numbers of each product.
        arrays: ``target`` and ``own``; then index, coefficients, weights and places of each product, None for
            one that is not there.
    """

    def __init__(
        self,
        *,
        dim: int,
        scalars: int,
        rows: tuple[int, int, int],
        target: Tensor,
        own: Tensor,
        couplings: Sequence[Coupled],
    ) -> None:
        self.dim, self.rows = dim, rows
        self.invariants, self.message, self.mixed = rows
        elements, direct, self.channels = own.shape
        self.size = [self.channels, elements, dim, scalars, direct, *rows]
        self.arrays: list[Tensor | None] = [target.contiguous(), own.contiguous()]
        for place in range(3):
            if place >= len(couplings):
                self.size += _NOTHING
                self.arrays += [None] * 4
                continue
            product, weights, rows_of = couplings[place]
            self.size += product.size
            values = product.value.to(weights.dtype)
            self.arrays += [product.index, values, weights.contiguous(), rows_of.contiguous()]
