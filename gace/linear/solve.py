"""Ridge regression in whichever of its two forms is smaller, and its exact leave-one-structure-out error.

``n`` rows, ``C`` coefficients. Rows of one structure are left out together: its force components say
so much about each other that leaving out one row at a time would flatter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
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

    @classmethod
    def empty(cls, size: int) -> Normal:
        """Equations without rows."""
        return cls(np.zeros((size, size), order="F"), np.zeros(size))

    def add(self, matrix: Array, target: Array) -> None:
        """Add rows ``(n, C)`` and their targets ``(n,)`` in place."""
        from scipy.linalg.blas import dsyrk

        dsyrk(1.0, matrix.T, beta=1.0, c=self.matrix, lower=1, overwrite_c=1)
        self.target[:] += matrix.T @ target


def solve_primal(normal: Normal, sample: Rows, widths: Array, ridge: float) -> Solution:
    """The fit by the ``C × C`` form; left-out residuals of the ``sample``, whose rows ``normal`` contains.

    Raises:
        InputError: the ridge is too small for the arithmetic.
    """
    scaled = normal.matrix * widths[:, None]
    scaled *= widths
    factor = _cholesky(scaled, ridge)
    solution = widths * cho_solve((factor, True), widths * normal.target)
    residual = sample.target - sample.matrix @ solution
    half = solve_triangular(factor, (sample.matrix * widths).T, lower=True)  # (C, n)
    left_out = np.empty_like(residual)
    for block in sample.blocks():
        own = half[:, block]
        leverage = np.eye(own.shape[1]) - own.T @ own
        left_out[block] = np.linalg.solve(leverage, residual[block])
    return Solution(solution, left_out)


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
