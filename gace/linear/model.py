"""The linear ACE as a module: atomic energies linear in explicit invariants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor, nn

from gace.allocator import keep_freed_memory
from gace.basis import SphericalHarmonics, smooth_cutoff
from gace.errors import InputError
from gace.linear.basis import MAX_ORDER, Invariant, choose_level, enumerate_invariants
from gace.linear.products import Products
from gace.potential.graph_ace import AtomicOutput
from gace.potential.zbl import CoreRepulsion
from gace.structures.graph import Graph

ARCHITECTURE = "linear-ace"
"""Value of ``model`` among the hyperparameters, by which a bundle knows what it holds."""

MAX_DEGREE = 8
"""Largest ``max_degree``."""

CORE_REACH = 0.6
"""Where the core repulsion ends, as a share of the sum of the covalent radii: below all bonds."""

OVERSHOOT = 0.02
"""How far the argument of the radial functions goes on past the inner end of its range (length 2)."""


class BondFunctions(NamedTuple):
    """What each bond contributes to the atomic base."""

    radial: Tensor
    """R_n(r) of the neighbour's element, zero for the others ``(N, J, Z n_max)``."""
    harmonics: Tensor
    """Y_lm ``(N, J, (max_degree + 1)²)``."""
    coordination: Tensor
    """Sum of the cutoff factors ``(N,)``."""


