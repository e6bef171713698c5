"""The region of feature space that one element's training environments fill.

Environments are projected, split into a few clusters, and each cluster gets a regularised
covariance; the distance of a new environment is its smallest Mahalanobis distance to a cluster.
All arrays are NumPy, float64. ``n`` environments, ``F`` features, ``D`` projected dimensions,
``C`` clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_CLUSTERS = 8
MAX_ENVIRONMENTS = 10_000  # more sharpen no covariance of 128 dimensions
FOLDS = 10
FOLDS_WHEN_MANY = 3  # above MANY environments a third less data changes the fit hardly at all
MANY = 5_000
RIDGE = 1e-5  # of the mean variance: below it single-precision features are noise


class Region(NamedTuple):
    """Where one element's training environments lie, ready for fast distances."""

    centre: Array
    """Mean features, ``(F,)``."""

    projection: Array
    """Standardises and projects centred features, ``(F, D)``."""

    whitening: Array
    """Per cluster: projected features to units of the cluster's spread, ``(C, D, D)``."""

    offset: Array
    """Whitened cluster centres, ``(C, D)``."""

    boundary: float
    """Distance that counts as the edge of the training set (γ = 1)."""

    def distance(self, features: Array) -> Array:
        """Smallest Mahalanobis distance to a cluster: ``(n, F) -> (n,)``."""
        projected = (features - self.centre) @ self.projection
        return cluster_distance(projected, self.whitening, self.offset)


def cluster_distance(projected: Array, whitening: Array, offset: Array) -> Array:
    """Smallest Mahalanobis distance to a cluster: ``(n, D), (C, D, D), (C, D) -> (n,)``."""
    per_cluster = [
        np.sqrt((np.square(projected @ matrix - shift)).sum(1))
        for matrix, shift in zip(whitening, offset, strict=True)
    ]
    return np.min(per_cluster, axis=0)


def fit_region(
    features: Array, group: NDArray[np.int64], spread: Array, dimensions: int, rng: np.random.Generator
) -> Region:
    """Learn the region of one element.

    Args:
        features: environments of this element, ``(n, F)``, n >= 1.
        group: structure (or trajectory) of each environment, ``(n,)``; whole groups are held out
            together when the boundary is measured.
        spread: typical variance of each feature over all elements, > 0, ``(F,)``; the prior where this
            element has too few environments to tell its own.
        dimensions: largest number of projected dimensions ``D``.
        rng: draws the projection, the seeds of the clusters and the folds.
    """
    if len(features) > MAX_ENVIRONMENTS:
        kept = np.sort(rng.choice(len(features), MAX_ENVIRONMENTS, replace=False))
        features, group = features[kept], group[kept]
    centre = features.mean(0)
    # a feature that hardly varies here, but does for other elements, must not count infinitely
    variance = np.maximum(features.var(0), 0.01 * spread)
    directions = _random_projection(features.shape[1], dimensions, rng)
    projection = directions / np.sqrt(variance)[:, None]
    projected = (features - centre) @ projection
    # clusters are sought before standardising, which would shrink the very directions that part them
    raw = (features - centre) @ directions
    prior = float(np.mean(spread / variance))
    whitening, offset = fit_clusters(projected, raw, prior, rng)
    held_out = held_out_distance(projected, raw, group, prior, rng)
    return Region(centre, projection, whitening, offset, boundary_of(held_out, projected.shape[1]))


def boundary_of(distance: Array, dimensions: int) -> float:
    """Median + 3 robust standard deviations of held-out distances ``(n,)``; see the remarks in docs.

    With no distance to go by, √(2 D): the distance expected of a second draw when only one is known.
    """
    if len(distance) == 0:
        return float(np.sqrt(2 * dimensions))
    median = float(np.median(distance))
    deviation = 1.4826 * float(np.median(np.abs(distance - median)))
    # one standard deviation is never novel, even if all training environments are the same
    return max(median + 3 * deviation, 1.0)


