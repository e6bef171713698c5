"""The readout of a graph ACE and its derivatives written out, for evaluation with fixed parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gace.potential.graph_ace import GraphACE
from gace.potential.inner_cutoff import Fading


class Slopes(NamedTuple):
    """Derivative of the sum of all atoms' energies."""

    invariants: list[Tensor]
    """By the invariants of each layer ``(N, n, K)``."""
    sums: Tensor
    """By coordination, core repulsion and (the wall's part) close density ``(N, 3)``."""
    remains: Tensor
    """By the share of an atom's expansion that is left ``(N,)``."""


class Readout:
    """Energies as :meth:`gace.potential.graph_ace.GraphACE.energy` has them, with derivatives.

    Args:
        model: its parameters are read now.
    """

    def __init__(self, model: GraphACE) -> None:
        self.scale = float(model.scale)
        self.shift = model.shift.detach().clone()
        self.repulsion = model.repulsion is not None
        self.projections: list[Tensor] = []
        self.coefficients: list[Tensor | None] = []
        for coefficients, projection in zip(model.coefficients, model.projections, strict=True):
            of_element = coefficients.detach().transpose(0, 1).flatten(1)  # (n_elements, n K)
            alone = len(of_element) == 1  # then the coefficients are part of the projection
            self.coefficients.append(None if alone else of_element)
            self.projections.append(
                of_element.T * projection.detach() if alone else projection.detach().clone()
            )
        self.network = None if model.readout is None else [one.detach().clone() for one in model.readout]

    def __call__(
        self, invariants: Sequence[Tensor], sums: Tensor, species: Tensor, fading: Fading | None
    ) -> tuple[Tensor, Slopes]:
        """Energies without the isolated atoms', eV ``(N,)``, and their derivatives.

        Args:
            invariants: of each layer ``(N, n, K)``.
            sums: coordination, core repulsion, close density ``(N, 3)``.
            species: element index ``(N,)``.
            fading: of atoms that may be too close; None without inner cutoffs.
        """
        own = [None if one is None else one.index_select(0, species) for one in self.coefficients]
        densities = []
        for values, of_atoms, projection in zip(invariants, own, self.projections, strict=True):
            flat = values.flatten(1)
            densities.append((flat if of_atoms is None else flat * of_atoms) @ projection)
        linear, of_several = self._energy(densities)
        level = torch.tanh(sums[:, 0])
        shift = self.shift.index_select(0, species)
        energy = linear.mul_(self.scale).add_(shift * level)
        remains = energy if fading is None else fading.remains
        of_remains = energy
        if fading is not None:
            energy = energy * remains + fading.wall * self.scale
        if self.repulsion:
            energy = energy + sums[:, 1]
        # backwards: every atom's energy counts once
        of_sums = torch.empty_like(sums)
        of_sums[:, 0] = shift * (1.0 - level * level)
        of_sums[:, 1] = 1.0
        if fading is None:
            of_sums[:, 2] = 0.0
        else:
            of_sums[:, 0] *= remains
            of_sums[:, 2] = fading.wall_slope * self.scale
        slopes = []
        for position, (values, of_atoms, projection) in enumerate(
            zip(invariants, own, self.projections, strict=True)
        ):
            S = projection.shape[1] - 1
            slope = values.new_zeros(len(values), 1 + S)
            slope[:, 0] = self.scale
            if of_several is not None:
                torch.mul(of_several[:, position * S : (position + 1) * S], self.scale, out=slope[:, 1:])
            if fading is not None:
                slope *= remains.unsqueeze(1)
            owed = slope @ projection.T
            slopes.append((owed if of_atoms is None else owed.mul_(of_atoms)).view(values.shape))
        return energy, Slopes(slopes, of_sums, of_remains)

    def _energy(self, densities: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Energy in units of the scale, and its derivative by the densities that enter non-linearly."""
        linear = densities[0][:, 0]
        for one in densities[1:]:
            linear = linear + one[:, 0]
        if self.network is None:
            return linear.clone(), None
        several = torch.cat([one[:, 1:] for one in densities], dim=1)
        last = self.network[-1]
        if len(self.network) == 1:
            return linear + (several.square() @ last).squeeze(1), 2.0 * several * last.T
        inner = several @ self.network[0]
        share = torch.sigmoid(inner)
        hidden = inner * share
        # the derivative of x s(x) is s + x s (1 - s)
        of_inner = (share + hidden * (1.0 - share)) * last.T
        return linear + (hidden @ last).squeeze(1), of_inner @ self.network[0].T
