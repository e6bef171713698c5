"""A layer by the kernels: the sums that are needed, and nothing in between.

The rows of a coupling are needed in three sums only: the scalars among them, the sum over paths that
enters higher products, and the sum over paths that enters the message. All three are one
:class:`gace.potential.kernels.WeightedCoupling` per coupling, so that no row is written to memory. Arrays
over components are ``(N, components, K)`` here: what belongs to an atom lies together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gace.potential.coupling import Coupling, RawCoupling, Rows
from gace.potential.irreps import SCALAR, Irreps
from gace.potential.kernels import WeightedCoupling, density, splined

if TYPE_CHECKING:
    from gace.potential.layer import Bonds, Layer

_FACTORS = {"pair": ("density", "density"), "triple": ("mixed", "density"), "quadruple": ("mixed", "mixed")}


class SparseLayer(nn.Module):
    """Invariants and message of a layer; tables only, the parameters are the layer's.

    Args:
        raw: coupling of harmonics and messages; None in the first layer.
        density: irreps of the density, and number of paths to each.
        couplings: the layer's, by name.
        scalar_rows: number of scalar rows of the density and of each coupling.
        message_rows: number of rows that enter the message, likewise; zeros if there is no message.
        outgoing: irreps of the message; None if there is none.
    """

    def __init__(
        self,
        raw: RawCoupling | None,
        density: tuple[Irreps, list[int]],
        couplings: dict[str, Coupling],
        scalar_rows: list[int],
        message_rows: list[int],
        outgoing: Irreps | None,
    ) -> None:
        super().__init__()
        self.scalars, self.outgoing = dict(zip(["density", *couplings], scalar_rows, strict=True)), outgoing
        self.density_irreps, self.density_paths = density
        self.raw = None
        if raw is not None:  # linear: the second factor is one
            n, matrix = len(raw.matrix), raw.matrix.numpy()[:, :, None]
            self.raw = WeightedCoupling(matrix, [0] * n, range(n), targets=n, equal=False)
        self.products = nn.ModuleDict()
        self.paths: dict[str, slice] = {}
        """Which weights of the message belong to the density and to each coupling."""
        start = 0
        if outgoing is not None:
            rows = Rows.joined(outgoing, [(self.density_irreps, [1] * len(self.density_irreps))])
            self.paths["density"], start = slice(0, rows.n_paths), rows.n_paths
            self.register_buffer("density_path", torch.tensor(rows.path), persistent=False)
            self.register_buffer("density_target", torch.tensor(rows.target), persistent=False)
            self.density_rows, self.direct = message_rows[0], rows.target == list(range(rows.dim))
        for (name, coupling), n_scalar, n_message in zip(
            couplings.items(), scalar_rows[1:], message_rows[1:], strict=True
        ):
            counts = [len(paths) for paths in coupling.paths]
            stack = _Stack(coupling)
            if name == "pair" and len(couplings) > 1:
                stack.add(Rows.of(coupling.out, counts), len(coupling.matrix))
            stack.add(Rows.of(Irreps([SCALAR]), [n_scalar]), n_scalar, apart=True)
            if outgoing is not None:
                rows = Rows.joined(outgoing, [(coupling.out, counts)])
                self.paths[name], start = slice(start, start + rows.n_paths), start + rows.n_paths
                stack.add(rows, n_message)
            self.products[name] = stack.product()
            self.register_buffer(f"{name}_first", torch.tensor(stack.first), persistent=False)

    def forward(
        self, layer: Layer, bonds: Bonds, carried: Tensor | None, species: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Invariants ``(N, n_scalar, K)`` and message ``(N, dim, K)``, None in the last layer."""
        factors = {"density": self._density(layer, bonds, carried, species)}
        A = factors["density"]
        invariants = [A[:, : self.scalars["density"]]]
        message = None
        if self.outgoing is not None:
            message = self._of_density(A, layer.message_weights[self.paths["density"]], species)
        for name, coupling in layer.couplings.items():
            n_scalar = self.scalars[name]
            weights = [A.new_ones(1, 1, 1).expand(n_scalar, layer.n_elements, A.shape[2])]
            n_mixed = 0
            if name == "pair" and len(layer.couplings) > 1:
                n_mixed = coupling.out.dim
                weights.insert(0, layer.pair_weights)
            if message is not None:
                weights.append(layer.message_weights[self.paths[name]])
            scale = coupling.scale.index_select(0, getattr(self, f"{name}_first")).unsqueeze(2)
            x, y = (factors[one] for one in _FACTORS[name])
            found = self.products[name](x, y, torch.cat(weights) * scale, species)
            # in one go: the derivative is then one array, not a sum of three padded ones
            mixed, scalars, summed = found.split(
                [n_mixed, n_scalar, found.shape[1] - n_mixed - n_scalar], dim=1
            )
            if n_mixed:
                factors["mixed"] = mixed
            invariants.append(scalars)
            if message is not None:
                message = message + summed
        return torch.cat(invariants, dim=1), None if message is None else self._mix(layer, message, species)

    def _density(self, layer: Layer, bonds: Bonds, carried: Tensor | None, species: Tensor) -> Tensor:
        """A ``(N, dim, K)``: sum over neighbours first, then couple, then mix channels."""
        if self.raw is None:  # what a neighbour of the first layer says is its element
            rows = _summed(layer, bonds, layer.indicator.unsqueeze(1), bonds.neighbour_species, species)
        else:
            summed = _summed(layer, bonds, carried, bonds.neighbour, species)
            one = summed.new_ones(1, 1, 1)
            rows = self.raw(
                summed,
                one.expand(len(summed), 1, summed.shape[2]),
                one.expand(1, layer.n_elements, summed.shape[2]),
                species,
            )
        weights = layer.density_weights * layer.density_scale.view(-1, 1, 1)
        mixed, row, path = [], 0, 0
        for irrep, count in zip(self.density_irreps, self.density_paths, strict=True):
            # rows of an irrep are ordered by component, then path: the sum over paths is part of the product
            block = rows[:, row : row + irrep.dim * count].reshape(len(rows) * irrep.dim, -1)
            product = block @ weights[path : path + count].flatten(0, 1)
            mixed.append(product.view(len(rows), irrep.dim, -1))
            row, path = row + irrep.dim * count, path + count
        return torch.cat(mixed, dim=1)

    def _of_density(self, A: Tensor, weights: Tensor, species: Tensor) -> Tensor:
        """What the density itself contributes to the message."""
        assert self.outgoing is not None
        weight = weights.index_select(0, self.density_path).transpose(0, 1).index_select(0, species)
        rows = A[:, : self.density_rows] * weight
        if self.direct:
            return rows
        whole = rows.new_zeros(len(rows), self.outgoing.dim, rows.shape[2])
        return whole.index_add(1, self.density_target, rows)

    def _mix(self, layer: Layer, summed: Tensor, species: Tensor) -> Tensor:
        """Channels mixed irrep by irrep, and what the element itself says."""
        assert self.outgoing is not None
        mixed = []
        for position, part in enumerate(self.outgoing.slices()):
            block = summed[:, part]
            product = block.reshape(-1, block.shape[2]) @ layer.message_mixing[position]
            mixed.append(product.view_as(block))
        leaf = layer.leaf.index_select(0, species).unsqueeze(1)
        return torch.cat([mixed[0] + leaf, *mixed[1:]], dim=1)


