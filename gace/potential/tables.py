"""Radial functions as tables: pieces of degree five in the distance, for evaluation without the network.

Radial functions depend on the distance and the two elements alone, so that once a potential is trained its
radial networks need not be evaluated on every bond. Values and two derivatives agree with the network's at
every knot (quintic Hermite interpolation), so energies have continuous second derivatives; forces are the
exact derivatives of what is evaluated, and energy is conserved as well as without tables.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

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

PLACES = (0.3, 0.5, 0.7)
"""Shares of an interval at which the error is looked for."""

LARGEST = 128 << 20
"""Bytes of all tables of a model, beyond which there are none (two dozen elements)."""


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
        error: largest error of a function found between knots, as a share of the root mean square of
            the centre's functions.
    """

    values: Tensor
    range: Tensor
    degrees: int
    channels: int
    error: float


def radial_tables(model: GraphACE, tolerance: float | None = None) -> list[RadialTable] | None:
    """One table per layer in the model's precision; None where that many pairs take too much memory.

    Args:
        model: a trained model.
        tolerance: largest error as in :class:`RadialTable`; default by the model's precision
            (:data:`TOLERANCE`). None is returned too where it cannot be met.
    """
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    tolerance = TOLERANCE.get(dtype, 1e-6) if tolerance is None else tolerance
    exact = copy.deepcopy(model).to(device="cpu", dtype=torch.float64).requires_grad_(False)
    tables: list[RadialTable] = []
    left = LARGEST
    for t in range(len(exact.layers)):
        table = _tabulated(exact, t, tolerance, dtype, left)
        if table is None:
            return None
        left -= table.values.numel() * table.values.element_size()
        tables.append(replace(table, values=table.values.to(device), range=table.range.to(device)))
    return tables


def _tabulated(
    model: GraphACE, t: int, tolerance: float, dtype: torch.dtype, left: int
) -> RadialTable | None:
    """The table of a layer with as few pieces as the tolerance allows, in at most ``left`` bytes."""
    layer, n = model.layers[t], len(model.elements)
    first, cutoff = SHORTEST * min(1.0, model.cutoff / 5.0), model.cutoff
    row = 3 * layer.channels * (layer.l_max + 1) * torch.finfo(dtype).bits // 8
    for intervals in INTERVALS:
        if n * n * (intervals + 1) * row > left:
            return None
        step = (cutoff - first) / intervals
        knots = torch.linspace(first, cutoff, intervals + 1, dtype=torch.float64)
        values = torch.empty(n * n, intervals + 1, 3, layer.channels * (layer.l_max + 1), dtype=dtype)
        error = 0.0
        for a in range(n):
            table = at_knots(_functions(model, t, a, intervals + 1), knots.repeat(n), step)
            table = table.unflatten(0, (n, intervals + 1))
            # exactly zero at the cutoff with two derivatives, whatever rounding made of them
            table[:, -1] = 0.0
            # the remainder of a piece is x³ (1-x)³ f⁽⁶⁾ / 720, largest in the middle if f⁽⁶⁾ varies slowly
            between = torch.cat([knots[:-1] + x * step for x in PLACES])
            expected = _functions(model, t, a, len(between))(between.repeat(n)).unflatten(0, (n, -1))
            found = torch.cat([between_knots(table, x) for x in PLACES], dim=1)
            error = max(error, float((found - expected).abs().max() / expected.square().mean().sqrt()))
            values[a * n : (a + 1) * n] = table
            if error > tolerance:
                break
        else:
            limits = torch.tensor([first, 1.0 / step, cutoff], dtype=dtype)
            return RadialTable(values, limits, layer.l_max + 1, layer.channels, error)
    return None


def _functions(model: GraphACE, t: int, centre: int, each: int) -> Callable[[Tensor], Tensor]:
    """Radial functions of a centre at ``each`` distances to every element: ``(n each,) -> (n each, F)``."""
    radial, n = model.layers[t].radial, len(model.elements)
    neighbour = torch.arange(n).repeat_interleave(each).unsqueeze(0)

    def functions(r: Tensor) -> Tensor:
        envelope = smooth_cutoff(r, model.cutoff, model.cutoff_power) / model.sqrt_mean_neighbours
        basis = model.radial_basis(r).unsqueeze(0)
        found: Tensor = radial(basis, torch.full((1,), centre), neighbour, envelope.view(1, -1, 1))
        return found[0]

    return functions


def at_knots(f: Callable[[Tensor], Tensor], knots: Tensor, step: float) -> Tensor:
    """f, f′ times the step and f″ times its square at the knots ``(knots, 3, F)``."""
    r = knots.clone().requires_grad_()
    values = f(r)
    slopes = _derivative(values, r)
    bends = _derivative(slopes, r)
    return torch.stack([values, step * slopes, step**2 * bends], dim=1).detach()


def between_knots(table: Tensor, x: Tensor | float) -> Tensor:
    """The functions at a share ``x`` of each interval: ``(…, knots, 3, F) -> (…, knots - 1, F)``."""
    x = torch.as_tensor(x, dtype=table.dtype)
    left = [
        1 - x**3 * (10 - 15 * x + 6 * x**2),
        x - x**3 * (6 - 8 * x + 3 * x**2),
        0.5 * x**2 * (1 - x) ** 3,
    ]
    right = [x**3 * (10 - 15 * x + 6 * x**2), -(x**3) * (4 - 7 * x + 3 * x**2), 0.5 * x**3 * (1 - x) ** 2]
    weights = torch.stack([*left, *right])
    ends = torch.cat([table[..., :-1, :, :], table[..., 1:, :, :]], dim=-2)
    return torch.einsum("w,...wf->...f", weights, ends)


def _derivative(values: Tensor, r: Tensor) -> Tensor:
    """Derivative of each value ``(n, F)`` by its own r ``(n,)``.

    Backwards twice: the gradient of ``Σ v f`` by r is linear in v, and its derivative by v is f′.
    """
    v = torch.zeros_like(values, requires_grad=True)
    (slope,) = torch.autograd.grad(values, r, v, create_graph=True)
    (found,) = torch.autograd.grad(slope.sum(), v, create_graph=True)
    return found
