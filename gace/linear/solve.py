"""Ridge regression in whichever of its two forms is smaller, and its error on structures left out.

``n`` rows, ``C`` coefficients. Rows of one structure are left out together: its force components say
so much about each other that leaving out one row at a time would flatter. The ``n × n`` form leaves out each
structure in turn, the ``C × C`` form one part of the structures after the other.

What is left out is judged by the geometric mean over structures (:func:`typical`), not by the mean square: a
structure that is alone of its kind is extrapolated to only because it was left out, its error can be a
hundred times the others', and as a mean square it alone would decide the prior.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.blas import dsyrk
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

    score: float
    """Typical square of the left-out residuals; see :func:`typical`."""


def typical(squares: Array, scale: float) -> float:
    """Geometric mean of the structures' mean squares ``(S,)``.

    Args:
        squares: mean squared residual of each structure.
        scale: mean square of the targets; a structure that is met to a hundred thousandth of its root counts
            as met, not as infinitely better.
    """
    return float(np.exp(np.mean(np.log(squares + 1e-10 * scale + np.finfo(float).tiny))))


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
    squares = np.array([np.mean(np.square(left_out[block])) for block in rows.blocks()])
    score = typical(squares, float(np.mean(np.square(rows.target))))
    return Solution(widths**2 * (rows.matrix.T @ dual), left_out, score)


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
        dsyrk(1.0, matrix.T, beta=1.0, c=self.matrix, lower=1, overwrite_c=1)
        self.target[:] += matrix.T @ target

    def solve(self, widths: Array, ridge: float) -> Array:
        """The regularised coefficients ``(C,)``.

        Raises:
            InputError: the ridge is too small for the arithmetic.
        """
        scaled = self.matrix * widths[:, None]
        scaled *= widths
        return widths * cho_solve((_cholesky(scaled, ridge), True), widths * self.target)


class Parts:
    """Normal equations of the structures, dealt into parts that are left out one after the other.

    Args:
        n_parts: how many.
        size: number of coefficients.
        judged_every: of every so many structures of a part the rows of one are held, to judge by.
    """

    def __init__(self, n_parts: int, size: int, judged_every: int = 1) -> None:
        self.parts = [Normal.empty(size) for _ in range(n_parts)]
        self.judges: list[list[Rows]] = [[] for _ in range(n_parts)]
        self.judged_every = judged_every
        self.n_rows, self.square = 0, 0.0

    def add(self, rows: Rows) -> None:
        """Add the rows of some structures, each to the part that its number decides."""
        n_parts = len(self.parts)
        part = rows.block % n_parts
        judged = rows.block // n_parts % self.judged_every == 0
        for number, normal in enumerate(self.parts):
            own = part == number
            if own.any():
                normal.add(rows.matrix[own], rows.target[own])
            if (held := own & judged).any():
                self.judges[number].append(Rows(rows.matrix[held], rows.target[held], rows.block[held]))
        self.n_rows += len(rows.target)
        self.square += float(rows.target @ rows.target)

    def whole(self) -> Normal:
        """The equations of all structures."""
        return Normal(*(sum(several[1:], several[0]) for several in zip(*self.parts, strict=True)))

    def crossed(self, widths: Array, ridge: float) -> Crossed:
        """Typical residual of the held structures, each under the fit to the other parts.

        Raises:
            InputError: the ridge is too small for the arithmetic.
        """
        whole = self.whole()
        squares: list[float] = []
        for part, judges in zip(self.parts, self.judges, strict=True):
            if not judges:
                continue
            rest = Normal(whole.matrix - part.matrix, whole.target - part.target)
            coefficients = rest.solve(widths, ridge)
            for rows in judges:
                left = np.square(rows.target - rows.matrix @ coefficients)
                squares += [float(left[block].mean()) for block in rows.blocks()]
        return Crossed(typical(np.array(squares), self.square / self.n_rows))


class Crossed(NamedTuple):
    """What fits to parts of the structures promise for the others."""

    score: float
    """Typical square of the residuals of structures left out; see :func:`typical`."""


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
