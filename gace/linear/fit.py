"""Fitting a linear ACE: choose the prior on some structures, solve on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gace.errors import InputError
from gace.linear.config import LeastSquares
from gace.linear.design import design
from gace.linear.model import LinearACE
from gace.linear.prior import Prior, Shape, shape_of
from gace.linear.solve import Crossed, Parts, Rows, Solution, kernel, solve_dual
from gace.training.batches import Batch, Packed

if TYPE_CHECKING:
    from gace.linear.anchors import Anchors

Array = NDArray[np.float64]

SMOOTHNESS = (0.0, 1.0, 2.0, 3.0, 4.0)
ORDER_DECAY = (0.1, 0.3, 1.0)
NUMBERS_AT_ONCE = 2e7
"""Derivatives of a batch held in memory, in numbers."""
LARGEST_DUAL = 4000
"""Rows up to which the n × n form is used where it is the smaller one."""
LARGEST_CHOICE = 5000
"""Coefficients up to which the prior is chosen on all structures."""
WORTH = 0.01
"""A smaller ridge is taken where the mean square error left out falls faster than this power of it."""
PARTS = 5
"""Parts in which the structures are left out."""
NUMBERS_OF_NORMALS = 5e8
"""What the normal equations of all parts may hold, in numbers."""
NUMBERS_OF_JUDGES = 1.5e8
"""What the rows by which left-out fits are judged may hold, in numbers."""

Scored = TypeVar("Scored", Solution, Crossed)


class Fit(NamedTuple):
    """How the coefficients came about."""

    ridge: float
    """(eV/Å)²."""
    smoothness: float
    order_decay: float
    n_rows: int
    n_coefficients: int
    left_out: float
    """Typical weighted residual of structures left out, eV/Å, one by one or a part at a time: the geometric
    mean over structures of their root mean squares."""
    form: str
    """``dual`` (as many equations as rows) or ``primal`` (as coefficients)."""
    n_anchors: int
    """Structures beyond the data; they do not count among the rows."""


def fit(
    model: LinearACE,
    data: Packed,
    settings: LeastSquares,
    note: Callable[[str], None] = lambda text: None,
    anchors: Anchors | None = None,
) -> Fit:
    """Set the coefficients of ``model`` to the regularised least-squares solution.

    Args:
        model: in float64, its ``shift`` set.
        data: in float64 on the CPU.
        settings: weights and prior.
        note: told what is being done.
        anchors: structures beyond the data, see :func:`gace.linear.anchors.anchors_of`; they have no part
            in the choice of the prior.

    Raises:
        InputError: no label has a weight, or a ridge too small for the arithmetic.
    """
    rows = rows_by_structure(data, settings)
    n_rows = int(rows.sum())
    if n_rows == 0:
        raise InputError("no label has a weight in training.least_squares")
    n_coefficients = model.coefficients.numel()
    model.standardise(batch.graph for _, batch in data.in_order(512))
    problem = _Problem(model, data, settings, note, n_rows, anchors, rows.nonzero().flatten())
    note(f"{n_coefficients} coefficients, {n_rows} rows")
    if n_rows <= settings.search_rows or n_rows <= min(n_coefficients, LARGEST_DUAL):
        form, found = "dual", problem.by_rows()
    else:
        form, found = "primal", problem.by_coefficients()
    with torch.no_grad():
        model.coefficients.copy_(torch.from_numpy(found.coefficients).view_as(model.coefficients))
    return Fit(
        found.ridge,
        *found.prior,
        n_rows,
        n_coefficients,
        found.score**0.5,
        form,
        0 if anchors is None else len(anchors.data),
    )


class _Found(NamedTuple):
    """A solution and the settings that were chosen for it."""

    prior: Prior
    ridge: float
    score: float
    coefficients: Array


class _Problem(NamedTuple):
    """What is to be fitted."""

    model: LinearACE
    data: Packed
    settings: LeastSquares
    note: Callable[[str], None]
    n_rows: int
    anchors: Anchors | None
    labelled: torch.Tensor
    """Indices of the structures that have rows; the others have no label with a weight."""

    def by_rows(self) -> _Found:
        """The ``n × n`` form: prior and ridge of least leave-one-structure-out error."""
        prior, ridge, solution, shape, everything = self.on_a_sample()
        widths = shape.widths(prior)
        if self.n_rows > self.settings.search_rows:
            everything = joined(list(self.rows(self.labelled)))
            covariance = kernel(everything, widths)
            ridge, solution = refine(
                lambda x: solve_dual(everything, widths, x, covariance), ridge, self.settings.ridge == "auto"
            )
        coefficients = solution.coefficients
        if self.anchors is not None:
            anchored = joined([everything, self.anchors.rows(self.model, solution.score**0.5)])
            coefficients = solve_dual(anchored, widths, ridge).coefficients
        return _Found(prior, ridge, solution.score, coefficients)

    def by_coefficients(self) -> _Found:
        """The ``C × C`` form: prior and ridge of least error on parts of the structures left out."""
        size = self.model.coefficients.numel()
        judged_every = math.ceil(size * self.n_rows / NUMBERS_OF_JUDGES)
        parts = Parts(n_parts(size, len(self.labelled)), size, judged_every)
        for rows in self.rows(self.labelled):
            parts.add(rows)
            self.note(f"normal equations: {int(rows.block[-1]) + 1} of {len(self.data)} structures")
        whole = parts.whole()
        free = self.settings.ridge == "auto"

        if size > LARGEST_CHOICE:
            # each trial would take minutes: the prior's form from a sample
            prior, ridge, _, shape, _ = self.on_a_sample()
            widths = shape.widths(prior)
            ridge, crossed = refine(lambda x: parts.crossed(widths, x), ridge, free)
        else:
            mean_square = np.diag(whole.matrix) / parts.n_rows
            shape = shape_of(self.model, mean_square)
            shares: dict[float, float] = {}

            def at(prior: Prior) -> tuple[float, Crossed]:
                self.note(f"smoothness {prior.smoothness:g}, order decay {prior.order_decay:g}")
                widths = shape.widths(prior)
                power = float(np.sum(mean_square * widths**2)) or 1.0  # zero if all environments are alike
                # begin where a prior of this smoothness ended, or the one before
                share = shares.get(prior.smoothness, [1e-6, *shares.values()][-1])
                start = power * share if free else float(self.settings.ridge)
                found = refine(lambda x: parts.crossed(widths, x), start, free)
                shares[prior.smoothness] = found[0] / power
                return found

            prior, ridge, crossed = choose(at, self.settings)
        if self.anchors is not None:
            whole.add(*self.anchors.rows(self.model, crossed.score**0.5)[:2])
        return _Found(prior, ridge, crossed.score, whole.solve(shape.widths(prior), ridge))

    def on_a_sample(self) -> tuple[Prior, float, Solution, Shape, Rows]:
        """Prior and ridge of least leave-one-structure-out error on up to ``search_rows`` rows, and those."""
        # the order of the data is that of their hashes: evenly spaced is at random
        per_structure = max(1.0, self.n_rows / len(self.labelled))
        few = self.n_rows <= self.settings.search_rows  # a quotient rounded down must leave none out
        whole = len(self.labelled)
        count = whole if few else min(whole, max(2, int(self.settings.search_rows / per_structure)))
        chosen = self.labelled[torch.linspace(0, whole - 1, count).round().long().unique()]
        self.note(f"choosing the prior on {len(chosen)} structures")
        sample = joined(list(self.rows(chosen)))
        shape = shape_of(self.model, np.square(sample.matrix).mean(0))
        free = self.settings.ridge == "auto"

        def at(prior: Prior) -> tuple[float, Solution]:
            widths = shape.widths(prior)
            covariance = kernel(sample, widths)
            power = float(np.mean(np.diag(covariance))) or 1.0
            start = 1e-6 * power if free else float(self.settings.ridge)
            return refine(lambda x: solve_dual(sample, widths, x, covariance), start, free)

        return *choose(at, self.settings), shape, sample

    def rows(self, structures: torch.Tensor) -> Iterator[Rows]:
        """Weighted rows of these structures, a bounded number at a time."""
        return rows_of(self.model, self.data, self.settings, structures)


def n_parts(n_coefficients: int, n_structures: int) -> int:
    """In how many parts the structures are left out: five, less where memory or structures are short."""
    return max(2, min(PARTS, n_structures, int(NUMBERS_OF_NORMALS / n_coefficients**2)))


def choose(
    at: Callable[[Prior], tuple[float, Scored]], settings: LeastSquares
) -> tuple[Prior, float, Scored]:
    """The prior and ridge of least error on structures left out; given settings are kept.

    Smoothness is chosen first, at the middle decay of orders, then the decay.

    Args:
        at: the best ridge of a prior, and what it leaves.
        settings: the prior's two numbers, or ``auto``.
    """
    decays = ORDER_DECAY if settings.order_decay == "auto" else (float(settings.order_decay),)
    powers = SMOOTHNESS if settings.smoothness == "auto" else (float(settings.smoothness),)
    middle = decays[len(decays) // 2]

    def trial(prior: Prior) -> tuple[Prior, float, Scored]:
        ridge, found = at(prior)
        return prior, ridge, found

    tried = [trial(Prior(power, middle)) for power in powers]
    smoothness = min(tried, key=lambda one: one[2].score)[0].smoothness
    tried += [trial(Prior(smoothness, decay)) for decay in decays if decay != middle]
    return min(tried, key=lambda one: one[2].score)


def refine(solve: Callable[[float], Scored], start: float, free: bool) -> tuple[float, Scored]:
    """Walk downhill in steps of a factor 4, then 2, from ``start``; stay there unless ``free``.

    A smaller ridge has to earn it (:data:`WORTH`): of two that err alike the larger one has the smaller
    coefficients, and so the tamer potential away from the data.
    """
    if not free:
        return start, solve(start)
    ridge, best = regular(solve, start)
    for step in (4.0, 2.0):
        for factor in (1 / step, step):
            moved = False
            while 1e-14 * start < ridge * factor < 1e14 * start:
                try:
                    other = solve(ridge * factor)
                except InputError:  # singular: no further this way
                    break
                if other.score >= factor**WORTH * best.score:
                    break
                ridge, best, moved = ridge * factor, other, True
            if moved:
                break
    return ridge, best


def regular(solve: Callable[[float], Scored], start: float) -> tuple[float, Scored]:
    """``start``, or the first larger ridge that the arithmetic can do with."""
    ridge = start
    while True:
        try:
            return ridge, solve(ridge)
        except InputError:
            ridge *= 64.0
            if not ridge < 1e14 * start:
                raise


def rows_by_structure(data: Packed, settings: LeastSquares) -> torch.Tensor:
    """Number of labels that have a weight, of each structure ``(n,)``."""
    total = torch.zeros(len(data), dtype=torch.long)
    for chosen, batch in data.in_order(4096):
        for weight, label, owner in (
            (settings.energy_weight, batch.energy[:, None], chosen),
            (settings.forces_weight, batch.forces, chosen[batch.graph.structure]),
            (settings.stress_weight, batch.virial[:, *torch.triu_indices(3, 3)], chosen),
        ):
            if weight > 0:
                total.index_add_(0, owner, (~torch.isnan(label)).sum(1))
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
    # squares are summed: a structure of weight 2 counts like two
    own = batch.weight.sqrt()
    if settings.energy_weight > 0:
        factor = settings.energy_weight * own[:, 0] / root
        target = (batch.energy - found.fixed_energy) * factor
        pieces.append((found.energy * factor[:, None], target, structures))
    if found.forces is not None:
        factor = settings.forces_weight * own[batch.graph.structure, 1].repeat_interleave(3)
        matrix = factor[:, None] * found.forces.flatten(0, 1)
        target = factor * (batch.forces - found.fixed_forces).flatten()
        pieces.append((matrix, target, owner.repeat_interleave(3)))
    if found.virial is not None:
        a, b = torch.triu_indices(3, 3)
        factor = settings.stress_weight * own[:, 2] / root
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
