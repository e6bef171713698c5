"""Near-copies: found without looking at all pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

AXES = 8
"""Leading axes on which a search tree finds the few pairs worth a full comparison."""


def deduplicate(
    candidates: Array,
    known: Array,
    tolerance: float,
    same: Callable[[int, int], bool] | None = None,
) -> NDArray[np.int64]:
    """For each candidate the entry it repeats, or -1 if it is the first of its kind.

    Entries are the ``known`` ones (0 … m - 1) followed by the candidates (m … m + n - 1); a candidate
    can only repeat a known entry or an earlier candidate that is itself kept. The time grows with the
    number of close pairs, not of all pairs, and memory is linear.

    Args:
        candidates: features ``(n, D)``, earlier rows are preferred.
        known: features of what is labelled already ``(m, D)``.
        tolerance: largest Euclidean distance of two entries that may be copies.
        same: the last word on a close pair of entries (for crystals a structure matcher); None: all
            close pairs are copies.
    """
    n_known = len(known)
    everything = np.concatenate([known, candidates]) if n_known else candidates
    repeats = np.full(len(candidates), -1, dtype=np.int64)
    if len(candidates) == 0:
        return repeats
    # distances on any orthonormal axes are at most the full ones, so the tree misses no pair
    axes = leading_axes(everything)
    leading = (everything - everything.mean(0)) @ axes
    tree = cKDTree(leading)
    for entry in range(len(everything)):
        if entry >= n_known and repeats[entry - n_known] >= 0:
            continue
        close = np.array(tree.query_ball_point(leading[entry], tolerance * (1 + 1e-9)), dtype=np.int64)
        close = np.sort(close[(close > entry) & (close >= n_known)])
        close = close[repeats[close - n_known] < 0]
        distance = np.sqrt(np.square(everything[close] - everything[entry]).sum(1))
        for other in close[distance <= tolerance]:
            if same is None or same(entry, int(other)):
                repeats[other - n_known] = entry
    return repeats


def leading_axes(points: Array) -> Array:
    """Orthonormal directions of largest variance ``(D, <= AXES)`` of ``points`` ``(n, D)``."""
    centred = points - points.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return vectors[:, ::-1][:, :AXES]
