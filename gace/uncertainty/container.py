"""What a potential's bundle stores about its uncertainty (``uncertainty.npz``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gace.errors import BundleError
from gace.uncertainty.committee import Array, Scale, energy_spread, fit_scale, forces_spread
from gace.uncertainty.novelty import Novelty

FORMAT_VERSION = 1
KIND = "committee-scaled"


@dataclass(frozen=True)
class Uncertainty:
    """Error bars and novelty of a potential; each part may be absent."""

    novelty: Novelty | None = None
    """γ per atom."""

    energy: Scale | None = None
    """From members' spread to the energy's error bar; None if it was never fitted."""

    forces: Scale | None = None
    """From members' spread to the force's error bar."""

    n_calibration: int = 0
    """Structures whose held-out residuals fitted the scales."""

    calibration: str = "none"
    """Where these came from: ``none``, ``out-of-bag``, ``validation`` or ``reserve``."""

    kind: str = KIND
    """Name of the method, stored with the values."""

    @property
    def energy_scale(self) -> float:
        """Factor of the energy's error bar; 1 if never fitted."""
        return self.energy.factor if self.energy is not None else 1.0

    @property
    def forces_scale(self) -> float:
        """Factor of the force's error bar; 1 if never fitted."""
        return self.forces.factor if self.forces is not None else 1.0

    def energy_std(self, energy: ArrayLike, n_atoms: ArrayLike) -> Array:
        """Error bar of total energies, eV: members' ``(M, B)`` and sizes ``(B,)`` -> ``(B,)``."""
        spread = energy_spread(energy, n_atoms)
        scaled = self.energy.std(spread) if self.energy is not None else spread
        return scaled * np.sqrt(np.asarray(n_atoms, dtype=float))

    def forces_std(self, forces: ArrayLike) -> Array:
        """Error bar of each force component, eV/Å: members' ``(M, N, 3) -> (N, 3)``, equal in x, y, z."""
        spread = forces_spread(forces)
        scaled = self.forces.std(spread) if self.forces is not None else spread
        return np.repeat(scaled[:, None], 3, axis=1)

    def calibrated(
        self,
        energy_residual: ArrayLike,
        energy_spread: ArrayLike,
        forces_residual: ArrayLike,
        forces_spread: ArrayLike,
        calibration: str,
    ) -> Uncertainty:
        """The same with scales fitted to held-out residuals.

        Args:
            energy_residual: ``(n,)`` eV/√atom, one per structure.
            energy_spread: ``(n,)`` eV/√atom, of :func:`~gace.uncertainty.committee.energy_spread`.
            forces_residual: ``(N, 3)`` eV/Å, one row per atom.
            forces_spread: ``(N,)`` eV/Å, of :func:`~gace.uncertainty.committee.forces_spread`.
            calibration: where the residuals come from: ``out-of-bag``, ``validation`` or ``reserve``.

        Raises:
            InputError: no finite residual.
        """
        n_structures = int(np.isfinite(np.asarray(energy_residual, dtype=float)).sum())
        return Uncertainty(
            self.novelty,
            fit_scale(energy_residual, energy_spread),
            fit_scale(forces_residual, forces_spread),
            n_structures,
            calibration,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for ``np.savez`` (no pickle) and :meth:`from_arrays`."""
        found: dict[str, NDArray[Any]] = {
            "format_version": np.array(FORMAT_VERSION),
            "kind": np.array(self.kind),
            "n_calibration": np.array(self.n_calibration),
            "calibration": np.array(self.calibration),
        }
        for name, scale in (("energy", self.energy), ("forces", self.forces)):
            if scale is not None:
                found[f"{name}.scale"] = np.array([scale.factor, scale.floor])
        return found | (self.novelty.arrays() if self.novelty is not None else {})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Uncertainty:
        """The inverse of :meth:`arrays`.

        Raises:
            BundleError: another format version or kind, or an array is missing.
        """
        try:
            version, kind = int(arrays["format_version"]), str(arrays["kind"])
            if version != FORMAT_VERSION:
                raise BundleError(
                    f"uncertainty data of format {version}: this version reads {FORMAT_VERSION}"
                )
            if kind != KIND:
                raise BundleError(f"unknown kind of uncertainty '{kind}': this version knows '{KIND}'")
            return cls(
                Novelty.from_arrays(arrays) if "novelty.kind" in arrays else None,
                _scale(arrays, "energy"),
                _scale(arrays, "forces"),
                int(arrays["n_calibration"]),
                str(arrays["calibration"]),
                kind,
            )
        except KeyError as error:
            raise BundleError(f"the uncertainty data lacks {error}") from None


def _scale(arrays: Mapping[str, NDArray[Any]], name: str) -> Scale | None:
    """A stored scale, or None if the target has none."""
    if f"{name}.scale" not in arrays:
        return None
    factor, floor = (float(value) for value in arrays[f"{name}.scale"])
    return Scale(factor, floor)
