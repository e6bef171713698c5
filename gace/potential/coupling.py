"""Clebsch–Gordan products of whole arrays as one matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gace.basis import real_clebsch_gordan
from gace.potential.irreps import Irrep, Irreps
from gace.potential.kernels.terms import SMALLEST, Terms


class Path(NamedTuple):
    """One way of coupling: irreps at positions ``left`` and ``right`` give ``out``."""

    left: int
    right: int
    out: Irrep


class Rows(NamedTuple):
    """How the rows of a product belong to paths, and paths to irreps.

    Rows are ordered by irrep, then component M, then path η.
    """

    path: list[int]
    """Path of each row."""
    target: list[int]
    """Component of the sum over paths to which each row contributes."""
    dim: int
    """Number of components of that sum."""
    fan_in: Tensor
    """Number of paths with the same irrep, one entry per path."""
    degrees: list[int]
    """Degree of each path."""

    @property
    def n_paths(self) -> int:
        """Number of paths over all irreps."""
        return len(self.degrees)

    @classmethod
    def of(cls, irreps: Irreps, counts: list[int]) -> Rows:
        """Rows of one product with ``counts`` paths to each irrep."""
        return cls.joined(irreps, [(irreps, counts)])

    @classmethod
    def joined(cls, irreps: Irreps, parts: list[tuple[Irreps, list[int]]]) -> Rows:
        """Rows of several products one after the other, those irreps only that are in ``irreps``."""
        starts = [part.start for part in irreps.slices()]
        totals = [0] * len(irreps)
        path: list[int] = []
        target: list[int] = []
        owners: list[int] = []
        for part, counts in parts:
            for irrep, count in zip(part, counts, strict=True):
                if irrep not in irreps:
                    continue
                position, first = irreps.index(irrep), len(owners)
                owners += [position] * count
                totals[position] += count
                for component in range(irrep.dim):
                    path += range(first, first + count)
                    target += [starts[position] + component] * count
        fan_in = torch.tensor([totals[position] for position in owners])
        return cls(path, target, irreps.dim, fan_in, [irreps[position].degree for position in owners])

    def sum_matrix(self) -> Tensor:
        """Zeros and ones that sum over the paths to each component ``(dim, n_rows)``."""
        matrix = torch.zeros(self.dim, len(self.target), dtype=torch.float64)
        matrix[self.target, range(len(self.target))] = 1.0
        return matrix


class Coupling(nn.Module):
    """All Clebsch–Gordan products of two arrays that give the wanted irreps.

    Both factors have shape ``(components, N, K)`` and are multiplied channel by channel. The
    products of components that any path needs are formed once and coupled by one matrix
    product, so that the cost per atom does not depend on the number of neighbours. For equal
    factors (``symmetric``) only pairs a ≤ b are formed and paths that vanish or repeat are left out.

    Output: ``(n_out, N, K)``, for each irrep of ``out`` a block ``(2L+1, n_paths)`` of rows,
    component first; see :attr:`rows`. ``scale`` holds one factor per row.
    """

    def __init__(self, left: Irreps, right: Irreps, out: Irreps, *, symmetric: bool = False) -> None:
        super().__init__()
        self.left, self.right, self.symmetric = left, right, symmetric
        self.paths = [
            [
                Path(a, b, target)
                for a, x in enumerate(left)
                for b, y in enumerate(right)
                if target in x.couples_to(y) and not (symmetric and self._redundant(a, b, target))
            ]
            for target in out
        ]
        self.out = Irreps(irrep for irrep, paths in zip(out, self.paths, strict=True) if paths)
        self.paths = [paths for paths in self.paths if paths]
        a, b, matrix = self._of_pairs()
        self.register_buffer("index_left", torch.from_numpy(a), persistent=False)
        self.register_buffer("index_right", torch.from_numpy(b), persistent=False)
        self.register_buffer("matrix", torch.from_numpy(matrix), persistent=False)
        self.register_buffer("scale", torch.ones(len(matrix), 1, dtype=torch.float64))
        self.rows = Rows.of(self.out, [len(paths) for paths in self.paths])

    def _redundant(self, a: int, b: int, target: Irrep) -> bool:
        """Whether a path of equal factors repeats another (a > b) or vanishes (antisymmetric)."""
        return a > b or (a == b and (2 * self.left[a].degree + target.degree) % 2 == 1)

    def _of_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """The pairs of components that are needed, left and right, and the products' coefficients of each."""
        row, i, j, value = np.concatenate(list(self._entries()), axis=1)
        row, i, j = (one.astype(np.int64) for one in (row, i, j))
        if self.symmetric:
            i, j = np.minimum(i, j), np.maximum(i, j)
        pair = i * self.right.dim + j
        known = np.zeros(self.left.dim * self.right.dim, dtype=bool)
        known[pair] = True
        pairs = np.flatnonzero(known)
        matrix = np.zeros((int(row.max()) + 1, len(pairs)))
        np.add.at(matrix, (row, (np.cumsum(known) - 1)[pair]), value)
        # what equal factors add up may vanish
        used = np.abs(matrix).max(axis=0) > SMALLEST
        pairs, matrix = pairs[used], matrix[:, used]
        return pairs // self.right.dim, pairs % self.right.dim, np.ascontiguousarray(matrix)

    def _entries(self) -> Iterator[NDArray[np.float64]]:
        """Row, both components and coefficient ``(4, entries)`` of each path."""
        left, right, first = self.left.slices(), self.right.slices(), 0
        for paths in self.paths:
            for eta, (a, b, target) in enumerate(paths):
                c = real_clebsch_gordan(self.left[a].degree, self.right[b].degree, target.degree)
                M, i, j = np.nonzero(np.abs(c) > SMALLEST)
                yield np.stack(
                    [first + M * len(paths) + eta, i + left[a].start, j + right[b].start, c[M, i, j]]
                )
            first += paths[0].out.dim * len(paths)

    def terms(self) -> Terms:
        """What of the coefficients is not zero, on pairs a ≤ b only if the factors are equal."""
        matrix = self.matrix.numpy()
        row, pair = np.nonzero(np.abs(matrix) > SMALLEST)
        where = np.stack([row, self.index_left.numpy()[pair], self.index_right.numpy()[pair]])
        return Terms(where, matrix[row, pair], (len(matrix), self.left.dim, self.right.dim))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``(left.dim, N, K), (right.dim, N, K) -> (n_out, N, K)``."""
        pairs = x.index_select(0, self.index_left) * y.index_select(0, self.index_right)
        return ((self.scale * self.matrix) @ pairs.flatten(1)).view(-1, *x.shape[1:])


class RawCoupling(nn.Module):
    """Couple an uncontracted outer product ``(l1m1, l2m2)`` that was summed over neighbours.

    The sum over neighbours comes first and the coupling once per atom, so its cost is not paid
    per bond. Output rows as in :class:`Coupling`.
    """

    def __init__(self, left: Irreps, right: Irreps, out: Irreps) -> None:
        super().__init__()
        coupling = Coupling(left, right, out)
        self.left, self.right, self.paths = coupling.left, coupling.right, coupling.paths
        self.out, self.rows = coupling.out, coupling.rows
        self.counts = [len(paths) for paths in coupling.paths]
        """Number of paths to each irrep."""
        index = coupling.index_left * right.dim + coupling.index_right
        matrix = torch.zeros(coupling.matrix.shape[0], left.dim * right.dim, dtype=torch.float64)
        matrix[:, index] = coupling.matrix
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        """``(left.dim * right.dim, N, K) -> (n_out, N, K)``."""
        return (self.matrix @ raw.flatten(1)).view(-1, *raw.shape[1:])
