"""One layer of the recursion: density, products, message and scalar densities.

Notation of Bochkarev, Lysogorskiy, Drautz, PRX 14, 021036 (2024): the density A is a sum over
neighbours, the products B couple up to ν_max densities, the message I carries them to the
next layer, and the scalars among B feed the energy. Arrays over angular components have the
shape ``(components, N, K)``: channels last and contiguous, components leading, so that every
coupling is one matrix product over all atoms and channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gace.basis import RadialNetwork
from gace.potential.coupling import Coupling, RawCoupling
from gace.potential.irreps import Irrep, Irreps, both_parities, natural
from gace.structures.graph import Graph, gather_neighbours

SCALAR = Irrep(0, 1)


class Bonds(NamedTuple):
    """What every layer needs of the bonds; computed once."""

    basis: Tensor
    """Radial basis g_n(r) ``(N, J, n)``."""
    cutoff: Tensor
    """Cutoff factor divided by the square root of the mean number of neighbours ``(N, J, 1)``."""
    harmonics: list[Tensor]
    """Spherical harmonics of each degree, transposed ``(N, 2l+1, J)``."""
    neighbour_species: Tensor
    """Element index of the neighbours ``(N, J)``."""


class LayerOutput(NamedTuple):
    """Message to the next layer and invariants of this one."""

    message: Tensor | None
    """I ``(dim, N, K)``; None for the last layer."""
    invariants: Tensor
    """Scalar products B_00 ``(n_scalar, N, K)``."""


def _normal(generator: torch.Generator, *shape: int, fan_in: int) -> nn.Parameter:
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return nn.Parameter(values / math.sqrt(fan_in))


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
        if incoming is None:
            self.indicator = nn.Parameter(
                1.0 + 0.5 * torch.randn(n_elements, K, generator=g, dtype=torch.float64)
            )
            self.raw_coupling = None
            self.density_irreps = harmonics
            density_paths = [1] * len(harmonics)
        else:
            wanted = both_parities(l_max) if parity == "both" else harmonics
            self.raw_coupling = RawCoupling(harmonics, incoming, wanted)
            self.density_irreps = self.raw_coupling.coupling.out
            density_paths = [len(paths) for paths in self.raw_coupling.coupling.paths]
        self.density_mixing = nn.ParameterList(_normal(g, n * K, K, fan_in=n * K) for n in density_paths)
        self.register_buffer("density_scale", torch.ones(len(density_paths), dtype=torch.float64))

        A = self.density_irreps
        wanted = both_parities(l_max) if parity == "both" else natural(l_max)
        outgoing = natural(l_message) if l_message is not None else Irreps([SCALAR])
        self.message_irreps = outgoing if l_message is not None else None
        if order == 2:
            self.pair = Coupling(A, A, outgoing, symmetric=True)
        elif order > 2:
            self.pair = Coupling(A, A, wanted, symmetric=True)
            P = self.pair.out
            self.pair_weights = nn.ParameterList(
                _normal(g, len(paths), n_elements, K, fan_in=len(paths)) for paths in self.pair.paths
            )
            self.triple = Coupling(P, A, outgoing)
        if order > 3:
            self.quadruple = Coupling(P, P, outgoing, symmetric=True)
        counts = self._path_counts(outgoing)
        self.n_invariants = counts[0]
        for name in ("pair", "triple", "quadruple"):
            if hasattr(self, name):
                rows = getattr(self, name).matrix.shape[0]
                self.register_buffer(f"{name}_scale", torch.ones(rows, 1, dtype=torch.float64))
        if self.message_irreps is not None:
            self.message_weights = nn.ParameterList(_normal(g, n, n_elements, K, fan_in=n) for n in counts)
            self.message_mixing = nn.ParameterList(_normal(g, K, K, fan_in=K) for _ in counts)
            self.leaf = nn.Parameter(torch.randn(n_elements, K, generator=g, dtype=torch.float64))
        self.measuring = False

    def _path_counts(self, outgoing: Irreps) -> list[int]:
        """Number of paths η that lead to each irrep of the message (scalars first)."""
        counts = [int(irrep in self.density_irreps) for irrep in outgoing]
        for name in ("pair", "triple", "quadruple"):
            coupling = getattr(self, name, None)
            for irrep, paths in zip(coupling.out, coupling.paths, strict=True) if coupling else ():
                if irrep in outgoing:
                    counts[outgoing.index(irrep)] += len(paths)
        return counts

    def forward(self, bonds: Bonds, message: Tensor | None, graph: Graph) -> LayerOutput:
        """Evaluate the layer on all atoms of a graph."""
        density = self._density(bonds, message, graph)
        found: list[tuple[Irreps, list[Tensor]]] = [
            (
                self.density_irreps,
                [a.unsqueeze(1) for a in density.split([i.dim for i in self.density_irreps])],
            )
        ]
        if self.order >= 2:
            pair = self._couple("pair", density, density)
            found.append((self.pair.out, pair))
        if self.order >= 3:
            mixed = torch.cat(
                [
                    (block * weight.index_select(1, graph.species)).sum(1)
                    for block, weight in zip(pair, self.pair_weights, strict=True)
                ]
            )
            found.append((self.triple.out, self._couple("triple", mixed, density)))
        if self.order >= 4:
            found.append((self.quadruple.out, self._couple("quadruple", mixed, mixed)))
        invariants = torch.cat(self._paths_to(SCALAR, found), dim=1).squeeze(0)
        return LayerOutput(self._message(found, invariants, graph), invariants)

    def _density(self, bonds: Bonds, message: Tensor | None, graph: Graph) -> Tensor:
        """A ``(dim, N, K)``: sum over neighbours first, then couple, then mix channels."""
        N, J = graph.neighbour.shape
        radial = self.radial(bonds.basis, graph.species, bonds.neighbour_species) * bonds.cutoff
        radial = radial.view(N, J, self.l_max + 1, self.channels)
        if self.incoming is None:
            radial = radial * self.indicator[bonds.neighbour_species].unsqueeze(2)
            summed = [
                torch.bmm(y, radial[:, :, l]).transpose(0, 1)
                for l, y in enumerate(bonds.harmonics[: self.l_max + 1])
            ]
            blocks = [s.unsqueeze(1) for s in summed]
        else:
            carried = gather_neighbours(message.transpose(0, 1).contiguous(), graph)  # (N, J, dim, K)
            summed = [
                torch.bmm(y, (radial[:, :, l].unsqueeze(2) * carried).flatten(2))
                for l, y in enumerate(bonds.harmonics[: self.l_max + 1])
            ]
            raw = torch.cat(summed, dim=1).view(N, -1, self.channels).transpose(0, 1)
            coupled = self.raw_coupling(raw)
            blocks = self.raw_coupling.coupling.blocks(coupled)
        if self.measuring:
            decay = [self.degree_decay**irrep.degree for irrep in self.density_irreps]
            scales = [_inverse_rms(b) * d for b, d in zip(blocks, decay, strict=True)]
            self.density_scale.copy_(torch.stack(scales))
        mixed = []
        for block, weight, scale in zip(blocks, self.density_mixing, self.density_scale, strict=True):
            flat = block.transpose(1, 2).flatten(2)  # (2l+1, N, paths K)
            mixed.append(flat @ (weight * scale))
        return torch.cat(mixed)

    def _couple(self, name: str, x: Tensor, y: Tensor) -> list[Tensor]:
        coupling: Coupling = getattr(self, name)
        z = coupling(x, y)
        scale: Tensor = getattr(self, f"{name}_scale")
        if self.measuring:
            order = ("pair", "triple", "quadruple").index(name) + 1
            rows = []
            for irrep, paths, block in zip(coupling.out, coupling.paths, coupling.blocks(z), strict=True):
                degrees = [coupling.left[p.left].degree + coupling.right[p.right].degree for p in paths]
                prior = [self.order_decay**order * self.degree_decay**degree for degree in degrees]
                scales = [_inverse_rms(block[:, eta]) * value for eta, value in enumerate(prior)]
                rows.append(torch.stack(scales).repeat(irrep.dim))
            scale.copy_(torch.cat(rows).unsqueeze(1))
        return coupling.blocks(z * scale.unsqueeze(2))

    def _paths_to(self, irrep: Irrep, found: list[tuple[Irreps, list[Tensor]]]) -> list[Tensor]:
        return [blocks[irreps.index(irrep)] for irreps, blocks in found if irrep in irreps]

    def _message(
        self, found: list[tuple[Irreps, list[Tensor]]], invariants: Tensor, graph: Graph
    ) -> Tensor | None:
        if self.message_irreps is None:
            return None
        parts = []
        for position, irrep in enumerate(self.message_irreps):
            paths = (
                invariants.unsqueeze(0) if position == 0 else torch.cat(self._paths_to(irrep, found), dim=1)
            )
            weight = self.message_weights[position].index_select(1, graph.species)
            value = (paths * weight).sum(1) @ self.message_mixing[position]
            if position == 0:
                value = value + self.leaf.index_select(0, graph.species)
            parts.append(value)
        return torch.cat(parts)


def _inverse_rms(x: Tensor) -> Tensor:
    """1 / root mean square, or 1 where everything vanishes (an isolated atom, one neighbour)."""
    rms = x.detach().double().square().mean().sqrt()
    return torch.where(rms > 1e-8, 1.0 / rms.clamp(min=1e-8), torch.ones_like(rms)).to(x.dtype)