class LinearACE(nn.Module):
    """Linear atomic cluster expansion [Drautz, PRB 99, 014104 (2019)] with an explicit, fixed basis.

    ``E_i = Σ_q c_q^{(z_i)} B_q``, B the invariants of :mod:`gace.linear.basis`, made of radial functions
    that depend on the elements of both ends through the scale of the distance only. Coefficients are found by
    :func:`gace.linear.fit`, not by gradients. The energy of an isolated atom is zero.

    Args:
        elements: chemical symbols; their order is the order of ``Graph.species``.
        cutoff: longest bond, Å.
        order: highest number of factors ν, 1 … 4.
        size: largest number of invariants per element; decides ``level`` where that is None.
        level: highest ``Σ (n + degree_weight l + order_cost)`` of a product.
        degree_weight: price of one unit of l in units of n.
        order_cost: price of one more factor.
        max_degree: highest degree of a factor.
        distance_power: q of the transformed distance ``1 / (1 + (r/r_0)^q)``, r_0 the sum of covalent radii.
        inner_reach: the radial functions are Chebyshev polynomials between this share of r_0 and the cutoff,
            and level off below. None: between r_0 and the cutoff, and they go on as polynomials below (as in
            bundles of before 2026-11-26): where bonds are shorter than r_0 the highest of them are giants.
        cutoff_power: p of the polynomial cutoff.
        core_repulsion: add the ZBL repulsion.

    Raises:
        InputError: a value is out of its range.
    """

    def __init__(
        self,
        *,
        elements: Sequence[str],
        cutoff: float = 5.0,
        order: int = 3,
        size: int = 1000,
        level: float | None = None,
        degree_weight: float = 1.0,
        order_cost: float = 1.0,
        max_degree: int = 6,
        distance_power: float = 1.0,
        inner_reach: float | None = CORE_REACH,
        cutoff_power: int = 2,
        core_repulsion: bool = True,
    ) -> None:
        super().__init__()
        keep_freed_memory()
        _check(elements, cutoff, order, size, max_degree, inner_reach)
        n_elements = len(elements)
        if level is None:
            level = choose_level(n_elements, order, size, degree_weight, order_cost, max_degree)
        self._hyperparameters: dict[str, Any] = dict(
            model=ARCHITECTURE, elements=list(elements), cutoff=float(cutoff), order=order, size=size,
            level=level, degree_weight=degree_weight, order_cost=order_cost, max_degree=max_degree,
            distance_power=distance_power, inner_reach=inner_reach, cutoff_power=cutoff_power,
            core_repulsion=core_repulsion,
        )  # fmt: skip
        self.elements, self.cutoff = tuple(elements), float(cutoff)
        self.cutoff_power, self.distance_power, self.inner_reach = cutoff_power, distance_power, inner_reach
        self.invariants: list[Invariant] = enumerate_invariants(
            n_elements, order, level, degree_weight, order_cost, max_degree
        )
        if not self.invariants:
            raise InputError(f"level {level:g} leaves no invariants: raise potential.overrides.level or size")
        self.products = Products(self.invariants)
        used = self.products.factors
        self.n_max = 1 + max(one.n for one in used)
        self.harmonics = SphericalHarmonics(max(one.l for one in used))
        # one column of the atomic base for each factor and component
        columns = [(one.z * self.n_max + one.n, one.l**2 + m) for one in used for m in range(2 * one.l + 1)]
        self.register_buffer("radial_index", torch.tensor([a for a, _ in columns]), persistent=False)
        self.register_buffer("angular_index", torch.tensor([b for _, b in columns]), persistent=False)
        radius = torch.tensor([covalent_radii[atomic_numbers[e]] for e in elements], dtype=torch.float64)
        self.register_buffer("bond_length", radius[:, None] + radius[None, :], persistent=False)
        self.register_buffer("centre", torch.zeros(n_elements, len(columns), dtype=torch.float64))
        self.register_buffer("stretch", torch.ones(n_elements, len(columns), dtype=torch.float64))
        self.coefficients = nn.Parameter(torch.zeros(n_elements, len(self.invariants), dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(n_elements, dtype=torch.float64))
        self.repulsion = CoreRepulsion(self.elements, CORE_REACH) if core_repulsion else None

    def hyperparameters(self) -> dict[str, Any]:
        """Arguments that rebuild this architecture, and ``model: linear-ace``."""
        return dict(self._hyperparameters)

    @classmethod
    def from_hyperparameters(cls, arguments: Mapping[str, Any]) -> LinearACE:
        """The architecture that :meth:`hyperparameters` describes, coefficients zero."""
        own = {key: value for key, value in arguments.items() if key != "model"}
        return cls(**{"inner_reach": None, **own})

    def set_shift(self, shift: Mapping[str, float]) -> None:
        """Set the mean energy of a bonded atom of each element, eV, relative to the isolated atom."""
        with torch.no_grad():
            for position, element in enumerate(self.elements):
                self.shift[position] = shift[element]

    def bond_functions(self, graph: Graph, edge_vector: Tensor) -> BondFunctions:
        """Radial functions and harmonics of every bond; ``edge_vector`` Å ``(N, J, 3)``."""
        return self.functions_of(graph.species, self.neighbour_species(graph), edge_vector)

    def functions_of(self, species: Tensor, neighbours: Tensor, edge_vector: Tensor) -> BondFunctions:
        """The same for some atoms: elements ``(N,)``, elements of neighbours ``(N, J)``, vectors."""
        r = edge_vector.square().sum(-1).sqrt()
        length = self.bond_length[species.unsqueeze(1), neighbours]
        power = self.distance_power
        y = 1.0 / (1.0 + (r / length) ** power)
        end = 1.0 / (1.0 + (self.cutoff / length) ** power)
        begin = 1.0 / (1.0 + (self.inner_reach or 1.0) ** power)
        # T_n on [-1, 1]: -1 at the cutoff, 1 at the inner end; below, no data keep a polynomial in check
        x = 2.0 * (y - end) / (begin - end) - 1.0
        if self.inner_reach is not None:
            x = torch.where(x > 1.0, 1.0 + OVERSHOOT * torch.tanh((x - 1.0) / OVERSHOOT), x)
        envelope = smooth_cutoff(r, self.cutoff, self.cutoff_power)
        functions = [envelope, envelope * x]
        while len(functions) < self.n_max:
            functions.append(2.0 * x * functions[-1] - functions[-2])
        radial = torch.stack(functions[: self.n_max], -1)
        chosen = nn.functional.one_hot(neighbours, len(self.elements)).to(r.dtype)
        spread = (chosen.unsqueeze(-1) * radial.unsqueeze(-2)).flatten(2)
        harmonics = torch.cat(self.harmonics(edge_vector / r.unsqueeze(-1)), -1)
        return BondFunctions(spread, harmonics, envelope.sum(1))

    def neighbour_species(self, graph: Graph) -> Tensor:
        """Element index of each neighbour ``(N, J)``."""
        return graph.species.index_select(0, graph.neighbour.reshape(-1)).view_as(graph.neighbour)

    def atomic_base(self, bonds: BondFunctions, graph: Graph) -> Tensor:
        """A, summed over neighbours and standardised ``(n_A, N)``."""
        summed = bonds.radial.transpose(1, 2) @ bonds.harmonics  # (N, Z n_max, lm)
        plain = summed[:, self.radial_index, self.angular_index]
        return ((plain - self.centre[graph.species]) * self.stretch[graph.species]).T

    def at_rest(self) -> Tensor:
        """Invariants of an isolated atom of each element, to be subtracted ``(n_B, Z)``."""
        return self.products((-self.centre * self.stretch).T)

    @torch.no_grad()
    def standardise(self, graphs: Iterable[Graph]) -> None:
        """Centre and scale the atomic base on structures, before a fit.

        Centred scalars make a product of ν factors an interaction beyond those of fewer factors, as in an
        analysis of variance, instead of mostly repeating them; the span of the basis does not change, what a
        prior on its coefficients means does. The components of a harmonic share one scale, as symmetry wants.
        """
        n_elements = len(self.elements)
        count = torch.zeros(n_elements, 1, dtype=self.centre.dtype)
        first, second = torch.zeros_like(self.centre), torch.zeros_like(self.centre)
        self.centre.zero_(), self.stretch.fill_(1.0)
        for graph in graphs:
            base = self.atomic_base(self.bond_functions(graph, graph.edge_vector), graph).T
            count.index_add_(0, graph.species, torch.ones(graph.n_atoms, 1, dtype=base.dtype))
            first.index_add_(0, graph.species, base)
            second.index_add_(0, graph.species, base.square())
        count.clamp_(min=1.0)
        scalar = torch.tensor([one.l == 0 for one in self.products.factors for _ in range(2 * one.l + 1)])
        centre = torch.where(scalar, first / count, 0.0)
        variance = (second / count - centre.square()).clamp(min=0.0)
        # one scale for each neighbour element and degree: how it falls with n is smoothness, not to be undone
        group = torch.tensor(
            [one.z * (MAX_DEGREE + 1) + one.l for one in self.products.factors for _ in range(2 * one.l + 1)]
        )
        for name in group.unique():
            own = group == name
            variance[:, own] = variance[:, own].mean(1, keepdim=True)
        self.centre.copy_(centre)
        self.stretch.copy_(torch.where(variance > 1e-12, variance.clamp(min=1e-12).rsqrt(), 0.0))

    def fixed_energy(self, graph: Graph, edge_vector: Tensor, coordination: Tensor) -> Tensor:
        """The part of each atom's energy that is not fitted, eV ``(N,)``."""
        # the mean bonding energy fades in with the coordination, so that a lone atom has none
        energy = self.shift[graph.species] * torch.tanh(coordination)
        if self.repulsion is None:
            return energy
        r = edge_vector.square().sum(-1).sqrt()
        return energy + self.repulsion(r, graph.species, self.neighbour_species(graph))

    def forward(self, graph: Graph) -> AtomicOutput:
        """Energy and invariants of every atom."""
        bonds = self.bond_functions(graph, graph.edge_vector)
        invariants = (self.products(self.atomic_base(bonds, graph)) - self.at_rest()[:, graph.species]).T
        fitted = (invariants * self.coefficients.index_select(0, graph.species)).sum(1)
        fixed = self.fixed_energy(graph, graph.edge_vector, bonds.coordination)
        return AtomicOutput(fitted + fixed, invariants)


def _check(
    elements: Sequence[str],
    cutoff: float,
    order: int,
    size: int,
    max_degree: int,
    inner_reach: float | None,
) -> None:
    """Raise InputError for the first argument that is out of range."""
    conditions = [
        (len(elements) > 0 and len(set(elements)) == len(elements), "elements must be distinct"),
        (cutoff > 0, f"cutoff must be positive (got {cutoff})"),
        (1 <= order <= MAX_ORDER, f"order must be 1 to {MAX_ORDER} (got {order})"),
        (size >= 1, f"size must be positive (got {size})"),
        (0 <= max_degree <= MAX_DEGREE, f"max_degree must be 0 to {MAX_DEGREE} (got {max_degree})"),
        (
            inner_reach is None or 0 < inner_reach < 1,
            f"inner_reach must lie between 0 and 1 (got {inner_reach})",
        ),
    ]
    for holds, message in conditions:
        if not holds:
            raise InputError(message)
