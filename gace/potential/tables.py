"""Radial functions as tables: pieces of degree five in the distance, for evaluation without the network.

Radial functions depend on the distance and the two elements alone, so that once a potential is trained its
radial networks need not be evaluated on every bond. Values and two derivatives agree with the network's at
every knot (quintic Hermite interpolation), so energies have continuous second derivatives; forces are the
exact derivatives of what is evaluated, and energy is conserved as well as without tables.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from gace.basis import smooth_cutoff
from gace.potential.graph_ace import GraphACE

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-9}
"""Largest error of a radial function, as a share of the root mean square of all of its layer."""

SHORTEST = 0.1
"""Å; the table's first knot. Closer atoms get the first piece continued."""

INTERVALS = (64, 128, 256, 512, 1024, 2048)
"""Numbers of pieces tried, from few to many."""

LARGEST = 512 << 20
"""Bytes of all tables of a potential, beyond which there are none (many elements)."""


@dataclass(frozen=True)
class RadialTable:
    """The radial functions of one layer, cutoff factor included.

    Attributes:
        values: coefficients by rising power ``(n_elements², intervals, 6, (l_max+1) K)``; the pair of
            centre a and neighbour b is row ``a n_elements + b``.
        range: first knot (Å), pieces per Å, cutoff (Å) ``(3,)``.
        degrees: l_max + 1.
        channels: K.
        error: largest error of a function found between knots, as a share of the functions' root mean square.
    """

    values: Tensor
    range: Tensor
    degrees: int
    channels: int
    error: float


def radial_tables(model: GraphACE, tolerance: float | None = None) -> list[RadialTable] | None:
    """One table per layer in the model's precision, or None where they would take too much memory.

    Args:
        model: a trained model.
        tolerance: largest error as in :class:`RadialTable`; default by the model's precision
            (:data:`TOLERANCE`).
    """
    dtype = next(model.parameters()).dtype
    tolerance = TOLERANCE.get(dtype, 1e-6) if tolerance is None else tolerance
    exact = copy.deepcopy(model).to(device="cpu", dtype=torch.float64).requires_grad_(False)
    tables, spent = [], 0
    for t in range(len(exact.layers)):
        table = _tabulated(exact, t, tolerance, dtype)
        spent += table.values.numel() * table.values.element_size()
        if spent > LARGEST:
            return None
        tables.append(table)
    return tables


def _tabulated(model: GraphACE, t: int, tolerance: float, dtype: torch.dtype) -> RadialTable:
    """The table of a layer with as few pieces as the tolerance allows."""
    layer, n = model.layers[t], len(model.elements)
    pairs = [_functions(model, t, a, b) for a in range(n) for b in range(n)]
    first, cutoff = SHORTEST * min(1.0, model.cutoff / 5.0), model.cutoff
    budget = LARGEST // (len(pairs) * 6 * layer.channels * (layer.l_max + 1) * torch.finfo(dtype).bits // 8)
    for intervals in INTERVALS:
        knots = torch.linspace(first, cutoff, intervals + 1, dtype=torch.float64)
        step = (cutoff - first) / intervals
        # the error of a piece is largest near its quarters: its Hermite remainder is x³ (1-x)³ f⁽⁶⁾ / 720
        between = knots[:-1, None] + step * torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
        powers = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)[:, None] ** torch.arange(6)
        values, worst, square = [], 0.0, 0.0
        for f in pairs:
            coefficients = _hermite(f, knots, step)
            exact = f(between.flatten()).view(intervals, 3, -1)
            worst = max(worst, float((torch.einsum("pi,nif->npf", powers, coefficients) - exact).abs().max()))
            square += float(exact.square().mean()) / len(pairs)
            values.append(coefficients)
        error = worst / max(square, 1e-300) ** 0.5
        if error <= tolerance or intervals == INTERVALS[-1] or 2 * intervals > budget:
            break
    return RadialTable(
        values=torch.stack(values).to(dtype),
        range=torch.tensor([first, 1.0 / step, cutoff], dtype=dtype),
        degrees=layer.l_max + 1,
        channels=layer.channels,
        error=error,
    )


def _functions(model: GraphACE, t: int, centre: int, neighbour: int) -> Callable[[Tensor], Tensor]:
    """Radial functions ``(n, (l_max+1) K)`` of the distances ``(n,)`` for a pair of elements."""
    radial = model.layers[t].radial

    def functions(r: Tensor) -> Tensor:
        envelope = smooth_cutoff(r, model.cutoff, model.cutoff_power) / model.sqrt_mean_neighbours
        one = torch.full((1,), centre), torch.full((1, len(r)), neighbour)
        found: Tensor = radial(model.radial_basis(r).unsqueeze(0), *one, envelope.view(1, -1, 1))
        return found[0]

    return functions


def _hermite(f: Callable[[Tensor], Tensor], knots: Tensor, step: float) -> Tensor:
    """Coefficients by rising power ``(intervals, 6, F)`` that keep f, f′ and f″ at both ends."""
    ones = torch.ones_like(knots)

    def slope(r: Tensor) -> Tensor:
        return jvp(f, (r,), (ones,))[1]  # type: ignore[no-any-return]

    values, (slopes, bends) = f(knots), jvp(slope, (knots,), (ones,))
    slopes, bends = step * slopes, 0.5 * step**2 * bends
    # exactly zero at the cutoff with two derivatives, whatever rounding made of them
    for one in (values, slopes, bends):
        one[-1] = 0.0
    p0, p1, p2 = values[:-1], slopes[:-1], bends[:-1]
    rise = values[1:] - p0 - p1 - p2
    turn = slopes[1:] - p1 - 2 * p2
    bend = 2 * (bends[1:] - p2)
    return torch.stack(
        [
            p0, p1, p2, 10 * rise - 4 * turn + 0.5 * bend, -15 * rise + 7 * turn - bend,
            6 * rise - 3 * turn + 0.5 * bend,
        ],
        dim=1,
    )  # fmt: skip
