"""One layer of the recursion: density, products, message and scalar densities.

Notation of Bochkarev, Lysogorskiy, Drautz, PRX 14, 021036 (2024): the density A is a sum over
neighbours, the products B couple up to ν_max densities, the message I carries them to the
next layer, and the scalars among B feed the energy. Arrays over angular components have the
shape ``(components, N, K)``: channels last and contiguous, components leading, so that every
coupling is one matrix product over all atoms and channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from gace.basis import RadialNetwork
from gace.potential.coupling import Coupling, RawCoupling, Rows
from gace.potential.irreps import SCALAR, Irreps, both_parities, natural
from gace.potential.kernels import available
from gace.potential.sparse import SparseLayer

if TYPE_CHECKING:
    from gace.potential.tables import RadialTable


MEASURED_AT_ONCE = 64
"""Atoms on which scales are measured together: products of a training batch would take half a gigabyte."""


class Bonds(NamedTuple):
    """What every layer needs of the bonds; computed once."""

    basis: Tensor | None
    """Radial basis g_n(r) ``(N, J, n)``; None where radial functions are tabulated."""
    cutoff: Tensor | None
    """Cutoff factor divided by the square root of the mean number of neighbours ``(N, J, 1)``; None where
    there are ``sums``."""
    harmonics: Tensor
    """Spherical harmonics ``(N, J, lm)``."""
    neighbour_species: Tensor
    """Element index of the neighbours ``(N, J)``."""
    neighbour: Tensor | None
    """Row of the messages for each neighbour ``(N, J)``; None if there is one message per neighbour."""
    distance: Tensor
    """Å ``(N, J)``, stretched where the pair has a cutoff of its own."""
    table: RadialTable | None = None
    """Radial functions of the layer that is evaluated; None: its network."""
    sums: Tensor | None = None
    """What of the atom depends on distances alone, by :func:`gace.potential.kernels.bond_sums` ``(N, 3)``;
    None: not by kernels."""


class LayerOutput(NamedTuple):
    """Message to the next layer and invariants of this one."""

    message: Tensor | None
    """I ``(N, dim, K)``, as neighbours gather it; None for the last layer."""
    invariants: Tensor
    """Scalar products B_00 ``(n_scalar, N, K)``."""


class Layer(nn.Module):
    """Density → products of up to ``order`` densities → message and invariants.

    Args:
        n_elements: number of elements.
        channels: K.
        n_radial: size of the radial basis.
        radial_hidden: widths of the radial network's hidden layers.
        l_max: highest degree of the spherical harmonics of this layer.
        order: ν_max, 1 … 4.
        incoming: irreps of the previous layer's message; None in the first layer.
        l_message: highest degree L_I of the message; None in the last layer.
        parity: ``natural`` drops pseudo-tensors, ``both`` keeps them.
        order_decay: root mean square of the products of ν densities falls as ``order_decay ** (ν - 1)``.
        degree_decay: root mean square of densities and products falls with this power of the sum of degrees.
        generator: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        n_elements: int,
        channels: int,
        n_radial: int,
        radial_hidden: tuple[int, ...],
        l_max: int,
        order: int,
        incoming: Irreps | None,
        l_message: int | None,
        parity: str,
        order_decay: float,
        degree_decay: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.l_max, self.channels, self.order = l_max, channels, order
        self.n_elements = n_elements
        self.order_decay, self.degree_decay = order_decay, degree_decay
        g, K = generator, channels
        self.radial = RadialNetwork(
            n_elements=n_elements,
            n_basis=n_radial,
            n_out=(l_max + 1) * K,
            hidden=radial_hidden,
            generator=g,
        )
        self.incoming = incoming
        harmonics = natural(l_max)
        wanted = both_parities(l_max) if parity == "both" else harmonics
        if incoming is None:
            self.indicator = nn.Parameter(
                1.0 + 0.5 * torch.randn(n_elements, K, generator=g, dtype=torch.float64)
            )
            self.raw_coupling = None
            self.density_irreps = harmonics
            density_counts = [1] * len(harmonics)
        else:
            self.raw_coupling = RawCoupling(harmonics, incoming, wanted)
            self.density_irreps = self.raw_coupling.out
            density_counts = self.raw_coupling.counts
        rows = Rows.of(self.density_irreps, density_counts)
        self.density_weights = _normal(g, rows.fan_in * K, rows.n_paths, K, K)
        self._remember("density", rows)

        A = self.density_irreps
        outgoing = natural(l_message) if l_message is not None else Irreps([SCALAR])
        self.message_irreps = outgoing if l_message is not None else None
        self.couplings = nn.ModuleDict()
        if order >= 2:
            self.couplings["pair"] = Coupling(A, A, wanted if order > 2 else outgoing, symmetric=True)
        if order >= 3:
            pair = self.couplings["pair"]
            self.pair_weights = _normal(g, pair.rows.fan_in, pair.rows.n_paths, n_elements, K)
            self._remember("mixed", pair.rows)
            self.couplings["triple"] = Coupling(pair.out, A, outgoing)
        if order >= 4:
            self.couplings["quadruple"] = Coupling(pair.out, pair.out, outgoing, symmetric=True)
        # scalars come first among the rows of every product, then the other irreps of the message
        parts = [(A, [1] * len(A)), *((c.out, [len(p) for p in c.paths]) for c in self.couplings.values())]
        self.scalar_rows = [counts[0] if irreps[0] == SCALAR else 0 for irreps, counts in parts]
        self.message_rows = [
            sum(irrep.dim * n for irrep, n in zip(irreps, counts, strict=True) if irrep in outgoing)
            for irreps, counts in parts
        ]
        self.n_invariants = sum(self.scalar_rows)
        if self.message_irreps is not None:
            rows = Rows.joined(outgoing, parts)
            self.message_weights = _normal(g, rows.fan_in, rows.n_paths, n_elements, K)
            self._remember("message", rows)
            self.message_mixing = _normal(g, torch.tensor(float(K)), len(outgoing), K, K)
            self.register_buffer("message_owner", torch.tensor(outgoing.owner()), persistent=False)
            self.leaf = nn.Parameter(torch.randn(n_elements, K, generator=g, dtype=torch.float64))
        self.sparse = SparseLayer(
            self.raw_coupling,
            (A, density_counts),
            dict(self.couplings.items()),
            self.scalar_rows,
            self.message_rows,
            self.message_irreps,
        )
        self.measuring = False

    def _remember(self, name: str, rows: Rows) -> None:
        """Keep how rows belong to paths, how paths are summed, and (densities) the scale of each path."""
        self.register_buffer(f"{name}_path", torch.tensor(rows.path), persistent=False)
        self.register_buffer(f"{name}_sum", rows.sum_matrix(), persistent=False)
        if name == "density":
            self.register_buffer("density_scale", torch.ones(rows.n_paths, dtype=torch.float64))
            self.density_degrees = rows.degrees

    def forward(self, bonds: Bonds, carried: Tensor | None, species: Tensor) -> LayerOutput:
        """Evaluate the layer on some atoms.

        Args:
            bonds: of these atoms.
            carried: messages ``(M, dim, K)``; None in the first layer.
            species: their element indices ``(N,)``.
        """
        if self.measuring:
            return self._measured(bonds, carried, species)
        if available(bonds.distance):
            invariants, message = self.sparse(self, bonds, carried, species)
            return LayerOutput(message, invariants.transpose(0, 1))
        return self._plain(bonds, carried, species)

    def _plain(self, bonds: Bonds, carried: Tensor | None, species: Tensor) -> LayerOutput:
        """Operation by operation."""
        A = self._density(bonds, carried, species)
        parts = [A]
        if self.order >= 2:
            pair = self._couple("pair", A, A)
            parts.append(pair)
        if self.order >= 3:
            mixed = self._mixed(pair, species)
            parts.append(self._couple("triple", mixed, A))
        if self.order >= 4:
            parts.append(self._couple("quadruple", mixed, mixed))
        invariants = torch.cat([part[:n] for part, n in zip(parts, self.scalar_rows, strict=True)])
        return LayerOutput(self._mix(self._summed(parts, species), species), invariants)

    def _measured(self, bonds: Bonds, carried: Tensor | None, species: Tensor) -> LayerOutput:
        """The same some atoms at a time, with scales set on them: of the density, then of each product."""
        N = len(species)
        slices = [slice(first, first + MEASURED_AT_ONCE) for first in range(0, N, MEASURED_AT_ONCE)]
        pieces = [
            (Bonds(*(one[own] if isinstance(one, Tensor) else one for one in bonds)), carried, species[own])
            for own in slices
        ]
        number = N * self.channels

        def mean(squares: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            """Of the rows of a product, given the density and the species of some atoms."""
            found = (squares(self._density(*piece), piece[2]) for piece in pieces)
            return functools.reduce(torch.add, found) / number

        rows = (_squares(self._rows(*piece)) for piece in pieces)
        prior = [self.degree_decay**degree for degree in self.density_degrees]
        scales = _scales(functools.reduce(torch.add, rows) / number, self.density_path, prior)
        self.density_scale.copy_(scales)
        if self.order >= 2:
            self._rescale("pair", mean, lambda A, _: (A, A))
        if self.order >= 3:
            self._rescale("triple", mean, lambda A, of: (self._mixed(self._couple("pair", A, A), of), A))
        if self.order >= 4:
            self._rescale("quadruple", mean, lambda A, of: (self._mixed(self._couple("pair", A, A), of),) * 2)
        outputs = [self._plain(*piece) for piece in pieces]
        messages = [one.message for one in outputs if one.message is not None]
        invariants = torch.cat([one.invariants for one in outputs], dim=1)
        return LayerOutput(torch.cat(messages) if messages else None, invariants)

    def _rescale(
        self,
        name: str,
        mean: Callable[[Callable[[Tensor, Tensor], Tensor]], Tensor],
        factors: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        """Set the scales of a product, ``factors`` being its factors given density and species."""
        coupling: Coupling = self.couplings[name]
        coupling.scale.fill_(1.0)
        order = ("pair", "triple", "quadruple").index(name) + 1
        degrees = [
            coupling.left[p.left].degree + coupling.right[p.right].degree for q in coupling.paths for p in q
        ]
        prior = [self.order_decay**order * self.degree_decay**degree for degree in degrees]
        path = torch.tensor(coupling.rows.path, device=coupling.scale.device)
        square = mean(lambda A, species: _squares(coupling(*factors(A, species))))
        coupling.scale.copy_(_scales(square, path, prior).index_select(0, path).unsqueeze(1))

    def _mixed(self, pair: Tensor, species: Tensor) -> Tensor:
        """Pairs summed over paths, which triples and quadruples are made of ``(dim, N, K)``."""
        weight = self.pair_weights.index_select(1, species).index_select(0, self.mixed_path)
        return _contract(self.mixed_sum, pair * weight)

    def _density(self, bonds: Bonds, carried: Tensor | None, species: Tensor) -> Tensor:
        """A ``(dim, N, K)``: sum over neighbours first, then couple, then mix channels."""
        rows = self._rows(bonds, carried, species)
        weight = (self.density_weights * self.density_scale.view(-1, 1, 1)).index_select(0, self.density_path)
        mixed = torch.bmm(rows, weight)
        return mixed if self.raw_coupling is None else _contract(self.density_sum, mixed)

    def _rows(self, bonds: Bonds, carried: Tensor | None, species: Tensor) -> Tensor:
        """The density before its channels are mixed and its paths summed ``(rows, N, K)``."""
        harmonics, radial = self.radial_and_harmonics(bonds, species)
        if self.raw_coupling is None:
            # what a neighbour of the first layer says is its element
            return self._summed_over_neighbours(
                harmonics, radial, self.indicator.unsqueeze(1), bonds.neighbour_species
            )
        assert carried is not None  # only a layer without incoming irreps is called without messages
        coupled: Tensor = self.raw_coupling(
            self._summed_over_neighbours(harmonics, radial, carried, bonds.neighbour)
        )
        return coupled

    def radial_and_harmonics(self, bonds: Bonds, species: Tensor) -> tuple[Tensor, Tensor]:
        """Harmonics ``(N, J, lm)`` and radial functions ``(N, J, l, K)`` of this layer."""
        # tables are for the kernels, which do not come here
        assert bonds.basis is not None
        assert bonds.cutoff is not None
        radial = self.radial(bonds.basis, species, bonds.neighbour_species, bonds.cutoff)
        return (
            bonds.harmonics[..., : (self.l_max + 1) ** 2],
            radial.view(*radial.shape[:2], self.l_max + 1, self.channels),
        )

    def _summed_over_neighbours(
        self, harmonics: Tensor, radial: Tensor, carried: Tensor, neighbour: Tensor | None
    ) -> Tensor:
        """``Σ_j Y_lm R_lk I_ck`` ``(lm c, N, K)``; see :func:`gace.potential.kernels.density`."""
        N, J, _, K = radial.shape
        if neighbour is not None:
            carried = carried.index_select(0, neighbour.reshape(-1))
        carried = carried.view(N, J, -1, K)
        summed = []
        for l in range(self.l_max + 1):
            y = harmonics[..., l * l : (l + 1) ** 2].transpose(1, 2)
            summed.append(torch.bmm(y, (radial[:, :, l].unsqueeze(2) * carried).flatten(2)))
        return torch.cat(summed, dim=1).view(N, -1, K).transpose(0, 1)

    def _couple(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        coupling: Coupling = self.couplings[name]
        return coupling(x, y)

    def _summed(self, parts: list[Tensor], species: Tensor) -> Tensor | None:
        """Weighted sum over the paths of all products ``(dim, N, K)``; None in the last layer."""
        if self.message_irreps is None:
            return None
        rows = torch.cat([part[:n] for part, n in zip(parts, self.message_rows, strict=True)])
        weight = self.message_weights.index_select(1, species).index_select(0, self.message_path)
        return _contract(self.message_sum, rows * weight)

    def _mix(self, summed: Tensor | None, species: Tensor) -> Tensor | None:
        """Message ``(N, dim, K)``: channels mixed irrep by irrep, and what the element itself says."""
        if summed is None:
            return None
        message = torch.bmm(summed, self.message_mixing.index_select(0, self.message_owner))
        leaf = self.leaf.index_select(0, species).unsqueeze(0)
        return torch.cat([message[:1] + leaf, message[1:]]).transpose(0, 1).contiguous()


def _normal(generator: torch.Generator, fan_in: Tensor, *shape: int) -> nn.Parameter:
    """Normal parameters, leading axis divided by the square root of its fan-in."""
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return nn.Parameter(values / fan_in.double().sqrt().reshape(-1, *[1] * (len(shape) - 1)))


def _contract(matrix: Tensor, x: Tensor) -> Tensor:
    """Matrix product over the leading axis: ``(a, b), (b, N, K) -> (a, N, K)``."""
    return (matrix @ x.flatten(1)).view(-1, *x.shape[1:])


def _squares(rows: Tensor) -> Tensor:
    """Sum over atoms and channels of the squares of each row ``(rows,)``."""
    return rows.double().square().sum(dim=(1, 2))


def _scales(square: Tensor, path: Tensor, prior: list[float]) -> Tensor:
    """Per path: its prior divided by the root mean square of its rows ``(n_paths,)``, given those of rows.

    1 where everything vanishes (a lone atom, a lattice whose symmetry forbids the component).
    """
    count = torch.bincount(path, minlength=len(prior)).to(square)
    mean = square.new_zeros(len(prior)).index_add_(0, path, square) / count
    inverse = torch.where(mean > 1e-16, mean.clamp(min=1e-16).rsqrt(), torch.ones_like(mean))
    return inverse * torch.tensor(prior, dtype=inverse.dtype, device=inverse.device)
