"""γ: how far an atom's environment lies from those of the training set.

γ = d / d₀, with d the Mahalanobis distance to the nearest cluster of training environments of the
same element and d₀ = median + 3·1.4826·MAD of the distances of *held-out* training environments:
γ = 1 is the edge of the training set. An element that the training set lacks has γ = ∞. The scale
differs from that of other extrapolation grades, so the kind is stored with the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gace.errors import BundleError, InputError
from gace.randomness import generator
from gace.uncertainty.environments import Region, fit_region

KIND = "mahalanobis-clusters"
DIMENSIONS = 128


class Novelty:
    """γ of every atom from the invariant features that feed a potential's readout.

    Attributes:
        kind: name of the scale, ``"mahalanobis-clusters"``.
        elements: symbols in the potential's order; ``species`` index it.
        regions: per element the region its training environments fill, or None if there were none.
    """

    kind = KIND

    def __init__(self, elements: Sequence[str], regions: Sequence[Region | None]) -> None:
        self.elements = list(elements)
        self.regions = list(regions)
        self._placed: dict[torch.device, list[tuple[Tensor, ...] | None]] = {}

    @classmethod
    def fit(
        cls,
        features: ArrayLike | Tensor,
        species: ArrayLike | Tensor,
        elements: Sequence[str],
        seed: int,
        structure: ArrayLike | Tensor | None = None,
        dimensions: int = DIMENSIONS,
    ) -> Novelty:
        """Learn the training set's regions.

        Args:
            features: invariant features of every training atom, ``(N, F)``.
            species: index of each atom's element in ``elements``, ``(N,)``.
            elements: symbols in the potential's order.
            seed: of the projection, the clusters and the folds.
            structure: structure (or trajectory) of each atom, ``(N,)`` integers: atoms of one are held
                out together when the boundary is measured. None: every atom on its own, which makes
                the boundary too tight wherever atoms of one structure resemble each other.
            dimensions: largest dimension of the random projection.

        Raises:
            InputError: no atoms, or a feature that is not finite.
        """
        values = _numpy(features, float)
        index = _numpy(species, np.int64)
        group = np.arange(len(index)) if structure is None else _numpy(structure, np.int64)
        if len(values) == 0:
            raise InputError("no training environments to measure novelty against")
        if not np.isfinite(values).all():
            raise InputError("a feature of the training set is NaN or infinite: the potential is broken")
        spread = _typical_variance(values, index)
        regions: list[Region | None] = []
        for number, symbol in enumerate(elements):
            own = index == number
            rng = generator(seed, "novelty", symbol)
            regions.append(
                fit_region(values[own], group[own], spread, dimensions, rng) if own.any() else None
            )
        return cls(elements, regions)

    @torch.no_grad()
    def gamma(self, features: Tensor, species: Tensor) -> Tensor:
        """γ of each atom, float64: ``(N, F), (N,) -> (N,)``, on the device of ``features``.

        ∞ where the element was not in the training set and where a feature is not finite.
        """
        result = torch.full((features.shape[0],), torch.inf, dtype=torch.float64, device=features.device)
        for number, region in enumerate(self._on(features.device)):
            if region is None:
                continue
            own = (species == number).nonzero().squeeze(1)
            if own.numel() == 0:
                continue
            centre, projection, whitening, offset = region
            n_clusters, dimensions = offset.shape
            projected = (features.index_select(0, own).to(torch.float64) - centre) @ projection
            whitened = (projected @ whitening).reshape(-1, n_clusters, dimensions) - offset
            distance = whitened.square().sum(2).amin(1).sqrt()
            result[own] = torch.nan_to_num(distance, nan=torch.inf, posinf=torch.inf)
        return result

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays, for ``np.savez`` and :meth:`from_arrays`."""
        found: dict[str, NDArray[Any]] = {
            "novelty.kind": np.array(self.kind),
            "novelty.elements": np.array(self.elements, dtype=np.str_),
        }
        for symbol, region in zip(self.elements, self.regions, strict=True):
            if region is not None:
                for name, value in region._asdict().items():
                    found[f"novelty.{symbol}.{name}"] = np.asarray(value, dtype=float)
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Novelty:
        """The inverse of :meth:`arrays`.

        Raises:
            BundleError: another kind of γ, or an array is missing or of another shape.
        """
        try:
            kind = str(arrays["novelty.kind"])
            if kind != KIND:
                raise BundleError(f"unknown kind of novelty '{kind}': this version knows '{KIND}'")
            elements = [str(symbol) for symbol in arrays["novelty.elements"]]
            regions = [
                _region(arrays, symbol) if f"novelty.{symbol}.boundary" in arrays else None
                for symbol in elements
            ]
        except KeyError as error:
            raise BundleError(f"the uncertainty data lacks {error}") from None
        return cls(elements, regions)

    def _on(self, device: torch.device) -> list[tuple[Tensor, ...] | None]:
        """Per element the tensors of :func:`_tensors`, placed on ``device`` once."""
        if device not in self._placed:
            self._placed[device] = [
                None if region is None else _tensors(region, device) for region in self.regions
            ]
        return self._placed[device]


def _tensors(region: Region, device: torch.device) -> tuple[Tensor, ...]:
    """Centre, projection, whitening ``(D, C·D)`` and offset; the boundary is divided out once, here."""
    n_clusters, dimensions = region.offset.shape
    whitening = region.whitening.transpose(1, 0, 2).reshape(dimensions, n_clusters * dimensions)
    values = (region.centre, region.projection, whitening / region.boundary, region.offset / region.boundary)
    return tuple(torch.as_tensor(np.ascontiguousarray(value), device=device) for value in values)


def _region(arrays: Mapping[str, NDArray[Any]], symbol: str) -> Region:
    """One element's region out of the stored arrays, shapes checked."""
    values = {name: np.asarray(arrays[f"novelty.{symbol}.{name}"], dtype=float) for name in Region._fields}
    n_features, dimensions = values["projection"].shape
    n_clusters = values["offset"].shape[0]
    expected = {
        "centre": (n_features,),
        "whitening": (n_clusters, dimensions, dimensions),
        "offset": (n_clusters, dimensions),
        "boundary": (),
    }
    for name, shape in expected.items():
        if values[name].shape != shape:
            raise BundleError(f"novelty.{symbol}.{name} has shape {values[name].shape}, expected {shape}")
    return Region(
        values["centre"],
        values["projection"],
        values["whitening"],
        values["offset"],
        float(values["boundary"]),
    )


def _typical_variance(features: NDArray[np.float64], species: NDArray[np.int64]) -> NDArray[np.float64]:
    """Variance of each feature within elements, pooled over elements, and > 0, ``(F,)``."""
    pooled = np.zeros(features.shape[1])
    for number in np.unique(species):
        own = features[species == number]
        pooled += len(own) * own.var(0)
    pooled /= len(features)
    # one structure of one atom each: nothing varies, so a tenth of the feature's size stands in
    fallback = 0.01 * float(np.square(features).mean()) or 1.0
    typical = float(pooled.mean()) if pooled.any() else fallback
    return np.maximum(pooled, 1e-4 * typical)


def _numpy(values: ArrayLike | Tensor, dtype: Any) -> NDArray[Any]:
    """Array or tensor as a NumPy array of ``dtype``."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=dtype)
