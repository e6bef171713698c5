"""The nonzero terms of a coupling as lists of integers, sorted as the kernels go through them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_PAIRS = 64
"""Pairs of a chunk, unless more belong together: with 64 channels they take half of a first-level cache."""

SMALLEST = 1e-12
"""Of a coefficient; below it lies what rounding left of zeros."""


class Terms(NamedTuple):
    """The nonzero coefficients of a coupling, in the order of rows, then i, then j."""

    where: NDArray[np.int64]
    """Row, i and j of each ``(3, terms)``."""
    value: NDArray[np.float64]
    """``(terms,)``."""
    shape: tuple[int, int, int]
    """Numbers of rows and of components of both factors."""

    @classmethod
    def of(cls, coefficients: NDArray[np.float64]) -> Terms:
        """Those of an array ``(rows, dim_x, dim_y)``."""
        where = np.stack(np.nonzero(np.abs(coefficients) > SMALLEST))
        rows, dim_x, dim_y = coefficients.shape
        return cls(where, coefficients[tuple(where)], (rows, dim_x, dim_y))

    @classmethod
    def stacked(cls, parts: list[Terms]) -> Terms:
        """Rows of several couplings of the same factors, one below the other."""
        starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        where = np.concatenate([part.where for part in parts], axis=1)
        where[0] += np.repeat(starts[:-1], [len(part.value) for part in parts])
        return cls(
            where,
            np.concatenate([part.value for part in parts]),
            (int(starts[-1]), *parts[0].shape[1:]),
        )

    def first(self, rows: int) -> Terms:
        """The first rows only."""
        own = self.where[0] < rows
        return Terms(self.where[:, own], self.value[own], (rows, *self.shape[1:]))


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
    where: NDArray[np.int64],
    value: NDArray[np.float64],
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    sizes: tuple[int, int, int, int],
    equal: bool,
) -> Lists:
    """Terms for the derivatives by each of the four factors, with their other three indices (GPU).

    Sorted by target (path, i, j), by path (target, i, j), by left factor i (path, target, j) and by right
    factor j (path, target, i; none for equal factors).

    Args:
        where: row, i and j of the terms ``(3, terms)``.
        value: their coefficients.
        rows: path and target of each row.
        sizes: number of targets, paths, components of the left and of the right factor.
        equal: both factors are the same array.
    """
    row, i, j = where
    row_b, i_b, j_b, value_b = row, i, j, value
    if equal:  # the derivative by either factor, in one go: each term both ways
        row_b, value_b = np.tile(row, 2), np.tile(value, 2)
        i_b, j_b = np.concatenate([i, j]), np.concatenate([j, i])
    path, target = rows
    none = slice(0, 0) if equal else slice(None)
    parts = [
        by_index(np.stack([path[row], i, j]), value, target[row], sizes[0]),
        by_index(np.stack([target[row], i, j]), value, path[row], sizes[1]),
        by_index(np.stack([path[row_b], target[row_b], j_b]), value_b, i_b, sizes[2]),
        by_index(np.stack([path[row], target[row], i])[:, none], value[none], j[none], sizes[3]),
    ]
    return [one for index, _ in parts for one in index], [one for _, values in parts for one in values]


def by_chunk(
    where: NDArray[np.int64],
    value: NDArray[np.float64],
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]], int]:
    """Terms as the processor's kernels read them: ``by_row`` and ``by_pair`` of ``coupling.h``.

    Args:
        where: row, i and j of the terms ``(3, terms)``.
        value: their coefficients.
        rows: path and target of each row.

    Returns:
        Both lists, the coefficients in either order, and the most pairs or rows of a chunk.
    """
    row, i, j = where
    pairs, pair = np.unique(np.stack([i, j]), axis=1, return_inverse=True)
    pair = pair.reshape(-1)
    owners = np.stack(rows)
    by_row: list[Any] = []
    by_pair: list[Any] = []
    of_rows: list[NDArray[np.float64]] = []
    of_pairs: list[NDArray[np.float64]] = []
    chunks = _chunks(row, pair, pairs.shape[1])
    widest = 1
    for terms in chunks:
        own_rows, r = np.unique(row[terms], return_inverse=True)
        own_pairs, p = np.unique(pair[terms], return_inverse=True)
        # no two neighbours with the same i or j: each waits for what the one before has added
        i_own, j_own = pairs[:, own_pairs]
        order = np.lexsort((i_own, j_own - i_own))
        for lists, coefficients, (what, inner), (outer, which), sequence in (
            (by_row, of_rows, (pairs[:, own_pairs], p), (owners[:, own_rows], r), np.arange(len(own_rows))),
            (by_pair, of_pairs, (owners[:, own_rows], r), (pairs[:, own_pairs], p), order),
        ):
            groups, found = _grouped(outer, which, inner, value[terms], sequence)
            lists += [[what.shape[1]], what.T.ravel(), groups]
            coefficients.append(found)
        widest = max(widest, len(own_rows), len(own_pairs))
    count = [np.array([len(chunks)])]
    index = [np.concatenate([*count, *lists]).astype(np.int64) for lists in (by_row, by_pair)]
    none = np.zeros(0)
    return index, [np.concatenate([none, *of_rows]), np.concatenate([none, *of_pairs])], widest


def _chunks(row: NDArray[np.int64], pair: NDArray[np.int64], n_pairs: int) -> list[NDArray[np.int64]]:
    """Which terms belong together, because of a row or a pair, some such sets at a time: arrays of terms."""
    if len(row) == 0:
        return []
    label = np.arange(n_pairs)
    while True:  # each takes the lowest label it is tied to, until nothing changes
        of_rows = np.full(row.max() + 1, n_pairs)
        np.minimum.at(of_rows, row, label[pair])
        lower = label.copy()
        np.minimum.at(lower, pair, of_rows[row])
        if (lower == label).all():
            break
        label = lower
    found, sizes = np.unique(label, return_counts=True)
    chunk, filled = {}, 0
    number = 0
    for one, size in zip(found.tolist(), sizes.tolist(), strict=True):
        if filled and filled + size > MOST_PAIRS:
            number, filled = number + 1, 0
        chunk[one], filled = number, filled + size
    of_terms = np.array([chunk[one] for one in label[pair].tolist()])
    return [np.flatnonzero(of_terms == one) for one in range(number + 1)]


def _grouped(
    outer: NDArray[np.int64],
    which: NDArray[np.int64],
    inner: NDArray[np.int64],
    value: NDArray[np.float64],
    sequence: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sums with equally many terms one after the other: how many groups, and what each consists of.

    Args:
        outer: the two numbers of each sum ``(2, sums)``.
        which: the sum each term belongs to.
        inner: what it multiplies.
        value: its coefficient.
        sequence: the sums in the order wanted among those with equally many terms.
    """
    count = np.bincount(which, minlength=outer.shape[1])
    groups = np.unique(count)
    order = np.lexsort((inner, which))
    first = np.cumsum(count) - count
    index: list[int] = [len(groups)]
    values: list[NDArray[np.float64]] = []
    for terms in groups.tolist():
        members = sequence[count[sequence] == terms]
        index += [terms, len(members)]
        for one in members.tolist():
            own = order[first[one] : first[one] + terms]
            index += [*outer[:, one].tolist(), *inner[own].tolist()]
            values.append(value[own])
    return np.array(index), np.concatenate(values)