def _summed(
    layer: Layer, bonds: Bonds, carried: Tensor | None, neighbour: Tensor | None, species: Tensor
) -> Tensor:
    """``Σ_j Y_lm R_lk I_ck`` ``(N, lm c, K)``, radial functions by table or by network."""
    if bonds.table is None:
        return density(*layer.radial_and_harmonics(bonds, species), carried, neighbour)
    between = species, bonds.neighbour_species
    return splined(bonds.harmonics, bonds.distance, carried, neighbour, between, bonds.table)


class _Stack:
    """Several sums over the first rows of one coupling, one below the other."""

    def __init__(self, coupling: Coupling) -> None:
        full = np.zeros((coupling.matrix.shape[0], coupling.left.dim, coupling.right.dim))
        full[:, coupling.index_left.numpy(), coupling.index_right.numpy()] = coupling.matrix.numpy()
        self.coefficients, self.equal = full, coupling.symmetric
        self.parts: list[np.ndarray] = []
        self.path: list[int] = []
        self.target: list[int] = []
        self.first: list[int] = []
        """Row of the coupling at which the scale of each path is read."""
        self.targets = 0

    def add(self, rows: Rows, count: int, *, apart: bool = False) -> None:
        """A sum over the first ``count`` rows; ``apart``: each row stays alone."""
        target, dim = (rows.path, rows.n_paths) if apart else (rows.target, rows.dim)
        self.path += [len(self.first) + path for path in rows.path]
        self.target += [self.targets + one for one in target]
        self.first += [rows.path.index(path) for path in range(rows.n_paths)]
        self.targets += dim
        self.parts.append(self.coefficients[:count])

    def product(self) -> WeightedCoupling:
        """All sums at once."""
        return WeightedCoupling(
            np.concatenate(self.parts), self.path, self.target, targets=self.targets, equal=self.equal
        )