def held_out_distance(
    projected: Array, raw: Array, group: NDArray[np.int64], prior: float, rng: np.random.Generator
) -> Array:
    """Distances of environments to the region fitted without their own group, ``(<= n,)``.

    In-sample Mahalanobis distances are too short by a factor that grows as environments become few
    (at n = D they say nothing at all), which would put new structures of the very same ensemble far
    outside; so the boundary is always measured on groups that the fit has not seen.
    """
    groups = np.unique(group)
    if len(groups) < 2:
        return np.zeros(0)
    n_folds = min(FOLDS if len(group) <= MANY else FOLDS_WHEN_MANY, len(groups))
    fold_of_group = rng.permutation(len(groups)) % n_folds
    fold = fold_of_group[np.searchsorted(groups, group)]
    distances = []
    for number in range(n_folds):
        out = fold == number
        if out.any() and not out.all():
            whitening, offset = fit_clusters(projected[~out], raw[~out], prior, rng)
            distances.append(cluster_distance(projected[out], whitening, offset))
    return np.concatenate(distances)


def fit_clusters(projected: Array, raw: Array, prior: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Whitening ``(C, D, D)`` and whitened centres ``(C, D)`` of clusters of ``projected`` ``(n, D)``.

    The clusters are those of ``raw`` ``(n, D)``, the same environments before standardising.

    Each cluster's covariance is drawn towards the pooled within-cluster covariance by as many
    environments as there are dimensions; the pooled one is shrunk towards a multiple of the unit
    matrix, with one environment's worth of ``prior`` variance.
    """
    n, dimensions = projected.shape
    assignment = assign_clusters(raw, max(1, min(MAX_CLUSTERS, n // max(2 * dimensions, 50))), rng)
    members = [projected[assignment == cluster] for cluster in np.unique(assignment)]
    within = np.concatenate([one - one.mean(0) for one in members])
    pooled = shrunk_covariance(within, prior)
    from scipy.linalg import solve_triangular  # here, as below: 20 MB that predictions do not need

    whitening, offset = [], []
    for one in members:
        own = (one - one.mean(0)).T @ (one - one.mean(0))
        covariance = (own + dimensions * pooled) / (len(one) + dimensions)
        matrix = solve_triangular(np.linalg.cholesky(covariance), np.eye(dimensions), lower=True).T
        whitening.append(matrix)
        offset.append(one.mean(0) @ matrix)
    return np.stack(whitening), np.stack(offset)


def assign_clusters(points: Array, n_clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """k-means from k-means++ seeds: cluster of each row of ``points`` ``(n, D)``, ``(n,)``."""
    if n_clusters == 1:
        return np.zeros(len(points), dtype=np.int64)
    seeds = [int(rng.integers(len(points)))]
    squared = np.square(points - points[seeds[0]]).sum(1)
    for _ in range(1, n_clusters):
        if not squared.any():  # fewer distinct environments than clusters
            break
        seeds.append(int(rng.choice(len(points), p=squared / squared.sum())))
        squared = np.minimum(squared, np.square(points - points[seeds[-1]]).sum(1))
    from scipy.cluster.vq import kmeans2

    _, assignment = kmeans2(points, points[seeds], minit="matrix", iter=15, missing="warn")
    return np.asarray(assignment, dtype=np.int64)


def shrunk_covariance(deviation: Array, prior: float) -> Array:
    """Covariance of centred rows ``(n, D)``, shrunk as Ledoit and Wolf (2004) do, ``(D, D)``.

    Args:
        deviation: centred rows.
        prior: variance per dimension that counts as one more row, and stands alone if n = 1.
    """
    n, dimensions = deviation.shape
    identity = np.eye(dimensions)
    sample = deviation.T @ deviation / n
    mean_variance = float(np.trace(sample)) / dimensions
    dispersion = float(np.square(sample - mean_variance * identity).sum())
    noise = (float(np.square(np.square(deviation).sum(1)).mean()) - float(np.square(sample).sum())) / n
    weight = min(1.0, max(noise / dispersion, RIDGE)) if dispersion > 0 else 1.0
    shrunk = (1 - weight) * sample + weight * mean_variance * identity
    return (n * shrunk + prior * identity) / (n + 1)


def _random_projection(n_features: int, dimensions: int, rng: np.random.Generator) -> Array:
    """Gaussian projection ``(F, D)`` that keeps squared lengths on average; the unit matrix if F <= D."""
    if n_features <= dimensions:
        return np.eye(n_features)
    return rng.standard_normal((n_features, dimensions)) / np.sqrt(dimensions)
