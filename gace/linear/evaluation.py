"""Evaluation of a linear ACE on a processor with the pass back written out: nothing is recorded.

Its coefficients are fixed, so that the energy, and what is owed to every component of the density, come from
one walk through the list of invariants, sixteen (or eight) atoms at a time. Values and derivatives are those
of :func:`gace.potential.derivatives.energy_and_gradients` to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gace.basis import real_clebsch_gordan
from gace.linear.basis import Factor
from gace.linear.model import OVERSHOOT, LinearACE
from gace.linear.products import Pair, pairs_of
from gace.potential.derivatives import Prediction
from gace.potential.kernels.calls import call
from gace.potential.kernels.forces import forces
from gace.potential.kernels.geometry import backward as geometry_backward
from gace.potential.kernels.geometry import forward as geometry_forward
from gace.potential.kernels.sums import backward as sums_backward
from gace.potential.kernels.sums import forward as sums_forward
from gace.structures.graph import Graph, sum_structures

CACHE_LINE = 64
"""Bytes of the kernels' vectors."""

AT_ONCE = 1024
"""Atoms: what is made of more leaves the caches, and each invariant of theirs lies on pages of its own."""

ZERO = 1e-12
"""Coupling coefficients below are rounding."""


class Evaluation:
    """Evaluates a linear ACE as its coefficients are now.

    Args:
        model: on a processor, with kernels for its precision.
        features: whether invariants are asked for; else there are none among the results ``(N, 0)``, which
            saves a third of the time.
    """

    def __init__(self, model: LinearACE, features: bool = True) -> None:
        self.features = features
        with torch.no_grad():
            self._set_bonds(model)
            self._set_invariants(model)
            self.shift = model.shift.clone()
            self.has_repulsion = model.repulsion is not None
            self.cutoff_power = model.cutoff_power

    def _set_bonds(self, model: LinearACE) -> None:
        """Constants of the radial functions, and of the sums over neighbours that are not expanded."""
        dtype = model.coefficients.dtype
        self.degrees = model.harmonics.l_max + 1
        n, power = len(model.elements), model.distance_power
        begin = 1.0 / (1.0 + (model.inner_reach or 1.0) ** power)
        length = model.bond_length.double()
        end = 1.0 / (1.0 + (model.cutoff / length) ** power)
        self.pair = torch.stack([1.0 / length, end, 2.0 / (begin - end)], -1).contiguous()
        self.numbers = torch.tensor([model.cutoff, power, OVERSHOOT], dtype=torch.float64)
        width = CACHE_LINE // dtype.itemsize
        widths = -(-(self.degrees**2) // width)
        # how many radial functions the harmonics of each vector go with
        rows = [0] * widths
        for factor in model.products.factors:
            for component in range(factor.l**2, (factor.l + 1) ** 2):
                rows[component // width] = max(rows[component // width], factor.n + 1)
        levels_off = int(model.inner_reach is not None)
        self.bonds = [n, model.n_max, self.degrees**2, widths, model.cutoff_power, levels_off, *rows]
        self.of_atom = n * model.n_max * widths * width
        none = torch.zeros(n, n, dtype=dtype)
        core = [none] * 3
        if (repulsion := model.repulsion) is not None:
            core = [repulsion.charges, repulsion.inverse_length, 1.0 / repulsion.range]
        constants = torch.stack([none + 1.0 / model.cutoff, *core, none, none], dim=-1)
        self.constants = constants.flatten(0, 1).to(dtype).contiguous()

    def _set_invariants(self, model: LinearACE) -> None:
        """The list of products: rows of the base, then those of the pairs."""
        products, n_elements = model.products, len(model.elements)
        width = self.of_atom // (n_elements * model.n_max)
        start: dict[Factor, int] = {}
        columns: list[int] = []
        for z, n, l in ((one.z, one.n, one.l) for one in products.factors):
            start[Factor(l, n, z)] = len(columns)
            columns += [(z * model.n_max + n) * width + l**2 + m for m in range(2 * l + 1)]
        first: dict[Pair, int] = {}
        end: list[int] = []
        factors: list[tuple[int, int]] = []
        coupling: list[float] = []
        for pairs in pairs_of(model.invariants).values():
            for pair in pairs:
                first[pair] = len(columns) + len(end)
                table = real_clebsch_gordan(pair.left.l, pair.right.l, pair.L)
                for row in table:
                    for a, b in zip(*(abs(row) > ZERO).nonzero(), strict=True):
                        factors.append((start[pair.left] + int(a), start[pair.right] + int(b)))
                        coupling.append(float(row[a, b]))
                    end.append(len(factors))
        listed: list[tuple[int, int, int]] = []
        for one in model.invariants:
            f = one.factors
            if one.order == 1:
                listed.append((start[f[0]], 0, 0))
            elif one.order == 2:
                listed.append((first[Pair(f[0], f[1], 0)], 0, 0))
            else:
                right = start[f[2]] if one.order == 3 else first[Pair(f[2], f[3], one.L)]
                listed.append((first[Pair(f[0], f[1], one.L)], right, 2 * one.L + 1))
        dtype = model.coefficients.dtype
        self.size = [self.of_atom, len(columns), len(end), n_elements, len(listed)]
        self.column, self.end, self.factors, self.listed = (
            torch.tensor(one, dtype=torch.int64) for one in (columns, end, factors, listed)
        )
        self.coupling = torch.tensor(coupling, dtype=dtype)
        self.share = torch.tensor([max(1, n) ** -0.5 for *_, n in listed], dtype=dtype)
        self.centre, self.stretch = model.centre.contiguous(), model.stretch.contiguous()
        self.coefficients = model.coefficients.detach().clone()
        self.rest = model.at_rest().T.contiguous()

    @torch.no_grad()
    def __call__(self, graph: Graph) -> Prediction:
        """Energies and derivatives of a graph in the model's precision."""
        vector, species = graph.edge_vector, graph.species.contiguous()
        of_neighbours = species.index_select(0, graph.neighbour.reshape(-1)).view(graph.neighbour.shape)
        energy, slope = vector.new_empty(len(species)), torch.empty_like(vector)
        features = []
        for first in range(0, len(species), AT_ONCE):
            own = slice(first, first + AT_ONCE)
            energy[own], slope[own], found = self._evaluated(vector[own], species[own], of_neighbours[own])
            features.append(found)
        whole = features[0] if len(features) == 1 else torch.cat(features, dim=1)
        force, virial = forces(slope, graph)
        return Prediction(sum_structures(energy, graph), force, virial, energy, whole.T)

    def _evaluated(
        self, vector: Tensor, species: Tensor, of_neighbours: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Energies ``(n,)``, derivative by the bonds ``(n, J, 3)``, invariants ``(n_B, n)`` of some atoms."""
        r, Y = geometry_forward(vector, self.degrees)
        constants = (r, species, of_neighbours, self.constants, self.cutoff_power, self.has_repulsion, False)
        sums = sums_forward(*constants)
        size = [*r.shape, *self.bonds]
        density = r.new_empty(len(r), self.of_atom)
        bonds = (species, of_neighbours, self.pair, self.numbers)
        call("linear_density_forward", r.dtype, size, *bonds, Y, r, density)
        energy, found, of_density = self._products(density, species)
        of_Y, of_r = torch.empty_like(Y), torch.empty_like(r)
        call("linear_density_backward", r.dtype, size, *bonds, of_density, Y, r, of_Y, of_r)
        # the mean bonding energy fades in with the coordination
        level, shift = torch.tanh(sums[:, 0]), self.shift.index_select(0, species)
        energy += shift * level + sums[:, 1]
        of_sums = torch.zeros_like(sums)
        of_sums[:, 0] = shift * (1.0 - level * level)
        of_sums[:, 1] = 1.0
        of_r += sums_backward(of_sums, *constants)
        return energy, geometry_backward(of_r, of_Y, vector, self.degrees), found

    def _products(self, density: Tensor, species: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fitted energies, eV ``(N,)``; invariants ``(n_B, N)``; what is owed to the density."""
        N, n_elements = len(density), self.size[3]
        several = n_elements > 1
        order = torch.argsort(species, stable=True) if several else torch.arange(N)
        of_element = torch.bincount(species, minlength=n_elements) if several else torch.tensor([N])
        energy, slope = density.new_empty(N), torch.empty_like(density)
        found = density.new_empty(len(self.listed) if self.features else 0, N)
        call(
            "linear_invariants", density.dtype, [N, *self.size], order, of_element, self.column, self.centre,
            self.stretch, self.end, self.factors, self.coupling, self.listed, self.share, self.coefficients,
            self.rest, density, energy, found if self.features else None, slope,
        )  # fmt: skip
        if several:
            found = found.index_select(1, torch.argsort(order))
        return energy, found, slope
