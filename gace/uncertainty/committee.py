"""Error bars from the disagreement of a committee, scaled to errors it has really made.

σ² = a² (s² + b²): ``s`` is the spread of the members, ``a`` the scale and ``b`` the floor, both
fitted per target to held-out residuals. The floor is needed because a committee of M members has
only M - 1 degrees of freedom: now and then all members agree by chance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gace.errors import InputError

Array = NDArray[np.float64]

FLOORS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
"""Floors that are tried, in units of the root mean square spread."""


class Scale(NamedTuple):
    """Turns members' spread into an error bar."""

    factor: float
    """``a``, no unit."""

    floor: float
    """``b``: eV/√atom for energies, eV/Å for forces."""

    def std(self, spread: Array) -> Array:
        """Error bars from spreads, any shape."""
        return np.asarray(self.factor * np.sqrt(np.square(spread) + self.floor**2))


def energy_spread(energy: ArrayLike, n_atoms: ArrayLike) -> Array:
    """Members' standard deviation per √atom: ``(M, B), (B,) -> (B,)``, eV.

    Errors of independent atoms add in squares, so dividing by √n makes structures comparable. The
    sample estimate (M - 1) is used; a single member has no spread: zeros.
    """
    values = np.asarray(energy, dtype=float)
    return _sample_std(values) / np.sqrt(np.asarray(n_atoms, dtype=float))


def forces_spread(forces: ArrayLike) -> Array:
    """Members' standard deviation of an atom's force, per component: ``(M, N, 3) -> (N,)``, eV/Å.

    The three components are pooled: the result does not depend on how the axes lie, and has three
    times the degrees of freedom.
    """
    return np.asarray(np.sqrt(np.square(_sample_std(np.asarray(forces, dtype=float))).mean(-1)))


def fit_scale(residual: ArrayLike, spread: ArrayLike) -> Scale:
    """The scale that makes ⟨(e/σ)²⟩ = 1 with the floor of greatest Gaussian likelihood.

    Args:
        residual: held-out errors ``(n,)`` or ``(n, 3)``; of energies, divided by √(number of atoms).
        spread: members' spread beside each, ``(n,)``.

    Raises:
        InputError: no finite pair to fit to.
    """
    error, spread_ = np.asarray(residual, dtype=float), np.asarray(spread, dtype=float)
    squared = np.square(error).reshape(len(error), -1).mean(1)
    usable = np.isfinite(squared) & np.isfinite(spread_)
    squared, own = squared[usable], np.square(spread_[usable])
    if len(squared) == 0:
        raise InputError("no held-out residual to scale the error bars with")
    typical = float(np.sqrt(own.mean()))
    if typical == 0.0:  # a single member, or identical ones: a constant error bar is all there is
        return Scale(1.0, max(float(np.sqrt(squared.mean())), 1e-12))
    best, best_loss = Scale(1.0, 0.0), np.inf
    for relative in FLOORS:
        variance = own + (relative * typical) ** 2
        if (variance <= 0).any():
            continue
        factor = max(float((squared / variance).mean()), 1e-24)
        # after the factor, ⟨e²/σ²⟩ is 1 for every floor, so only the log-determinant differs
        loss = float(np.log(factor * variance).mean())
        if loss < best_loss - 1e-12:
            best, best_loss = Scale(float(np.sqrt(factor)), relative * typical), loss
    return best


def out_of_bag_residual(prediction: ArrayLike, reference: ArrayLike, in_bag: ArrayLike) -> Array:
    """Error of the mean over those members that did not train on a structure.

    Args:
        prediction: members' predictions ``(M, n, ...)``.
        reference: the labels ``(n, ...)``; NaN where there is none.
        in_bag: whether member m trained on (the structure of) row i, ``(M, n)``.

    Returns:
        Residuals ``(n, ...)``, NaN where every member has seen the structure. They are slightly too
        large for the whole committee, since fewer members are averaged: error bars err on the safe side.
    """
    values, seen = np.asarray(prediction, dtype=float), np.asarray(in_bag, dtype=bool)
    weight = (~seen).astype(float).reshape(*seen.shape, *(1,) * (values.ndim - 2))
    count = weight.sum(0)
    mean = (values * weight).sum(0) / np.where(count > 0, count, np.nan)
    return mean - np.asarray(reference, dtype=float)


def _sample_std(values: Array) -> Array:
    """Standard deviation over the first axis with M - 1, zeros if M = 1."""
    if len(values) < 2:
        return np.zeros(values.shape[1:])
    return np.asarray(values.std(0, ddof=1))
