"""Radial functions as tables: pieces of degree five in the distance, for evaluation without the network.

Radial functions depend on the distance and the two elements alone, so that once a potential is trained its
radial networks need not be evaluated on every bond. Values and two derivatives agree with the network's at
every knot (quintic Hermite interpolation), so energies have continuous second derivatives; forces are the
exact derivatives of what is evaluated, and energy is conserved as well as without tables.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gace.basis import RadialNetwork, smooth_cutoff
from gace.potential.devices import differentiating
from gace.potential.graph_ace import GraphACE

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
"""Largest error of a radial function, as a share of the root mean square of all of its layer."""

LOOSEST = {torch.float32: 1e-5, torch.float64: 1e-6}
"""What is put up with, ten times as much after ten times as much, where the tables would be too large.

In double precision energies are then 1e-9 eV and forces 1e-7 eV/Å off the networks' (3BPA, four elements);
they stay exact derivatives of each other.
"""

SHORTEST = 0.1
"""Å; the table's first knot. Closer atoms get the first piece continued."""

FEWEST, MOST = 64, 2048
"""Numbers of pieces tried first and at most."""

PLACES = (0.3, 0.5, 0.7)
"""Shares of an interval at which the error is looked for."""

LARGEST = 128 << 20
"""Bytes of all tables of a model, beyond which there are none (a dozen elements)."""


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


@differentiating
def radial_tables(model: GraphACE, tolerance: float | None = None) -> list[RadialTable] | None:
    """One table per layer in the model's precision; None where that many pairs take too much memory.

    Args:
        model: a trained model.
        tolerance: largest error as in :class:`RadialTable`; default by the model's precision
            (:data:`TOLERANCE`, to :data:`LOOSEST`). None is returned too where it cannot be met.
    """
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    exact = _Radial.of(model)
    surveys = [_surveyed(exact, t) for t in range(len(exact.networks))]
    for allowed in _tolerances(dtype) if tolerance is None else (tolerance,):
        planned = [_enough(exact, t, survey, allowed) for t, survey in enumerate(surveys)]
        numbers = [one for one in planned if one is not None]
        if len(numbers) < len(planned) or _bytes(model, numbers) > LARGEST:
            continue
        made = [_tabulated(exact, t, n, allowed, dtype) for t, n in enumerate(numbers)]
        tables = [
            replace(one, values=one.values.to(device), range=one.range.to(device)) for one in made if one
        ]
        if len(tables) == len(made) and _bytes(model, [one.values.shape[1] - 1 for one in tables]) <= LARGEST:
            return tables
    return None


def _tolerances(dtype: torch.dtype) -> Iterator[float]:
    """From the one that is wanted to the loosest."""
    allowed, loosest = TOLERANCE.get(dtype, 1e-6), LOOSEST.get(dtype, 1e-6)
    yield allowed
    while 10.0 * allowed < 1.01 * loosest:
        allowed *= 10.0
        yield allowed


def _bytes(model: GraphACE, intervals: Sequence[int]) -> int:
    """Of tables with so many pieces for each layer."""
    of_number = next(model.parameters()).element_size() * len(model.elements) ** 2
    rows = [3 * layer.channels * (layer.l_max + 1) for layer in model.layers]
    return of_number * sum((n + 1) * row for n, row in zip(intervals, rows, strict=True))


class _Radial(NamedTuple):
    """What of a model makes its radial functions, in double precision on the processor."""

    cutoff: float
    cutoff_power: int
    sqrt_mean_neighbours: Tensor
    radial_basis: nn.Module
    networks: list[RadialNetwork]
    """Of each layer."""
    shapes: list[tuple[int, int]]
    """l_max + 1 and K of each layer."""
    n_elements: int

    @classmethod
    def of(cls, model: GraphACE) -> _Radial:
        def exact(part: Any) -> Any:
            # no copy of the whole model, most of which is couplings
            return copy.deepcopy(part).to(device="cpu", dtype=torch.float64).requires_grad_(False)

        return cls(
            model.cutoff,
            model.cutoff_power,
            exact(model.sqrt_mean_neighbours),
            exact(model.radial_basis),
            [exact(layer.radial) for layer in model.layers],
            [(layer.l_max + 1, layer.channels) for layer in model.layers],
            len(model.elements),
        )


class _Survey(NamedTuple):
    """What few pieces tell of a layer."""

    error: float
    """As in :class:`RadialTable`."""
    hardest: tuple[int, int]
    """The pair that errs most, by index of centre and neighbour."""
    scale: float
    """The root mean square that its error is a share of."""


def _first(model: _Radial) -> float:
    """The first knot, Å."""
    return SHORTEST * min(1.0, model.cutoff / 5.0)


def _surveyed(model: _Radial, t: int) -> _Survey:
    """The fewest pieces for all pairs of a layer."""
    knots = _Knots(model, FEWEST, _first(model))
    return _pieces(knots, model.networks[t], model.n_elements)


