"""All products of a layer's density and their pass back in one call each, for evaluation on a processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gace.potential.kernels.calls import call
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
        self._layer = [self.channels, elements, dim, scalars, direct, *rows]
        self._given: list[Tensor | None] = [target.contiguous(), own.contiguous()]
        for place in range(3):
            if place >= len(couplings):
                self._layer += _NOTHING
                self._given += [None] * 4
                continue
            product, weights, rows_of = couplings[place]
            self._layer += product.size
            values = product.value.to(weights.dtype)
            self._given += [product.index, values, weights.contiguous(), rows_of.contiguous()]

    def constants(self) -> tuple[list[int], list[Tensor | None]]:
        """What the kernels are given of the layer: sizes without the number of atoms, and arrays in order."""
        return list(self._layer), list(self._given)

    def forward(self, A: Tensor, species: Tensor) -> Tensor:
        """All rows ``(N, invariants + message + mixed, K)``.

        Args:
            A: densities, contiguous ``(N, dim, K)``.
            species: element index of each atom ``(N,)``.
        """
        out = A.new_empty(len(A), sum(self.rows), self.channels)
        call("expansion_forward", A.dtype, [len(A), *self._layer], species, *self._given, A, out)
        return out

    def backward(
        self, of_invariants: Tensor, of_message: Tensor | None, A: Tensor, out: Tensor, species: Tensor
    ) -> Tensor:
        """What is owed to the densities ``(N, dim, K)``.

        Args:
            of_invariants: what is owed to the invariants ``(N, invariants, K)``.
            of_message: likewise to those of the message ``(N, message, K)``; None where there are none.
            A: as given to :meth:`forward`.
            out: its result.
            species: as given to it.
        """
        slope = torch.empty_like(A)
        call(
            "expansion_backward", A.dtype, [len(A), *self._layer], species, *self._given,
            of_invariants.contiguous(), None if of_message is None else of_message.contiguous(),
            A, out, slope,
        )  # fmt: skip
        return slope
