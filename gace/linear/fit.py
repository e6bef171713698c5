"""Fitting a linear ACE: choose the prior on some structures, solve on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gace.errors import InputError
from gace.linear.config import LeastSquares
from gace.linear.design import design
from gace.linear.model import LinearACE
from gace.linear.prior import Prior, Shape, shape_of
from gace.linear.solve import Normal, Rows, Solution, kernel, solve_dual, solve_primal
from gace.training.batches import Batch, Packed

Array = NDArray[np.float64]

SMOOTHNESS = (0.0, 1.0, 2.0, 3.0, 4.0)
ORDER_DECAY = (0.1, 0.3, 1.0)
NUMBERS_AT_ONCE = 2e7
"""Derivatives of a batch held in memory, in numbers."""
LARGEST_DUAL = 4000
"""Rows up to which the n × n form is used where it is the smaller one."""


class Fit(NamedTuple):
    """How the coefficients came about."""

    ridge: float
    """(eV/Å)²."""
    smoothness: float
    order_decay: float
    n_rows: int
    n_coefficients: int
    leave_one_out: float
    """Root mean square weighted residual of structures left out, eV/Å."""
    form: str
    """``dual`` (as many equations as rows) or ``primal`` (as coefficients)."""


def fit(
    model: LinearACE, data: Packed, settings: LeastSquares, note: Callable[[str], None] = lambda text: None
) -> Fit:
    """Set the coefficients of ``model`` to the regularised least-squares solution.

    Args:
        model: in float64, its ``shift`` set.
        data: in float64 on the CPU.
        settings: weights and prior.
        note: told what is being done.

    Raises:
        InputError: no label has a weight, or a ridge too small for the arithmetic.
    """
    n_rows = count_rows(data, settings)
    if n_rows == 0:
        raise InputError("no label has a weight in training.least_squares")
    n_coefficients = model.coefficients.numel()
    model.standardise(batch.graph for _, batch in data.in_order(512))
    # the order of the data is that of their hashes: evenly spaced is at random
    per_structure = max(1.0, n_rows / len(data))
    count = min(len(data), max(2, int(settings.search_rows / per_structure)))
    chosen = torch.linspace(0, len(data) - 1, count).round().long().unique()
    sample = joined(list(rows_of(model, data, settings, chosen)))
    note(f"{n_coefficients} coefficients, {n_rows} rows; choosing the prior on {len(chosen)} structures")
    shape = shape_of(model, sample.matrix)
    prior, ridge, solution = choose(sample, shape, settings)
    form = "dual"
    if len(chosen) < len(data):
        widths = shape.widths(prior)
        if n_rows <= min(n_coefficients, LARGEST_DUAL):
            everything = joined(list(rows_of(model, data, settings, torch.arange(len(data)))))
            covariance = kernel(everything, widths)
            ridge, solution = refine(
                lambda x: solve_dual(everything, widths, x, covariance), ridge, settings.ridge == "auto"
            )
        else:
            form = "primal"
            normal = Normal.empty(n_coefficients)
            done = 0
            for part in rows_of(model, data, settings, torch.arange(len(data))):
                normal.add(part.matrix, part.target)
                done = int(part.block[-1]) + 1
                note(f"normal equations: {done} of {len(data)} structures")
            ridge, solution = refine(
                lambda x: solve_primal(normal, sample, widths, x), ridge, settings.ridge == "auto"
            )
    with torch.no_grad():
        model.coefficients.copy_(torch.from_numpy(solution.coefficients).view_as(model.coefficients))
    return Fit(ridge, *prior, n_rows, n_coefficients, solution.score**0.5, form)


def choose(sample: Rows, shape: Shape, settings: LeastSquares) -> tuple[Prior, float, Solution]:
    """The prior and ridge of least leave-one-structure-out error; given settings are kept.

    Smoothness is chosen first, at the middle decay of orders, then the decay.
    """
    decays = ORDER_DECAY if settings.order_decay == "auto" else (float(settings.order_decay),)
    powers = SMOOTHNESS if settings.smoothness == "auto" else (float(settings.smoothness),)
    middle = decays[len(decays) // 2]

    def at(prior: Prior) -> tuple[Prior, float, Solution]:
        widths = shape.widths(prior)
        covariance = kernel(sample, widths)
        start = float(np.mean(np.diag(covariance))) * 1e-6
        start = start if settings.ridge == "auto" else float(settings.ridge)
        ridge, solution = refine(
            lambda x: solve_dual(sample, widths, x, covariance), start, settings.ridge == "auto"
        )
        return prior, ridge, solution

    best = min((at(Prior(power, middle)) for power in powers), key=lambda one: one[2].score)
    others = [at(Prior(best[0].smoothness, decay)) for decay in decays if decay != middle]
    return min([best, *others], key=lambda one: one[2].score)


def refine(solve: Callable[[float], Solution], start: float, free: bool) -> tuple[float, Solution]:
    """Walk downhill in steps of a factor 4, then 2, from ``start``; stay there unless ``free``."""
    ridge, best = start, solve(start)
    if not free:
        return ridge, best
    for step in (4.0, 2.0):
        for direction in (1 / step, step):
            moved = False
            while 1e-14 * start < ridge * direction < 1e14 * start:
                try:
                    other = solve(ridge * direction)
                except InputError:  # singular: no further this way
                    break
                if other.score >= best.score:
                    break
                ridge, best, moved = ridge * direction, other, True
            if moved:
                break
    return ridge, best


def count_rows(data: Packed, settings: LeastSquares) -> int:
    """Number of labels that have a weight."""
    total = 0
    for _, batch in data.in_order(4096):
        for weight, label in (
            (settings.energy_weight, batch.energy),
            (settings.forces_weight, batch.forces),
            (settings.stress_weight, batch.virial[:, *torch.triu_indices(3, 3)]),
        ):
            total += int((~torch.isnan(label)).sum()) if weight > 0 else 0
    return total


def rows_of(
    model: LinearACE, data: Packed, settings: LeastSquares, structures: torch.Tensor
) -> Iterator[Rows]:
    """Weighted rows of these structures, a bounded number at a time."""
    for chosen in bounded(model, data, structures):
        yield weighted_rows(model, data.batch(chosen), settings, chosen)


def bounded(model: LinearACE, data: Packed, structures: torch.Tensor) -> Iterator[torch.Tensor]:
    """Consecutive structures whose derivatives fit into memory together."""
    sizes, slots = data.sizes[structures].tolist(), data.slots[structures].tolist()
    part: list[int] = []
    atoms, widest = 0, 1
    for position, (size, width) in enumerate(zip(sizes, slots, strict=True)):
        wider = max(widest, width)
        if part and (atoms + size) * wider * 3 * len(model.invariants) > NUMBERS_AT_ONCE:
            yield structures[part]
            part, atoms, wider = [], 0, width
        part.append(position)
        atoms, widest = atoms + size, wider
    if part:
        yield structures[part]


@torch.no_grad()
def weighted_rows(model: LinearACE, batch: Batch, settings: LeastSquares, structures: torch.Tensor) -> Rows:
    """The rows of one batch: for each structure its energy, forces and six virials, where labelled."""
    stress = settings.stress_weight > 0 and bool((~torch.isnan(batch.virial)).any())
    forces = settings.forces_weight > 0
    found = design(model, batch.graph, forces=forces, virial=stress)
    root = batch.n_atoms.sqrt()
    owner = structures[batch.graph.structure]
    pieces = []
    if settings.energy_weight > 0:
        factor = settings.energy_weight / root
        target = (batch.energy - found.fixed_energy) * factor
        pieces.append((found.energy * factor[:, None], target, structures))
    if found.forces is not None:
        matrix = settings.forces_weight * found.forces.flatten(0, 1)
        target = settings.forces_weight * (batch.forces - found.fixed_forces).flatten()
        pieces.append((matrix, target, owner.repeat_interleave(3)))
    if found.virial is not None:
        a, b = torch.triu_indices(3, 3)
        factor = settings.stress_weight / root
        matrix = (found.virial[:, a, b] * factor[:, None, None]).flatten(0, 1)
        target = ((batch.virial - found.fixed_virial)[:, a, b] * factor[:, None]).flatten()
        pieces.append((matrix, target, structures.repeat_interleave(6)))
    matrix, target, block = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    known = ~torch.isnan(target)
    place = {int(one): position for position, one in enumerate(structures)}
    rank = torch.tensor([place[int(one)] for one in block])
    order = torch.argsort(rank[known], stable=True)
    return Rows(matrix[known][order].numpy(), target[known][order].numpy(), block[known][order].numpy())


def joined(parts: list[Rows]) -> Rows:
    """Several sets of rows as one."""
    return Rows(*(np.concatenate(one) for one in zip(*parts, strict=True)))
