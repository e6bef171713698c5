"""A linear ACE as lists of numbers, which compiled C++ evaluates (:mod:`gace.native`).

Its coefficients are fixed, so that the energy, and what is owed to every component of the density, come from
one walk through the list of invariants, sixteen (or eight) atoms at a time.
"""

from __future__ import annotations

import torch

from gace.basis import real_clebsch_gordan
from gace.linear.basis import Factor
from gace.linear.model import OVERSHOOT, LinearACE
from gace.linear.products import Pair, pairs_of

CACHE_LINE = 64
"""Bytes of the kernels' vectors."""

ZERO = 1e-12
"""Coupling coefficients below are rounding."""


class Listed:
    """A linear ACE as its coefficients are now; attributes as ``gace/potential/kernels/linear.cpp`` has them.

    Args:
        model: in single or double precision.
    """

    def __init__(self, model: LinearACE) -> None:
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