def _enough(model: _Radial, t: int, survey: _Survey, tolerance: float) -> int | None:
    """How many pieces are enough for the pair that errs most; None if too many."""
    intervals, error = FEWEST, survey.error
    while error > tolerance:
        if not math.isfinite(error):
            return None
        # the error falls with the sixth power of the step
        enough = intervals * (error / tolerance) ** (1 / 6)
        intervals = min(32 * math.ceil(1.05 * enough / 32), 4 * intervals)
        if intervals > MOST:
            return None
        pair = _Knots(model, intervals, _first(model)).pair(model.networks[t], *survey.hardest)
        error = pair.error / survey.scale
    return intervals


def _tabulated(
    model: _Radial, t: int, intervals: int, tolerance: float, dtype: torch.dtype
) -> RadialTable | None:
    """The table of a layer with so many pieces, or more if another pair asks for them."""
    radial, first, cutoff = model.networks[t], _first(model), model.cutoff
    while intervals <= MOST:
        knots = _Knots(model, intervals, first)
        values = torch.empty(model.n_elements**2, intervals + 1, 3, radial.weights[-1].shape[1], dtype=dtype)
        found = _pieces(knots, radial, model.n_elements, values)
        if found.error <= tolerance:
            limits = torch.tensor([first, intervals / (cutoff - first), cutoff], dtype=dtype)
            return RadialTable(values, limits, *model.shapes[t], found.error)
        intervals += 32
    return None


class _Pair(NamedTuple):
    """What a pair's radial functions are linear in, and the error of the pieces between its knots."""

    table: Tensor
    """Values, slopes and bends at the knots ``(knots, 3, H)``, as in :class:`RadialTable`."""
    error: float
    """Largest, of the radial functions."""
    square: float
    """Mean square of the radial functions."""


class _Knots:
    """What is the same for all pairs of elements with so many pieces: basis and cutoff factor.

    Args:
        model: whose radial functions they are of.
        intervals: number of pieces.
        first: the first knot, Å.
    """

    def __init__(self, model: _Radial, intervals: int, first: float) -> None:
        step = (model.cutoff - first) / intervals
        self.steps = torch.tensor([1.0, step, step**2], dtype=torch.float64).view(3, 1, 1)
        knots = torch.linspace(first, model.cutoff, intervals + 1, dtype=torch.float64)

        def common(r: Tensor) -> Tensor:
            envelope = smooth_cutoff(r, model.cutoff, model.cutoff_power) / model.sqrt_mean_neighbours
            return torch.cat([model.radial_basis(r), envelope.unsqueeze(1)], dim=1)

        self.at = at_knots(common, knots, 1.0).transpose(0, 1)  # (3, knots, n_basis + 1)
        # the remainder of a piece is x³ (1-x)³ f⁽⁶⁾ / 720, largest in the middle if f⁽⁶⁾ varies slowly
        self.between = {x: common(knots[:-1] + x * step).unsqueeze(0) for x in PLACES}

    def pair(self, radial: RadialNetwork, centre: int, neighbour: int) -> _Pair:
        """Of one pair of elements, by index."""
        hidden = radial.hidden_with_derivatives(self.at[..., :-1], centre, neighbour, self.at[..., -1:])
        table = (hidden * self.steps).transpose(0, 1)
        # exactly zero at the cutoff with two derivatives, whatever rounding made of them
        table[-1] = 0.0
        last, error, square = radial.weights[-1], 0.0, 0.0
        for x, common in self.between.items():
            elements = torch.full((1,), centre), torch.full((1, common.shape[1]), neighbour)
            expected = radial.hidden(common[..., :-1], *elements, common[..., -1:])[0]
            # pieces of degree five of a sum are the sum of its terms' pieces
            error = max(error, float(((between_knots(table, x) - expected) @ last).abs().max()))
            square += float((expected @ last).square().mean()) / len(PLACES)
        return _Pair(table, error, square)


def _pieces(knots: _Knots, radial: RadialNetwork, n: int, values: Tensor | None = None) -> _Survey:
    """How the table of a layer of ``n`` elements errs; its values are written to ``values`` if given."""
    error, hardest, scale = 0.0, (0, 0), 1.0
    for a in range(n):
        errors, squares = [], []
        for b in range(n):
            one = knots.pair(radial, a, b)
            errors.append(one.error)
            squares.append(one.square)
            if values is not None:
                values[a * n + b] = one.table @ radial.weights[-1]
        own = (sum(squares) / n) ** 0.5 or 1.0
        worst = max(range(n), key=errors.__getitem__)
        if not errors[worst] / own <= error:
            error, hardest, scale = errors[worst] / own, (a, worst), own
    return _Survey(error, hardest, scale)


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
