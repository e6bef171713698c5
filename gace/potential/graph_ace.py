"""The graph atomic cluster expansion as a module: graph in, atomic energies out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gace.allocator import keep_freed_memory
from gace.basis import RadialBasis, SphericalHarmonics, smooth_cutoff
from gace.basis.radial import of_elements
from gace.errors import InputError, nearest
from gace.potential.hyperparameters import check, listed
from gace.potential.inner_cutoff import Closeness, InnerCutoff
from gace.potential.irreps import Irreps
from gace.potential.kernels import available, bond_sums, geometry
from gace.potential.layer import Bonds, Layer
from gace.potential.pairs import by_pair
from gace.potential.presets import PRESETS
from gace.potential.zbl import CoreRepulsion
from gace.structures.graph import Graph, gather_neighbours

if TYPE_CHECKING:
    from gace.potential.tables import RadialTable


class AtomicOutput(NamedTuple):
    """What a potential says of each atom."""

    energy: Tensor
    """Energy without the isolated atom's, eV ``(N,)``."""
    features: Tensor
    """Invariants that feed the readout ``(N, F)``."""


class GraphACE(nn.Module):
    """Graph ACE of ``T = len(l_max)`` layers [Bochkarev et al., PRX 14, 021036 (2024)].

    One layer is the local (star) expansion; T layers sum over all trees of depth ≤ T with node
    degree ≤ ``order``. The energy of an atom is ``scale`` times a linear function of all scalar
    products plus a small network on their densities; it vanishes for an isolated atom.

    Args:
        elements: chemical symbols; their order is the order of ``Graph.species``.
        cutoff: longest bond, Å.
        pair_cutoffs: shorter longest bonds of single pairs of elements, Å, as ``{"H-H": 3.0}``; other
            pairs have ``cutoff``. Radial functions of a pair are stretched to its own cutoff.
        l_max: highest degree of the spherical harmonics, one per layer.
        order: highest number of densities in a product (ν_max, 1 … 4), one per layer or one for all.
        channels: K.
        l_message: highest degree L_I of the messages between layers.
        parity: ``both`` keeps pseudo-tensors from the second layer on, ``natural`` drops them.
        radial_basis: ``bessel`` or ``chebyshev``.
        n_radial: number of radial basis functions.
        radial_decay: prior of smoothness: the n-th of them is divided by this power of n.
        radial_hidden: widths of the radial network.
        cutoff_power: p of the polynomial cutoff.
        densities: S, scalar densities per layer that enter the readout network.
        readout_hidden: width of the readout network; 0 makes the readout linear.
        embedding: ``network``, or ``polynomial``: squares of the scalar densities in place of the network.
        mean_neighbours: N̄, mean number of neighbours inside the cutoff.
        scale: unit of energy of the readout, eV (the root mean square force in eV/Å is a good value).
        core_repulsion: add the ZBL repulsion.
        core_reach: where it ends, as a share of the sum of the covalent radii.
        inner_cutoffs: shortest known bonds by pair of elements, Å: where atoms are closer the expansion fades
            out and a repulsion comes in (:mod:`gace.potential.inner_cutoff`); None: nowhere.
        close_limits: close density by element beyond which it does.
        order_decay: prior of smoothness: products of ν densities are scaled to ``order_decay ** (ν - 1)``.
        degree_decay: prior of smoothness: densities and products are scaled by this power of their degrees.
        seed: of the initial parameters.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        *,
        elements: Sequence[str],
        cutoff: float = 5.0,
        pair_cutoffs: Mapping[str, float] | None = None,
        l_max: Sequence[int] = (3, 3),
        order: int | Sequence[int] = 3,
        channels: int = 32,
        l_message: int = 1,
        parity: str = "both",
        radial_basis: str = "bessel",
        n_radial: int = 8,
        radial_decay: float = 0.0,
        radial_hidden: Sequence[int] = (64, 64),
        cutoff_power: int = 6,
        densities: int = 16,
        readout_hidden: int = 32,
        embedding: str = "network",
        mean_neighbours: float = 16.0,
        scale: float = 1.0,
        core_repulsion: bool = True,
        core_reach: float = 1.0,
        inner_cutoffs: Mapping[str, float] | None = None,
        close_limits: Mapping[str, float] | None = None,
        order_decay: float = 1.0,
        degree_decay: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        keep_freed_memory()
        l_max, radial_hidden = listed("l_max", l_max), listed("radial_hidden", radial_hidden)
        orders = [order] * len(l_max) if isinstance(order, int) else listed("order", order)
        self._hyperparameters: dict[str, Any] = dict(
            elements=list(elements), cutoff=float(cutoff), pair_cutoffs=dict(pair_cutoffs or {}),
            l_max=list(l_max), order=orders, channels=channels,
            l_message=l_message, parity=parity, radial_basis=radial_basis, n_radial=n_radial,
            radial_decay=float(radial_decay), radial_hidden=list(radial_hidden), cutoff_power=cutoff_power,
            densities=densities,
            readout_hidden=readout_hidden, embedding=embedding, mean_neighbours=float(mean_neighbours),
            scale=float(scale),
            core_repulsion=core_repulsion, core_reach=float(core_reach),
            inner_cutoffs=dict(inner_cutoffs or {}), close_limits=dict(close_limits or {}),
            order_decay=order_decay, degree_decay=degree_decay,
            seed=seed,
        )  # fmt: skip
        check(self._hyperparameters)
        self.elements = tuple(elements)
        self.cutoff = float(cutoff)
        self.cutoff_power = cutoff_power
        self.mean_neighbours = float(mean_neighbours)
        # a buffer, so that compiled code does not depend on the data set
        spread = torch.tensor(math.sqrt(float(mean_neighbours)), dtype=torch.float64)
        self.register_buffer("sqrt_mean_neighbours", spread, persistent=False)
        stretch = None  # the cutoff over each pair's own: what distances are multiplied by
        if pair_cutoffs:
            own = by_pair(
                self.elements, pair_cutoffs, "pair_cutoffs", missing=self.cutoff, largest=self.cutoff
            )
            stretch = self.cutoff / own
        self.register_buffer("pair_stretch", stretch, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        n_elements, T = len(self.elements), len(l_max)
        self.radial_basis = RadialBasis(radial_basis, n_radial, self.cutoff, radial_decay)
        self.harmonics = SphericalHarmonics(max(l_max))
        self.layers = nn.ModuleList()
        incoming: Irreps | None = None
        for t in range(T):
            layer = Layer(
                n_elements=n_elements,
                channels=channels,
                n_radial=n_radial,
                radial_hidden=tuple(radial_hidden),
                l_max=l_max[t],
                order=orders[t],
                incoming=incoming,
                l_message=l_message if t < T - 1 else None,
                parity=parity,
                order_decay=order_decay,
                degree_decay=degree_decay,
                generator=generator,
            )
            incoming = layer.message_irreps
            self.layers.append(layer)
        self.coefficients = nn.ParameterList()
        self.projections = nn.ParameterList()
        for layer in self.layers:
            n = layer.n_invariants
            ones = torch.ones(n, n_elements, channels, dtype=torch.float64)
            self.coefficients.append(
                nn.Parameter(ones + 0.3 * torch.randn(ones.shape, generator=generator, dtype=torch.float64))
            )
            shape = (n * channels, 1 + densities)
            self.projections.append(
                nn.Parameter(
                    torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(n * channels)
                )
            )
        self.readout = None
        if densities and (readout_hidden or embedding == "polynomial"):
            sizes = [T * densities, 1] if embedding == "polynomial" else [T * densities, readout_hidden, 1]
            self.readout = nn.ParameterList(
                nn.Parameter(torch.randn(a, b, generator=generator, dtype=torch.float64) / math.sqrt(a))
                for a, b in itertools.pairwise(sizes)
            )
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(n_elements, dtype=torch.float64))
        self.repulsion = CoreRepulsion(self.elements, core_reach) if core_repulsion else None
        self.inner = None
        if inner_cutoffs:
            self.inner = InnerCutoff(self.elements, self.cutoff, inner_cutoffs, close_limits)
        self.register_buffer("pair_constants", self._pair_constants(), persistent=False)

    @classmethod
    def from_preset(cls, name: str, *, elements: Sequence[str], **changes: Any) -> GraphACE:
        """Build a preset (``FS-small`` … ``2L-large``); ``changes`` replace single arguments.

        Raises:
            InputError: no such preset.
        """
        if name not in PRESETS:
            raise InputError(f"no preset called '{name}'{nearest(name, PRESETS)}")
        arguments = {**PRESETS[name], **{k: v for k, v in changes.items() if v is not None}}
        return cls(elements=elements, **arguments)

    def hyperparameters(self) -> dict[str, Any]:
        """Arguments that rebuild this architecture: ``GraphACE(**model.hyperparameters())``."""
        return dict(self._hyperparameters)

    def set_shift(self, shift: Mapping[str, float]) -> None:
        """Set the mean energy of a bonded atom of each element, eV, relative to the isolated atom."""
        with torch.no_grad():
            for position, element in enumerate(self.elements):
                self.shift[position] = shift[element]

    def _pair_constants(self) -> Tensor:
        """What :func:`gace.potential.kernels.bond_sums` reads of each pair of elements."""
        n = len(self.elements)
        none = torch.zeros(n, n, dtype=torch.float64)
        stretch = none + 1.0 if self.pair_stretch is None else self.pair_stretch
        core, close = [none] * 3, [none] * 2
        if self.repulsion is not None:
            longest = self.repulsion.range
            felt = longest > 0
            inverse = torch.where(felt, 1.0 / longest, 0.0)
            core = [self.repulsion.charges * felt, self.repulsion.inverse_length, inverse]
        if self.inner is not None:
            close = [self.inner.reach, self.inner.inverse_width]
        return torch.stack([stretch / self.cutoff, *core, *close], dim=-1).flatten(0, 1)

    def bonds(
        self,
        edge_vector: Tensor,
        species: Tensor,
        neighbour_species: Tensor,
        neighbour: Tensor | None = None,
        *,
        tabulated: bool = False,
    ) -> tuple[Tensor, Bonds]:
        """Distances ``(N, J)`` and the functions of the bonds that all layers share.

        With ``tabulated`` the radial basis is left out; by kernels they can then be differentiated once only.
        """
        by_kernels = tabulated and available(edge_vector)
        if by_kernels:
            r, harmonics = geometry(edge_vector, self.harmonics.l_max + 1)
        else:
            r = edge_vector.square().sum(-1).sqrt()
            harmonics = torch.cat(self.harmonics(edge_vector / r.unsqueeze(-1)), dim=-1)
        # radial functions see the share of the pair's own cutoff
        s = (
            r
            if self.pair_stretch is None
            else r * self.pair_stretch[species.unsqueeze(-1), neighbour_species]
        )
        if by_kernels:
            sums = bond_sums(
                r,
                (species, neighbour_species),
                self.pair_constants,
                self.cutoff_power,
                repulsion=self.repulsion is not None,
                inner=self.inner is not None,
            )
            return r, Bonds(None, None, harmonics, neighbour_species, neighbour, s, sums=sums)
        envelope = smooth_cutoff(s, self.cutoff, self.cutoff_power)
        basis = None if tabulated else self.radial_basis(s)
        weight = (envelope / self.sqrt_mean_neighbours).unsqueeze(-1)
        return r, Bonds(basis, weight, harmonics, neighbour_species, neighbour, s)

    def forward(self, graph: Graph, tables: Sequence[RadialTable] | None = None) -> AtomicOutput:
        """Energy and invariants of every atom.

        Args:
            graph: on the model's device and in its precision.
            tables: radial functions of each layer in the place of its network (kernels only).
        """
        of_neighbours = gather_neighbours(graph.species, graph)
        r, bonds = self.bonds(
            graph.edge_vector, graph.species, of_neighbours, graph.neighbour, tabulated=tables is not None
        )
        closeness = self.closeness(r, bonds, graph.species)
        carried: Tensor | None = None
        invariants: list[Tensor] = []
        densities: list[Tensor] = []
        for t, layer in enumerate(self.layers):
            if tables is not None:
                bonds = bonds._replace(table=tables[t])
            carried, scalars = layer(bonds, carried, graph.species)
            carried = faded(carried, closeness)
            invariants.append(scalars)
            densities.append(self.densities(t, scalars, graph.species))
        energy = self.energy(densities, r, bonds, graph.species, closeness)
        return AtomicOutput(energy, features(invariants))

    def densities(self, t: int, invariants: Tensor, species: Tensor) -> Tensor:
        """Scalar densities ρ of layer ``t`` ``(N, 1 + S)``; the first enters the energy linearly."""
        weighted = invariants * self.coefficients[t].index_select(1, species)
        return weighted.transpose(0, 1).flatten(1) @ self.projections[t]

    def readout_energy(self, densities: list[Tensor]) -> Tensor:
        """Energy from the densities of all layers, eV ``(N,)``: a linear part, and a network or squares."""
        linear = densities[0][:, 0]
        for density in densities[1:]:
            linear = linear + density[:, 0]
        if self.readout is not None:
            several = torch.cat([density[:, 1:] for density in densities], dim=1)
            squares = len(self.readout) == 1
            hidden = several.square() if squares else nn.functional.silu(several @ self.readout[0])
            linear = linear + (hidden @ self.readout[-1]).squeeze(1)
        return linear * self.scale

    def closeness(self, r: Tensor, bonds: Bonds, species: Tensor) -> Closeness | None:
        """What atoms closer than in the data do; None without inner cutoffs."""
        if self.inner is None:
            return None
        found: Closeness = (
            self.inner(r, species, bonds.neighbour_species)
            if bonds.sums is None
            else self.inner.of_density(bonds.sums[:, 2], species)
        )
        return found

    def energy(
        self, densities: list[Tensor], r: Tensor, bonds: Bonds, species: Tensor, closeness: Closeness | None
    ) -> Tensor:
        """Energy of each atom, eV ``(N,)``, of the densities of all layers and of :meth:`closeness`."""
        # the mean bonding energy fades in with the coordination, so that a lone atom has none
        if bonds.sums is not None:
            coordination, core, _ = bonds.sums.unbind(1)
        else:
            assert bonds.cutoff is not None
            coordination, core = bonds.cutoff.sum((1, 2)) * self.sqrt_mean_neighbours, None
        mean = of_elements(self.shift[:, None], species)[:, 0] * torch.tanh(coordination)
        energy = self.readout_energy(densities) + mean
        if closeness is not None:
            energy = energy * closeness.remains + closeness.wall * self.scale
        if self.repulsion is not None:
            energy = energy + (self.repulsion(r, species, bonds.neighbour_species) if core is None else core)
        return energy

    @torch.no_grad()
    @torch.no_grad()
    def calibrate(self, graph: Graph) -> None:
        """Set the internal scales so that every product has unit root mean square on ``graph``.

        Called once before training, on a batch of training structures.
        """
        for layer in self.layers:
            layer.measuring = True
        try:
            self(graph)
        finally:
            for layer in self.layers:
                layer.measuring = False


def faded(message: Tensor | None, closeness: Closeness | None) -> Tensor | None:
    """Message ``(N, dim, K)`` of atoms that may be too close."""
    if message is None or closeness is None:
        return message
    return message * closeness.remains[:, None, None]


def features(invariants: list[Tensor]) -> Tensor:
    """Invariants of all layers ``(n_scalar, N, K)`` side by side ``(N, F)``."""
    return torch.cat([one.transpose(0, 1).flatten(1) for one in invariants], dim=1)
