"""Batches that are diverse and representative: LCMD [Holzmüller et al., JMLR 24 (2023)] and FPS.

Both add candidates one by one to a set of centres. Farthest-point sampling takes the candidate
farthest from all centres and so collects outliers first. Largest-cluster maximum-distance assigns
every candidate to its nearest centre, looks into the cluster with the largest sum of squared
distances, and takes the farthest candidate *of that cluster*: crowded regions count as well.

Memory is linear in the number of candidates: only distances to the nearest centre are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHUNK = 1 << 22  # entries of a distance block, 32 MB


class Picks(NamedTuple):
    """Chosen candidates in the order of choice, and what spoke for each; ``k`` picks."""

    row: NDArray[np.int64]
    """Rows of the candidates ``(k,)``."""

    distance: Array
    """Distance to the nearest centre at the moment of choice ``(k,)``; NaN if there was no centre."""

    cluster_size: NDArray[np.int64]
    """Candidates in the pick's cluster at that moment, itself included ``(k,)``."""


def largest_cluster_maximum_distance(candidates: Array, centres: Array, count: int) -> Picks:
    """LCMD-TP: the training set's points are the first centres.

    Args:
        candidates: features ``(n, D)``; ties go to the lower row.
        centres: features of what is labelled already ``(m, D)``, m may be 0.
        count: how many to pick; fewer come back if the candidates run out.
    """
    squared, owner = nearest_centre(candidates, centres)
    state = _State(candidates, squared, owner, len(centres))
    for _ in range(min(count, len(candidates))):
        if state.has_no_centre:
            state.pick_most_central()
            continue
        cost = np.bincount(state.owner[state.free], weights=state.squared[state.free])
        cluster = int(np.argmax(cost))
        inside = np.flatnonzero(state.free & (state.owner == cluster))
        if len(inside) == 0:  # every remaining candidate coincides with a centre: any cluster will do
            inside = np.flatnonzero(state.free)
        state.pick(int(inside[np.argmax(state.squared[inside])]), len(inside))
    return state.picks()


def farthest_points(candidates: Array, centres: Array, count: int) -> Picks:
    """Farthest-point sampling; arguments as :func:`largest_cluster_maximum_distance`."""
    squared, owner = nearest_centre(candidates, centres)
    state = _State(candidates, squared, owner, len(centres))
    for _ in range(min(count, len(candidates))):
        if state.has_no_centre:
            state.pick_most_central()
            continue
        farthest = int(np.argmax(np.where(state.free, state.squared, -1.0)))
        state.pick(farthest, int((state.free & (state.owner == state.owner[farthest])).sum()))
    return state.picks()


def nearest_centre(candidates: Array, centres: Array) -> tuple[Array, NDArray[np.int64]]:
    """Squared distance to, and row of, the nearest centre: ``(n, D), (m, D) -> (n,), (n,)``.

    Without centres: infinite distances and row 0.
    """
    n, m = len(candidates), len(centres)
    squared, owner = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    if m == 0:
        return squared, owner
    size = np.square(centres).sum(1)
    step = max(1, CHUNK // m)
    for first in range(0, n, step):
        block = candidates[first : first + step]
        owner[first : first + step] = np.argmin(size - 2 * (block @ centres.T), axis=1)
    # the short form above cancels; the distance itself is taken from differences
    for first in range(0, n, step):
        rows = slice(first, first + step)
        squared[rows] = np.square(candidates[rows] - centres[owner[rows]]).sum(1)
    return squared, owner


class _State:
    """Candidates that are still free, and the nearest centre of each."""

    def __init__(self, candidates: Array, squared: Array, owner: NDArray[np.int64], n_centres: int) -> None:
        self.candidates = candidates
        self.squared = squared
        self.owner = owner
        self.n_centres = n_centres
        self.free = np.ones(len(candidates), dtype=bool)
        self._picks: list[tuple[int, float, int]] = []

    @property
    def has_no_centre(self) -> bool:
        return self.n_centres == 0

    def pick(self, row: int, cluster_size: int) -> None:
        """Take a candidate and make it a centre."""
        distance = float(np.sqrt(self.squared[row])) if self.n_centres else float("nan")
        self._picks.append((row, distance, cluster_size))
        self.free[row] = False
        fresh = np.square(self.candidates - self.candidates[row]).sum(1)
        closer = fresh < self.squared
        self.owner[closer] = self.n_centres
        self.squared = np.where(closer, fresh, self.squared)
        self.n_centres += 1

    def pick_most_central(self) -> None:
        """With nothing to be far from, the candidate closest to the mean of all comes first."""
        offset = np.square(self.candidates - self.candidates.mean(0)).sum(1)
        self.pick(int(np.argmin(offset)), len(self.candidates))

    def picks(self) -> Picks:
        """The result."""
        row, distance, size = zip(*self._picks, strict=True) if self._picks else ((), (), ())
        return Picks(np.array(row, dtype=np.int64), np.array(distance), np.array(size, dtype=np.int64))
