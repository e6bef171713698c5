"""Radial functions as tables: pieces of degree five in the distance, for evaluation without the network.

Radial functions depend on the distance and the two elements alone, so that once a potential is trained its
radial networks need not be evaluated on every bond. Values and two derivatives agree with the network's at
every knot (quintic Hermite interpolation), so energies have continuous second derivatives; forces are the
exact derivatives of what is evaluated, and energy is conserved as well as without tables.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gace.basis import smooth_cutoff
from gace.potential.graph_ace import GraphACE

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
"""Largest error of a radial function, as a share of the root mean square of all of its layer."""

SHORTEST = 0.1
"""Å; the table's first knot. Closer atoms get the first piece continued."""

FEWEST, MOST = 64, 2048
"""Numbers of pieces tried first and at most."""

PLACES = (0.3, 0.5, 0.7)
"""Shares of an interval at which the error is looked for."""

AT_ONCE = 256
"""Distances whose functions and derivatives are formed at once."""

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
    intervals = FEWEST
    while intervals <= MOST:
        if n * n * (intervals + 1) * row > left:
            return None
        values, error = _pieces(model, t, intervals, first, dtype)
        if error <= tolerance:
            limits = torch.tensor([first, intervals / (cutoff - first), cutoff], dtype=dtype)
            return RadialTable(values, limits, layer.l_max + 1, layer.channels, error)
        if not math.isfinite(error):
            return None
        # the error falls with the sixth power of the step
        enough = intervals * (error / tolerance) ** (1 / 6)
        intervals = min(32 * math.ceil(1.05 * enough / 32), 4 * intervals)
    return None


def _pieces(
    model: GraphACE, t: int, intervals: int, first: float, dtype: torch.dtype
) -> tuple[Tensor, float]:
    """Values and error of the table of a layer with so many pieces, as in :class:`RadialTable`."""
    layer, n = model.layers[t], len(model.elements)
    step = (model.cutoff - first) / intervals
    knots = torch.linspace(first, model.cutoff, intervals + 1, dtype=torch.float64)
    values = torch.empty(n * n, intervals + 1, 3, layer.channels * (layer.l_max + 1), dtype=dtype)
    error = 0.0
    for a in range(n):
        largest = square = 0.0
        # one pair after another: the derivatives of many distances at once take the memory of a run
        for b in range(n):
            functions = _functions(model, t, a, b)
            table = torch.cat([at_knots(functions, some, step) for some in knots.split(AT_ONCE)])
            # exactly zero at the cutoff with two derivatives, whatever rounding made of them
            table[-1] = 0.0
            # the remainder of a piece is x³ (1-x)³ f⁽⁶⁾ / 720, largest in the middle if f⁽⁶⁾ varies slowly
            for x in PLACES:
                expected = torch.cat([functions(some + x * step) for some in knots[:-1].split(AT_ONCE)])
                largest = max(largest, float((between_knots(table, x) - expected).abs().max()))
                square += float(expected.square().mean()) / (n * len(PLACES))
            values[a * n + b] = table
        error = max(error, largest / square**0.5 if square else largest)
    return values, error


def _functions(model: GraphACE, t: int, centre: int, neighbour: int) -> Callable[[Tensor], Tensor]:
    """Radial functions of a pair of elements at any distances: ``(n,) -> (n, F)``."""
    radial = model.layers[t].radial

    def functions(r: Tensor) -> Tensor:
        envelope = smooth_cutoff(r, model.cutoff, model.cutoff_power) / model.sqrt_mean_neighbours
        basis = model.radial_basis(r).unsqueeze(0)
        of_neighbours = torch.full((1, len(r)), neighbour)
        found: Tensor = radial(basis, torch.full((1,), centre), of_neighbours, envelope.view(1, -1, 1))
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
    # as a sum, not by ``grad_outputs``: for those PyTorch loads its symbolic shapes, 50 MB and half a second
    (slope,) = torch.autograd.grad((values * v).sum(), r, create_graph=True)
    (found,) = torch.autograd.grad(slope.sum(), v, create_graph=True)
    return found
