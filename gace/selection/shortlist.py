"""Draws that depend on content alone: the random reserve, and the shortlist by uncertainty.

Every candidate carries its own uniform number, made of the seed and its structure's hash. So the
order of the pool, the number of workers and whatever else happens to be in the pool cannot change
a candidate's luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from gace.randomness import derive_seed

Array = NDArray[np.float64]

FLOOR_WEIGHT = 0.1
"""Weight of the least uncertain candidate; the most uncertain one has 1."""


def content_uniform(seed: int, purpose: str, hashes: Sequence[str]) -> Array:
    """A number in (0, 1) for each candidate from the seed, the purpose and its hash, ``(n,)``."""
    draws = np.array([derive_seed(seed, purpose, one) for one in hashes], dtype=float)
    return (draws + 0.5) / 2.0**63


def content_order(seed: int, purpose: str, hashes: Sequence[str]) -> NDArray[np.int64]:
    """A random order of the candidates, ``(n,)`` rows; equal hashes stay in the order given."""
    return np.argsort(content_uniform(seed, purpose, hashes), kind="stable")


def random_reserve(hashes: Sequence[str], count: int, seed: int) -> NDArray[np.int64]:
    """Rows of ``count`` candidates drawn uniformly (fewer if there are not so many)."""
    return content_order(seed, "reserve", hashes)[:count]


def shortlist(
    hashes: Sequence[str],
    uncertainty: ArrayLike | None,
    trajectory: Sequence[str] | None,
    size: int,
    seed: int,
) -> NDArray[np.int64]:
    """Rows of at most ``size`` candidates, the uncertain ones more likely, ascending.

    Never the top of a ranking: that gives batches of near-copies from one runaway trajectory, and loses
    to drawing at random. Instead candidates are drawn without replacement with a weight that rises
    linearly with the *quantile* of their uncertainty, and no trajectory gets more than twice its even
    share as long as others have candidates to offer.

    Args:
        hashes: of the candidates' structures, ``(n,)``.
        uncertainty: any measure that grows with it, ``(n,)``; NaN counts as the median. None: all equal.
        trajectory: where each candidate comes from, ``(n,)``; None: all from one.
        size: of the shortlist.
        seed: of the draw.
    """
    n = len(hashes)
    if n <= size:
        return np.arange(n)
    weight = np.ones(n)
    if uncertainty is not None:
        weight = FLOOR_WEIGHT + (1 - FLOOR_WEIGHT) * _quantile(np.asarray(uncertainty, dtype=float))
    # Efraimidis and Spirakis (2006): the largest u^(1/w) are a weighted draw without replacement
    key = np.log(content_uniform(seed, "shortlist", hashes)) / weight
    order = np.argsort(-key, kind="stable")
    names = (
        np.unique(list(trajectory), return_inverse=True)[1] if trajectory is not None else np.zeros(n, int)
    )
    share = max(1, -(-2 * size // (int(names.max()) + 1)))
    place = _place_within(names[order])
    within, beyond = order[place < share], order[place >= share]
    return np.sort(np.concatenate([within, beyond])[:size])


def _quantile(values: Array) -> Array:
    """Rank of each value in 0 … 1; infinities rank highest, NaN in the middle."""
    if len(values) < 2:
        return np.ones(len(values))
    finite = ~np.isnan(values)
    filled = np.where(finite, values, np.median(values[finite]) if finite.any() else 0.0)
    return (rankdata(filled) - 1) / (len(values) - 1)


def _place_within(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many earlier rows have the same group, ``(n,)``."""
    by_group = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(group), dtype=np.int64)
    place[by_group] = np.arange(len(group)) - first
    return place
