"""Clebsch–Gordan products of whole arrays as one matrix product."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gace.basis import real_clebsch_gordan
from gace.potential.irreps import Irrep, Irreps


class Path(NamedTuple):
    """One way of coupling: irreps at positions ``left`` and ``right`` give ``out``."""

    left: int
    right: int
    out: Irrep


class Coupling(nn.Module):
    """All Clebsch–Gordan products of two arrays that give the wanted irreps.

    Both factors have shape ``(components, N, K)`` and are multiplied channel by channel. The
    products of components that any path needs are formed once and coupled by one matrix
    product, so that the cost per atom does not depend on the number of neighbours. For equal
    factors (``symmetric``) only pairs a ≤ b are formed and paths that vanish or repeat are left out.

    Output: ``(n_out, N, K)``, for each irrep of ``out`` a block ``(2L+1, n_paths)`` of rows,
    component first; see :meth:`blocks`.
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
        matrix = self._dense_matrix()  # (n_out, left.dim, right.dim)
        if symmetric:
            upper = np.triu(matrix + matrix.transpose(0, 2, 1), 1)
            matrix = upper + matrix * np.eye(left.dim)
        used = np.abs(matrix).max(axis=0) > 1e-12
        a, b = np.nonzero(used)
        self.register_buffer("index_left", torch.from_numpy(a), persistent=False)
        self.register_buffer("index_right", torch.from_numpy(b), persistent=False)
        self.register_buffer("matrix", torch.from_numpy(matrix[:, a, b].copy()), persistent=False)

    def _redundant(self, a: int, b: int, target: Irrep) -> bool:
        """Whether a path of equal factors repeats another (a > b) or vanishes (antisymmetric)."""
        return a > b or (a == b and (2 * self.left[a].degree + target.degree) % 2 == 1)

    def _dense_matrix(self) -> np.ndarray:
        rows = []
        left, right = self.left.slices(), self.right.slices()
        for paths in self.paths:
            block = np.zeros((paths[0].out.dim, len(paths), self.left.dim, self.right.dim))
            for eta, (a, b, target) in enumerate(paths):
                c = real_clebsch_gordan(self.left[a].degree, self.right[b].degree, target.degree)
                block[:, eta, left[a], right[b]] = c
            rows.append(block.reshape(-1, self.left.dim, self.right.dim))
        return np.concatenate(rows)

    @property
    def n_paths(self) -> int:
        """Number of paths η over all irreps."""
        return sum(len(paths) for paths in self.paths)

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Views ``(2L+1, n_paths, N, K)`` of the output, one per irrep of :attr:`out`."""
        sizes = [irrep.dim * len(paths) for irrep, paths in zip(self.out, self.paths, strict=True)]
        parts = x.split(sizes)
        return [part.view(irrep.dim, -1, *x.shape[1:]) for irrep, part in zip(self.out, parts, strict=True)]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``(left.dim, N, K), (right.dim, N, K) -> (n_out, N, K)``."""
        pairs = x.index_select(0, self.index_left) * y.index_select(0, self.index_right)
        return (self.matrix @ pairs.flatten(1)).view(-1, *x.shape[1:])


class RawCoupling(nn.Module):
    """Couple an uncontracted outer product ``(l1m1, l2m2)`` that was summed over neighbours.

    The sum over neighbours comes first and the coupling once per atom, so its cost is not paid
    per bond. Output rows as in :class:`Coupling`.
    """

    def __init__(self, left: Irreps, right: Irreps, out: Irreps) -> None:
        super().__init__()
        self.coupling = Coupling(left, right, out)
        index = self.coupling.index_left * right.dim + self.coupling.index_right
        matrix = torch.zeros(self.coupling.matrix.shape[0], left.dim * right.dim, dtype=torch.float64)
        matrix[:, index] = self.coupling.matrix
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        """``(left.dim * right.dim, N, K) -> (n_out, N, K)``."""
        return (self.matrix @ raw.flatten(1)).view(-1, *raw.shape[1:])
