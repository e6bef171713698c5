"""Where atoms are closer than in the data the expansion fades out, and repulsion is left.

Products of densities say nothing about densities they were not fitted to: pressed together or thrown about,
atoms fall into holes of tens of eV. No repulsion that is added outweighs a polynomial for certain; a factor
does, made of a density of close bonds as the core repulsion of Bochkarev et al., Phys. Rev. Materials 6,
013804 (2022), is switched on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gace.errors import InputError, nearest
from gace.potential.pairs import by_pair

REACH = 2.2
"""Bonds shorter than this many inner cutoffs count in the close density."""
LONGEST = 0.8
"""Largest inner cutoff, as a share of the cutoff: the close density has to end at the cutoff, smoothly."""
GONE = 1.5
"""At this many times its limit of the close density nothing is left of an atom's expansion."""
HEIGHT = 5.0
"""Energy of the wall in units of the model's ``scale``."""


class Closeness(NamedTuple):
    """What the close density of each atom does ``(N,)``."""

    remains: Tensor
    """Share of the atom's expansion that is left: 1 up to the limit, 0 far beyond it."""
    wall: Tensor
    """Repulsion in units of the model's ``scale``."""


class InnerCutoff(nn.Module):
    """Fades atoms out whose close density ``x_i = Σ_j u_ij⁶`` exceeds a limit X of their element.

    ``u = (R - r) / (R - r_in)`` where that is positive, with r_in the inner cutoff of the pair of elements
    and R = 2.2 r_in (at most the cutoff): one bond of that length makes x = 1, and so do four that are a
    quarter longer. With ``y = 2 max(0, x/X - 1)``, the share ``1 - S(min(1, y))`` of the expansion is
    left (S the polynomial of fifth degree that rises from 0 to 1 with two vanishing derivatives at both
    ends), and the wall is ``5 y³ / (1 + y²)``: linear in x, so a repulsion of pairs, where x is large.
    Everything has two continuous derivatives.

    Args:
        elements: chemical symbols; their order is that of the indices.
        cutoff: of the model, Å.
        inner_cutoffs: r_in, Å, by pair of elements (``{"C-H": 0.9}``); other pairs have none.
        close_limits: X by element; 1 where not given.

    Raises:
        InputError: as :func:`gace.potential.pairs.by_pair`, or a limit of no element.
    """

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float,
        inner_cutoffs: Mapping[str, float],
        close_limits: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        limits = dict(close_limits or {})
        for element, limit in limits.items():
            if element not in elements:
                raise InputError(f"close_limits: no element '{element}'{nearest(element, elements)}")
            if not limit > 0:
                raise InputError(f"close_limits: {element} must be positive (got {limit})")
        length = by_pair(elements, inner_cutoffs, "inner_cutoffs", missing=0.0, largest=LONGEST * cutoff)
        limit = torch.tensor([limits.get(element, 1.0) for element in elements], dtype=torch.float64)
        reach = (REACH * length).clamp(max=cutoff)
        inverse = torch.where(length > 0, 1.0 / (reach - length).clamp(min=1e-6), 0.0)
        self.register_buffer("reach", reach * inverse, persistent=False)
        self.register_buffer("inverse_width", inverse, persistent=False)
        self.register_buffer("inverse_limit", 1.0 / limit, persistent=False)

    def density(self, r: Tensor, centre: Tensor, neighbour: Tensor) -> Tensor:
        """Close density x: ``(N, J)``, ``(N,)``, ``(N, J) -> (N,)``."""
        i = centre.unsqueeze(1)
        u = (self.reach[i, neighbour] - r * self.inverse_width[i, neighbour]).clamp(min=0.0)
        cube = u * u * u
        return (cube * cube).sum(1)

    def forward(self, r: Tensor, centre: Tensor, neighbour: Tensor) -> Closeness:
        """As :meth:`density`."""
        return self.of_density(self.density(r, centre, neighbour), centre)

    def of_density(self, x: Tensor, centre: Tensor) -> Closeness:
        """What close densities x of atoms do: ``(N,)``, ``(N,)``."""
        y = ((x * self.inverse_limit[centre] - 1.0) / (GONE - 1.0)).clamp(min=0.0)
        z = y.clamp(max=1.0)
        cube = y * y * y
        return Closeness(1.0 - z * z * z * (10.0 - z * (15.0 - 6.0 * z)), HEIGHT * cube / (1.0 + y * y))
