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
        values: at each knot the functions, their slope times the step between knots, and their second
            derivative times its square ``(n_elements², knots, 3, (l_max+1) K)``; the pair of centre a and
            neighbour b is row ``a n_elements + b``.
        range: first knot (Å), steps per Å, cutoff (Å) ``(3,)``.
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
    budget = LARGEST // (len(pairs) * 3 * layer.channels * (layer.l_max + 1) * torch.finfo(dtype).bits // 8)
    for intervals in INTERVALS:
        step = (cutoff - first) / intervals
        knots = torch.linspace(first, cutoff, intervals + 1, dtype=torch.float64)
        values = torch.empty(len(pairs), intervals + 1, 3, layer.channels * (layer.l_max + 1), dtype=dtype)
        worst = square = 0.0
        for pair, f in enumerate(pairs):
            table = at_knots(f, knots, step)
            # the remainder of a piece is x³ (1-x)³ f⁽⁶⁾ / 720, largest in the middle if f⁽⁶⁾ varies slowly
            for x in (0.3, 0.5, 0.7):
                expected = f(knots[:-1] + x * step)
                worst = max(worst, float((between_knots(table, x) - expected).abs().max()))
                square += float(expected.square().mean()) / (3 * len(pairs))
            values[pair] = table
        error = worst / max(square, 1e-300) ** 0.5
        if error <= tolerance or intervals == INTERVALS[-1] or 2 * intervals > budget:
            break
    limits = torch.tensor([first, 1.0 / step, cutoff], dtype=dtype)
    return RadialTable(values, limits, layer.l_max + 1, layer.channels, error)


def _functions(model: GraphACE, t: int, centre: int, neighbour: int) -> Callable[[Tensor], Tensor]:
    """Radial functions ``(n, (l_max+1) K)`` of the distances ``(n,)`` for a pair of elements."""
    radial = model.layers[t].radial

    def functions(r: Tensor) -> Tensor:
        envelope = smooth_cutoff(r, model.cutoff, model.cutoff_power) / model.sqrt_mean_neighbours
        one = torch.full((1,), centre), torch.full((1, len(r)), neighbour)
        found: Tensor = radial(model.radial_basis(r).unsqueeze(0), *one, envelope.view(1, -1, 1))
        return found[0]

    return functions


def at_knots(f: Callable[[Tensor], Tensor], knots: Tensor, step: float) -> Tensor:
    """f, f′ times the step and f″ times its square at the knots ``(knots, 3, F)``; zero at the last."""
    r = knots.clone().requires_grad_()
    values = f(r)
    slopes = _derivative(values, r)
    bends = _derivative(slopes, r)
    table = torch.stack([values, step * slopes, step**2 * bends], dim=1).detach()
    # exactly zero at the cutoff with two derivatives, whatever rounding made of them
    table[-1] = 0.0
    return table


def between_knots(table: Tensor, x: Tensor | float) -> Tensor:
    """The functions at a share ``x`` of each interval: ``(knots, 3, F) -> (knots - 1, F)``."""
    x = torch.as_tensor(x, dtype=table.dtype)
    left = [
        1 - x**3 * (10 - 15 * x + 6 * x**2),
        x - x**3 * (6 - 8 * x + 3 * x**2),
        0.5 * x**2 * (1 - x) ** 3,
    ]
    right = [x**3 * (10 - 15 * x + 6 * x**2), -(x**3) * (4 - 7 * x + 3 * x**2), 0.5 * x**3 * (1 - x) ** 2]
    weights = torch.stack([*left, *right])
    return torch.einsum("w,nwf->nf", weights, torch.cat([table[:-1], table[1:]], dim=1))


def _derivative(values: Tensor, r: Tensor) -> Tensor:
    """Derivative of each value ``(n, F)`` by its own r ``(n,)``.

    Backwards twice: the gradient of ``Σ v f`` by r is linear in v, and its derivative by v is f′.
    """
    v = torch.zeros_like(values, requires_grad=True)
    (slope,) = torch.autograd.grad(values, r, v, create_graph=True)
    (found,) = torch.autograd.grad(slope.sum(), v, create_graph=True)
    return found
