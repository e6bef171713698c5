"""How good error bars are: do they cover, do they rank, and how sure is that.

``error`` is prediction minus reference and ``std`` the error bar, both ``(n,)`` and in the same
unit; pairs that are not finite are dropped. ``group`` names the structure of each pair: intervals
come from resampling whole structures, since the atoms of one structure share their fate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from gace.randomness import generator

Array = NDArray[np.float64]

LEVELS = (68, 90, 95)
MIN_CALIBRATION = 100
"""Below this many structures nobody may say "calibrated"."""


class Interval(NamedTuple):
    """A value with its bootstrap interval."""

    value: float
    low: float
    high: float


def coverage(error: ArrayLike, std: ArrayLike, level: float = 68) -> float:
    """Share of errors within the Gaussian ``level`` % interval ±zσ; ideally ``level / 100``."""
    return float(np.mean(np.abs(_ratio(error, std)) <= ndtri(0.5 + level / 200)))


def zms(error: ArrayLike, std: ArrayLike) -> float:
    """Mean square of e/σ: 1 if the error bars have the right size, above 1 if they are too small."""
    return float(np.mean(np.square(_ratio(error, std))))


def negative_log_likelihood(error: ArrayLike, std: ArrayLike) -> float:
    """Mean of ½(e/σ)² + ln σ + ½ ln 2π: small if error bars are both right and sharp."""
    e, s = _pairs(error, std)
    s = np.maximum(s, _tiny(s))
    return float(np.mean(0.5 * np.square(e / s) + np.log(s)) + 0.5 * np.log(2 * np.pi))


def miscalibration_area(error: ArrayLike, std: ArrayLike) -> float:
    """Area between the coverage at every level and the ideal diagonal: 0 (perfect) to 0.5."""
    levels = np.linspace(0, 1, 201)
    probability = np.sort(2 * ndtr(np.abs(_ratio(error, std))) - 1)
    observed = np.searchsorted(probability, levels, side="right") / len(probability)
    return float(np.trapezoid(np.abs(observed - levels), levels))


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive has a higher score than a negative (ties count half).

    NaN when there are no positives or no negatives.
    """
    values, truth = np.asarray(score, dtype=float), np.asarray(positive, dtype=bool)
    n_positive = int(truth.sum())
    n_negative = len(truth) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    ranks = rankdata(np.nan_to_num(values, nan=np.inf))
    return float((ranks[truth].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation of two quantities ``(n,)``; NaN when one of them is constant."""
    return _correlation(rankdata(np.asarray(first, dtype=float)), rankdata(np.asarray(second, dtype=float)))


def spearman_oracle(std: ArrayLike, seed: int = 0, draws: int = 5) -> float:
    """Rank correlation that perfectly honest error bars would reach: e drawn from N(0, σ²).

    A true σ does not tell the size of a single error, so 1 is out of reach; this is the bound.
    """
    s = np.asarray(std, dtype=float)
    s = s[np.isfinite(s)]
    rng = generator(seed, "spearman oracle")
    return float(np.mean([spearman(s, np.abs(rng.standard_normal(len(s)) * s)) for _ in range(draws)]))


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    group: ArrayLike,
    seed: int = 0,
    draws: int = 200,
    level: float = 95,
) -> Interval:
    """Percentile interval of a statistic under resampling of whole groups.

    Args:
        statistic: of the row indices it is given (rows may repeat).
        group: structure of each row, ``(n,)``.
        seed: of the resampling.
        draws: number of resamples.
        level: of the interval, %.

    Returns:
        The value on all rows and the interval; NaN bounds if fewer than two groups exist.
    """
    names = np.asarray(group)
    _, index = np.unique(names, return_inverse=True)
    everything = np.arange(len(index))
    value = statistic(everything)
    n_groups = int(index.max(initial=-1)) + 1
    if n_groups < 2:
        return Interval(value, float("nan"), float("nan"))
    rows = _Grouped(index, n_groups)
    rng = generator(seed, "bootstrap")
    found = np.array([statistic(rows.of(rng.integers(n_groups, size=n_groups))) for _ in range(draws)])
    found = found[np.isfinite(found)]
    if len(found) == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(found, [50 - level / 2, 50 + level / 2])
    return Interval(value, float(low), float(high))


class _Grouped:
    """Rows by group, so that resampling groups needs no loop over them."""

    def __init__(self, index: NDArray[np.int64], n_groups: int) -> None:
        self.order = np.argsort(index, kind="stable")
        self.count = np.bincount(index, minlength=n_groups)
        self.first = np.cumsum(self.count) - self.count

    def of(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """All rows of the groups, each as often as it is named."""
        count = self.count[groups]
        within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        return self.order[np.repeat(self.first[groups], count) + within]


def assess(
    error: ArrayLike,
    std: ArrayLike,
    group: ArrayLike | None = None,
    threshold: float | None = None,
    seed: int = 0,
    draws: int = 200,
) -> dict[str, Any]:
    """All measures of one target's error bars, as a JSON-able dictionary.

    Args:
        error: prediction minus reference, ``(n,)``.
        std: error bars in the same unit, ``(n,)``.
        group: structure of each row, ``(n,)``; None: each its own.
        threshold: an error above it is "large" (for ``auroc``); None: the 90 % quantile of |error|.
        seed: of the resampling.
        draws: resamples per interval.

    Returns:
        ``n``, ``n_structures``, ``coverage`` {"68", "90", "95"}, ``zms``, ``zms_interval``, ``spearman``,
        ``spearman_interval``, ``spearman_oracle``, ``auroc``, ``auroc_threshold``, ``nll``,
        ``miscalibration_area``, ``calibrated``. None stands for "not defined on these data".
    """
    names = np.arange(len(np.asarray(error))) if group is None else np.asarray(group)
    e, s = np.asarray(error, dtype=float), np.asarray(std, dtype=float)
    usable = np.isfinite(e) & np.isfinite(s)
    e, s, names = e[usable], s[usable], names[usable]
    if len(e) == 0:
        return {"n": 0, "n_structures": 0, "calibrated": False}
    limit = float(np.quantile(np.abs(e), 0.9)) if threshold is None else threshold
    squared = np.square(_ratio(e, s))
    size = bootstrap(lambda rows: float(squared[rows].mean()), names, seed, draws)
    # ranks are taken once: ranking every resample anew costs a hundred times more and moves the
    # interval by less than its own noise
    first, second = rankdata(s), rankdata(np.abs(e))
    ranking = bootstrap(lambda rows: _correlation(first[rows], second[rows]), names, seed, draws)
    n_structures = len(np.unique(names))
    return {
        "n": len(e),
        "n_structures": n_structures,
        "coverage": {str(level): coverage(e, s, level) for level in LEVELS},
        "zms": _finite(size.value),
        "zms_interval": [_finite(size.low), _finite(size.high)],
        "spearman": _finite(ranking.value),
        "spearman_interval": [_finite(ranking.low), _finite(ranking.high)],
        "spearman_oracle": _finite(spearman_oracle(s, seed)),
        "auroc": _finite(auroc(s, np.abs(e) > limit)),
        "auroc_threshold": limit,
        "nll": _finite(negative_log_likelihood(e, s)),
        "miscalibration_area": miscalibration_area(e, s),
        "calibrated": may_say_calibrated(n_structures, size),
    }


def may_say_calibrated(n_structures: int, zms_interval: Interval) -> bool:
    """Whether "calibrated" is an honest word: ≥ 100 structures and an interval of ZMS that holds 1."""
    return n_structures >= MIN_CALIBRATION and zms_interval.low <= 1 <= zms_interval.high


def _correlation(first: Array, second: Array) -> float:
    """Linear correlation of two quantities ``(n,)``; NaN when one of them is constant."""
    one, two = first - first.mean(), second - second.mean()
    norm = float(np.sqrt(np.square(one).sum() * np.square(two).sum()))
    return float((one * two).sum() / norm) if norm > 0 else float("nan")


def _pairs(error: ArrayLike, std: ArrayLike) -> tuple[Array, Array]:
    """Finite pairs only."""
    e, s = np.asarray(error, dtype=float), np.asarray(std, dtype=float)
    usable = np.isfinite(e) & np.isfinite(s)
    return e[usable], s[usable]


def _ratio(error: ArrayLike, std: ArrayLike) -> Array:
    """e/σ; a zero error bar is taken as a tiny one, never as a division by zero."""
    e, s = _pairs(error, std)
    return np.asarray(e / np.maximum(s, _tiny(s)))


def _tiny(std: Array) -> float:
    """The least error bar that is divided by."""
    return max(1e-9 * float(std.max(initial=0.0)), 1e-300)


def _finite(value: float) -> float | None:
    """The value, or None where JSON could not hold it."""
    return float(value) if np.isfinite(value) else None
