"""A layer by the kernels: the sums that are needed, and nothing in between.

The rows of a coupling are needed in three sums only: the scalars among them, the sum over paths that
enters higher products, and the sum over paths that enters the message. All three are one
:class:`gace.potential.kernels.WeightedCoupling` per coupling, so that no row is written to memory. Arrays
over components are ``(N, components, K)`` here: what belongs to an atom lies together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from gace.potential.coupling import Coupling, RawCoupling, Rows
from gace.potential.irreps import SCALAR, Irreps
from gace.potential.kept import Kept, fixed
from gace.potential.kernels import WeightedCoupling, density, mixed, products, splined
from gace.potential.kernels.expansion import Coupled, Expansion
from gace.potential.kernels.terms import Terms

if TYPE_CHECKING:
    from gace.potential.layer import Bonds, Layer

_FACTORS = {"pair": ("density", "density"), "triple": ("mixed", "density"), "quadruple": ("mixed", "mixed")}


class Weights(NamedTuple):
    """What the kernels are given of a layer's parameters."""

    density: Tensor
    """Of the mixed channels ``(paths, K, K)``, scale included."""
    couplings: dict[str, Tensor]
    """Of all sums over the rows of each coupling ``(sums, n_elements, K)``, scale included."""
    of_density: Tensor | None
    """Of the density's rows in the message ``(n_elements, rows, K)``."""
    one: Tensor
    """Ones ``(1, n_elements, K)``, for what has no weights."""


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
        self.density_dims = [irrep.dim for irrep in self.density_irreps]
        self.outgoing_dims = [irrep.dim for irrep in outgoing or ()]
        self.kept: Kept[Weights] = Kept()
        self.raw = None
        if raw is not None:  # linear: the second factor is one
            n, matrix = len(raw.matrix), raw.matrix.numpy()[:, :, None]
            self.raw = WeightedCoupling(matrix, [0] * n, range(n), targets=n, equal=False)
        self.products = nn.ModuleDict()
        self.paths: list[int] = []
        """How many weights of the message belong to the density and to each coupling, one after the other."""
        self.head = scalar_rows[0]
        """So many rows of the density are needed by themselves: scalars, and those in the message."""
        if outgoing is not None:
            rows = Rows.joined(outgoing, [(self.density_irreps, [1] * len(self.density_irreps))])
            self.paths.append(rows.n_paths)
            self.register_buffer("density_path", torch.tensor(rows.path), persistent=False)
            self.register_buffer("density_target", torch.tensor(rows.target), persistent=False)
            self.density_rows, self.direct = message_rows[0], rows.target == list(range(rows.dim))
            self.head = max(self.head, self.density_rows)
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
                self.paths.append(rows.n_paths)
                stack.add(rows, n_message)
            self.products[name] = stack.product()
            self.register_buffer(f"{name}_first", torch.tensor(stack.first), persistent=False)

    def forward(
        self, layer: Layer, bonds: Bonds, carried: Tensor | None, species: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Invariants ``(N, n_scalar, K)`` and message ``(N, dim, K)``, None in the last layer."""
        sources = self._sources(layer)
        evaluation = fixed(sources)
        weights = self.kept(sources, lambda: self.weights(layer)) if evaluation else self.weights(layer)
        A, head = self._density(layer, bonds, carried, species, weights, evaluation)
        factors = {"density": A}
        n_scalar = self.scalars["density"]
        invariants = [head if n_scalar == self.head else head[:, :n_scalar]]
        message = None if weights.of_density is None else self._of_density(head, weights.of_density, species)
        for name, coupling in layer.couplings.items():
            n_scalar = self.scalars[name]
            n_mixed = coupling.out.dim if self._is_factor(layer, name) else 0
            x, y = (factors[one] for one in _FACTORS[name])
            found = self.products[name](x, y, weights.couplings[name], species)
            # in one go: the derivative is then one array, not a sum of three padded ones
            higher, scalars, summed = found.split(
                [n_mixed, n_scalar, found.shape[1] - n_mixed - n_scalar], dim=1
            )
            if n_mixed:
                factors["mixed"] = higher.contiguous()  # once, not by every product that reads it
            invariants.append(scalars)
            if message is not None:
                message = message + summed
        if message is not None:
            message = self._mix(layer, message, species, evaluation)
        return torch.cat(invariants, dim=1), message

    def expansion(self, layer: Layer) -> Expansion:
        """All products in one, with the layer's weights as they are now."""
        weights = self.weights(layer)
        invariants = sum(self.scalars.values())
        message = 0 if self.outgoing is None else self.outgoing.dim
        mixed = layer.couplings["pair"].out.dim if self._is_factor(layer, "pair") else 0
        couplings, first = [], self.scalars["density"]
        for name, product in self.products.items():
            n_mixed = mixed if name == "pair" else 0
            places = [
                torch.arange(n_mixed) + invariants + message,
                torch.arange(self.scalars[name]) + first,
                torch.arange(message) + invariants,
            ]
            couplings.append(Coupled(product, weights.couplings[name], torch.cat(places)))
            first += self.scalars[name]
        one, own = weights.one, weights.of_density
        return Expansion(
            dim=self.density_irreps.dim,
            scalars=self.scalars["density"],
            rows=(invariants, message, mixed),
            target=one.new_zeros(0).long() if self.outgoing is None else self.density_target,
            own=one.new_zeros(one.shape[1], 0, one.shape[2]) if own is None else own,
            couplings=couplings,
        )

    def _sources(self, layer: Layer) -> list[Tensor]:
        """The parameters and scales that the sums over rows are weighted by."""
        found = [layer.density_weights, layer.density_scale]
        found += [coupling.scale for coupling in layer.couplings.values()]
        if len(layer.couplings) > 1:
            found.append(layer.pair_weights)
        if self.outgoing is not None:
            found += [layer.message_weights, layer.message_mixing, layer.leaf]
        return found

    def weights(self, layer: Layer) -> Weights:
        """What is made of parameters and scales alone."""
        density = layer.density_weights * layer.density_scale.view(-1, 1, 1)
        one = density.new_ones(1, layer.n_elements, density.shape[2])
        of_density = None
        of_messages: list[Tensor] = []
        if self.outgoing is not None:
            first, *of_messages = layer.message_weights.split(self.paths)
            of_density = first.index_select(0, self.density_path).transpose(0, 1).contiguous()
        couplings = {}
        for position, (name, coupling) in enumerate(layer.couplings.items()):
            parts = [one.expand(self.scalars[name], -1, -1), *of_messages[position : position + 1]]
            if self._is_factor(layer, name):
                parts.insert(0, layer.pair_weights)
            scale = coupling.scale.index_select(0, getattr(self, f"{name}_first")).unsqueeze(2)
            couplings[name] = torch.cat(parts) * scale
        return Weights(density, couplings, of_density, one)

    @staticmethod
    def _is_factor(layer: Layer, name: str) -> bool:
        """Whether a sum over the paths of this coupling enters higher products."""
        return name == "pair" and len(layer.couplings) > 1

    def _density(
        self,
        layer: Layer,
        bonds: Bonds,
        carried: Tensor | None,
        species: Tensor,
        weights: Weights,
        evaluation: bool,
    ) -> tuple[Tensor, Tensor]:
        """A ``(N, dim, K)`` and its first rows: sum over neighbours first, then couple, then mix channels."""
        if self.raw is None:  # what a neighbour of the first layer says is its element
            rows = _summed(layer, bonds, layer.indicator.unsqueeze(1), bonds.neighbour_species, species)
        else:
            summed = _summed(layer, bonds, carried, bonds.neighbour, species)
            ones = summed.new_ones(len(summed), 1, summed.shape[2])
            rows = self.raw(summed, ones, weights.one, species)
        if evaluation:
            return mixed(rows, weights.density, self.density_dims, self.density_paths, head=self.head)
        A = torch.cat(products(rows, weights.density, self.density_dims, self.density_paths), dim=1)
        return A, A[:, : self.head]

    def _of_density(self, head: Tensor, weights: Tensor, species: Tensor) -> Tensor:
        """What the density itself contributes to the message."""
        assert self.outgoing is not None
        rows = head[:, : self.density_rows] * weights.index_select(0, species)
        if self.direct:
            return rows
        whole = rows.new_zeros(len(rows), self.outgoing.dim, rows.shape[2])
        return whole.index_add(1, self.density_target, rows)

    def _mix(self, layer: Layer, summed: Tensor, species: Tensor, evaluation: bool) -> Tensor:
        """Channels mixed irrep by irrep, and what the element itself says."""
        dims, counts = self.outgoing_dims, [1] * len(self.outgoing_dims)
        if evaluation:
            return mixed(summed, layer.message_mixing, dims, counts, leaf=layer.leaf, species=species)[0]
        scalars, *rest = products(summed, layer.message_mixing, dims, counts)
        return torch.cat([scalars + layer.leaf.index_select(0, species).unsqueeze(1), *rest], dim=1)


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
        self.terms, self.equal = coupling.terms(), coupling.symmetric
        self.parts: list[Terms] = []
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
        self.parts.append(self.terms.first(count))

    def product(self) -> WeightedCoupling:
        """All sums at once."""
        return WeightedCoupling(
            Terms.stacked(self.parts), self.path, self.target, targets=self.targets, equal=self.equal
        )
