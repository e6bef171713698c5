"""The nonzero terms of a coupling as lists of integers, sorted as the kernels go through them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Lists = tuple[list[NDArray[np.int64]], list[NDArray[np.float64]]]
"""Integers one after the other, and the coefficients in the same order."""


def by_index(
    where: NDArray[np.int64], value: NDArray[np.float64], key: NDArray[np.int64], length: int
) -> Lists:
    """Terms sorted by ``key``: where those of each key start ``(length + 1,)``, then their other indices.

    Args:
        where: the other indices ``(indices, terms)``.
        value: coefficients ``(terms,)``.
        key: what they are sorted by ``(terms,)``, from 0 to ``length - 1``.
        length: number of keys.
    """
    order = np.lexsort((*where[::-1], key))
    start = np.searchsorted(key[order], np.arange(length + 1))
    return [start, where[:, order].T.ravel()], [value[order]]


def by_role(
    forward: tuple[NDArray[np.int64], NDArray[np.float64]],
    both: tuple[NDArray[np.int64], NDArray[np.float64]],
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    sizes: tuple[int, int, int, int],
    equal: bool,
) -> Lists:
    """Terms for the derivatives by each of the four factors, with their other three indices.

    Sorted by target (path, i, j), by path (target, i, j), by left factor i (path, target, j) and by right
    factor j (path, target, i; none for equal factors).

    Args:
        forward: row, i and j of the terms ``(3, terms)``, and coefficients.
        both: likewise for the derivative by the left factor; for equal factors each term both ways.
        rows: path and target of each row.
        sizes: number of targets, paths, components of the left and of the right factor.
        equal: both factors are the same array.
    """
    (row, i, j), value = forward
    (row_b, i_b, j_b), value_b = both
    path, target = rows
    none = slice(0, 0) if equal else slice(None)
    parts = [
        by_index(np.stack([path[row], i, j]), value, target[row], sizes[0]),
        by_index(np.stack([target[row], i, j]), value, path[row], sizes[1]),
        by_index(np.stack([path[row_b], target[row_b], j_b]), value_b, i_b, sizes[2]),
        by_index(np.stack([path[row], target[row], i])[:, none], value[none], j[none], sizes[3]),
    ]
    return [one for index, _ in parts for one in index], [one for _, values in parts for one in values]
