"""Ridge regression in whichever of its two forms is smaller, and its error on structures left out.

``n`` rows, ``C`` coefficients. Rows of one structure are left out together: its force components say
so much about each other that leaving out one row at a time would flatter. The ``n × n`` form leaves out each
structure in turn, the ``C × C`` form one part of the structures after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsymv, dsyrk
from scipy.linalg.lapack import dpotri

from gace.errors import InputError

Array = NDArray[np.float64]


class Rows(NamedTuple):
    """Weighted rows of some structures."""

    matrix: Array
    """``(n, C)``."""
    target: Array
    """``(n,)``."""
    block: NDArray[np.int64]
    """Structure of each row, ascending ``(n,)``."""

    def blocks(self) -> list[slice]:
        """The rows of each structure."""
        edges = np.flatnonzero(np.diff(self.block)) + 1
        return [slice(a, b) for a, b in zip([0, *edges], [*edges, len(self.block)], strict=True)]


class Solution(NamedTuple):
    """Coefficients and what they promise."""

    coefficients: Array
    """``(C,)``."""
    left_out: Array
    """Residual of each row predicted without its structure ``(n,)``, weighted."""

    @property
    def score(self) -> float:
        """Mean square of the left-out residuals."""
        return float(np.mean(np.square(self.left_out)))


def kernel(rows: Rows, widths: Array) -> Array:
    """Covariance of the rows under the prior ``(n, n)``."""
    scaled = rows.matrix * widths
    return np.asarray(scaled @ scaled.T)


def solve_dual(rows: Rows, widths: Array, ridge: float, covariance: Array | None = None) -> Solution:
    """The fit by the ``n × n`` form; see :func:`kernel` for ``covariance``.

    Raises:
        InputError: the ridge is too small for the arithmetic.
    """
    covariance = kernel(rows, widths) if covariance is None else covariance
    factor = _cholesky(covariance, ridge)
    dual = cho_solve((factor, True), rows.target)
    inverse, _ = dpotri(factor, lower=1)
    left_out = np.empty_like(dual)
    for block in rows.blocks():
        own = inverse[block, block]
        own = np.tril(own) + np.tril(own, -1).T
        left_out[block] = np.linalg.solve(own, dual[block])
    return Solution(widths**2 * (rows.matrix.T @ dual), left_out)


class Normal(NamedTuple):
    """Normal equations, gathered row by row; the design matrix is never held."""

    matrix: Array
    """``(C, C)``, lower triangle."""
    target: Array
    """``(C,)``."""
    square: Array
    """Sum of the squares of all targets ``()``."""

    @classmethod
    def empty(cls, size: int) -> Normal:
        """Equations without rows."""
        return cls(np.zeros((size, size), order="F"), np.zeros(size), np.zeros(()))

    def add(self, matrix: Array, target: Array) -> None:
        """Add rows ``(n, C)`` and their targets ``(n,)`` in place."""
        dsyrk(1.0, matrix.T, beta=1.0, c=self.matrix, lower=1, overwrite_c=1)
        self.target[:] += matrix.T @ target
        self.square[...] += target @ target

    def residual(self, coefficients: Array) -> float:
        """Sum of the squares of what these coefficients leave."""
        bent = dsymv(1.0, self.matrix, coefficients, lower=1)
        left = float(self.square - 2.0 * (coefficients @ self.target) + coefficients @ bent)
        return max(0.0, left)  # where nothing is left, rounding may say less than nothing

    def solve(self, widths: Array, ridge: float) -> Array:
        """The regularised coefficients ``(C,)``.

        Raises:
            InputError: the ridge is too small for the arithmetic.
        """
        scaled = self.matrix * widths[:, None]
        scaled *= widths
        return widths * cho_solve((_cholesky(scaled, ridge), True), widths * self.target)


class Parts:
    """Normal equations of the structures, dealt into parts that are left out one after the other."""

    def __init__(self, n_parts: int, size: int) -> None:
        self.parts = [Normal.empty(size) for _ in range(n_parts)]
        self.n_rows = 0

    def add(self, rows: Rows) -> None:
        """Add the rows of some structures, each to the part that its number decides."""
        part = rows.block % len(self.parts)
        for number, normal in enumerate(self.parts):
            own = part == number
            if own.any():
                normal.add(rows.matrix[own], rows.target[own])
        self.n_rows += len(rows.target)

    def whole(self) -> Normal:
        """The equations of all structures."""
        return Normal(*(sum(several[1:], several[0]) for several in zip(*self.parts, strict=True)))

    def crossed(self, widths: Array, ridge: float) -> Crossed:
        """Mean square residual of each part under the fit to the others.

        Raises:
            InputError: the ridge is too small for the arithmetic.
        """
        whole = self.whole()
        total = 0.0
        for part in self.parts:
            rest = Normal(whole.matrix - part.matrix, whole.target - part.target, whole.square - part.square)
            total += part.residual(rest.solve(widths, ridge))
        return Crossed(total / self.n_rows)


class Crossed(NamedTuple):
    """What fits to parts of the structures promise for the others."""

    score: float
    """Mean square of the residuals of parts left out."""


def _cholesky(matrix: Array, ridge: float) -> Array:
    """Lower Cholesky factor of ``matrix + ridge``."""
    shifted = np.array(matrix, order="F")
    shifted[np.diag_indices_from(shifted)] += ridge
    try:
        factor, _ = cho_factor(shifted, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise InputError(
            f"training.least_squares.ridge {ridge:g} is too small: the equations are singular"
        ) from None
    return np.asarray(factor)
