"""Errors of a potential on labelled structures, with intervals, in the terms of the report.

Walks are resampled whole where structures name theirs in ``info["ancestor"]``, else structures: neither
the frames of one walk nor the atoms of one structure are independent witnesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.errors import InputError
from gace.evaluation import ancestor_of, assess_by_ancestor, numbered, widened
from gace.randomness import generator
from gace.structures.io import labels_of
from gace_platform.report.record import Estimate, Predictions, SetErrors, UncertaintyRecord

if TYPE_CHECKING:
    from gace.potential.potential import Potential

Array = NDArray[np.float64]
MAX_COMPONENTS = 4000
"""Force components kept for a plot."""


@dataclass(frozen=True)
class Residuals:
    """Predictions beside their references for ``B`` structures; NaN where there is no reference."""

    n_atoms: Array
    """``(B,)``."""
    isolated: Array
    """Sum of the isolated-atom energies, eV ``(B,)``."""
    energy: Array
    """Predicted energy, eV ``(B,)``."""
    energy_reference: Array
    """eV ``(B,)``."""
    forces: Array
    """Predicted forces of all structures, eV/Å ``(N, 3)``."""
    forces_reference: Array
    """eV/Å ``(N, 3)``."""
    forces_std: Array | None
    """Predicted standard deviation, eV/Å ``(N, 3)``; None when the potential has none."""
    stress: Array
    """Predicted stress, eV/Å³ ``(B, 3, 3)``; NaN where not periodic."""
    stress_reference: Array
    """eV/Å³ ``(B, 3, 3)``."""
    ancestor: NDArray[np.int64] | None = None
    """Number of the walk each structure was taken from ``(B,)``; None where none is named."""

    @property
    def structure(self) -> NDArray[np.int64]:
        """Index of the structure of each atom ``(N,)``."""
        return np.repeat(np.arange(len(self.n_atoms)), self.n_atoms.astype(int))

    @property
    def energy_error(self) -> Array:
        """Absolute error of the energy, meV/atom ``(B,)``."""
        return 1000 * np.abs(self.energy - self.energy_reference) / self.n_atoms

    def force_sums(self) -> tuple[Array, Array, Array]:
        """By structure: sum of |error| in meV/Å, of error² in (meV/Å)², and number of components."""
        error = 1000 * (self.forces - self.forces_reference)
        known = np.isfinite(self.forces_reference)
        groups, size = self.structure, len(self.n_atoms)
        absolute = np.where(known, np.abs(error), 0.0).sum(1)
        square = np.where(known, np.square(error), 0.0).sum(1)
        absolute, square, count = (
            np.asarray(np.bincount(groups, per_atom, size), dtype=float)
            for per_atom in (absolute, square, known.sum(1).astype(float))
        )
        return absolute, square, count


def residuals(potential: Potential, structures: Sequence[Atoms], uncertainty: bool = False) -> Residuals:
    """Predict ``structures`` and put the predictions beside the labels.

    Raises:
        InputError: there is no structure, or one has neither energy nor forces.
    """
    if not structures:
        raise InputError("no structures to compare with")
    labels = [labels_of(atoms) for atoms in structures]
    for number, label in enumerate(labels):
        if label.energy is None and label.forces is None:
            raise InputError(f"structure {number} has no label: neither REF_energy nor REF_forces")
    predictions = potential.evaluated_for(structures).predict(structures, uncertainty=uncertainty)
    isolated = potential.isolated_atom_energies
    nothing = np.full((3, 3), np.nan)
    std = [prediction.forces_std for prediction in predictions]
    known_std = [array for array in std if array is not None]
    return Residuals(
        n_atoms=np.array([len(atoms) for atoms in structures], dtype=float),
        isolated=np.array([sum(isolated.get(s, 0.0) for s in atoms.symbols) for atoms in structures]),
        energy=np.array([prediction.energy for prediction in predictions]),
        energy_reference=np.array([np.nan if one.energy is None else one.energy for one in labels]),
        forces=np.concatenate([prediction.forces for prediction in predictions]),
        forces_reference=np.concatenate(
            [
                np.full((len(atoms), 3), np.nan) if one.forces is None else one.forces
                for atoms, one in zip(structures, labels, strict=True)
            ]
        ),
        forces_std=np.concatenate(known_std) if len(known_std) == len(std) else None,
        stress=np.array([nothing if one.stress is None else one.stress for one in predictions]),
        stress_reference=np.array([nothing if one.stress is None else one.stress for one in labels]),
        ancestor=numbered([ancestor_of(atoms) for atoms in structures]),
    )


def set_errors(found: Residuals, seed: int = 0, draws: int = 1000) -> SetErrors:
    """Errors with 95 % bootstrap intervals; what has no reference is None."""
    draw = Resampling.of(found, seed, draws)
    absolute, square, count = found.force_sums()
    energy = found.energy_error
    has_energy = np.isfinite(found.energy_reference)
    stress = 1000 * np.abs(found.stress - found.stress_reference).reshape(len(energy), 9)
    has_stress = np.isfinite(stress).all(1)
    return SetErrors(
        n_structures=len(found.n_atoms),
        forces_mae=draw.ratio(absolute, count),
        forces_rmse=_root(draw.ratio(square, count)),
        energy_mae=draw.ratio(np.where(has_energy, energy, 0.0), has_energy.astype(float)),
        stress_mae=draw.ratio(np.where(has_stress, stress.mean(1), 0.0), has_stress.astype(float)),
    )


def forces_mae_difference(one: Residuals, other: Residuals, seed: int = 0, draws: int = 1000) -> Estimate:
    """Force MAE of ``one`` minus that of ``other`` on the same structures, meV/Å, with its interval.

    Both are resampled together, so that walks hard for both do not widen the interval.

    Raises:
        InputError: the structures have no forces.
    """
    first, _, count = one.force_sums()
    second, _, _ = other.force_sums()
    difference = Resampling.of(one, seed, draws).ratio(first - second, count, least=-np.inf)
    if difference is None:
        raise InputError("the structures of the exam have no forces")
    return difference


def uncertainty_record(found: Residuals, seed: int = 0) -> UncertaintyRecord | None:
    """How well the error bars of the forces describe the errors; None without error bars or forces."""
    if found.forces_std is None or not np.isfinite(found.forces_reference).any():
        return None
    structure = np.repeat(found.structure, 3)
    error = (found.forces - found.forces_reference).ravel()
    measures = assess_by_ancestor(error, found.forces_std.ravel(), structure, found.ancestor, seed)
    if measures["n"] == 0:
        return None
    return UncertaintyRecord(
        n=measures["n_structures"],
        coverage=measures["coverage"],
        zms=_estimate(measures["zms"], measures["zms_interval"]),
        spearman=_estimate(measures["spearman"], measures["spearman_interval"]),
        auroc=_estimate(measures["auroc"], [None, None]),
        calibrated=measures["calibrated"],
    )


def plot_points(found: Residuals, generation: int, set_name: str, seed: int = 0) -> Predictions:
    """The points of the parity plots; force components are thinned to ``MAX_COMPONENTS``."""
    has_energy = np.isfinite(found.energy_reference)
    per_atom = (found.energy - found.isolated) / found.n_atoms
    reference = (found.energy_reference - found.isolated) / found.n_atoms
    known = np.flatnonzero(np.isfinite(found.forces_reference).ravel())
    if len(known) > MAX_COMPONENTS:
        draw = generator(seed, "plot points", set_name)
        known = np.sort(draw.choice(known, MAX_COMPONENTS, replace=False))
    std = [] if found.forces_std is None else np.round(found.forces_std.ravel()[known], 6).tolist()
    return Predictions(
        generation=generation,
        set=set_name,
        energy_reference=np.round(reference[has_energy], 6).tolist(),
        energy_predicted=np.round(per_atom[has_energy], 6).tolist(),
        force_reference=np.round(found.forces_reference.ravel()[known], 6).tolist(),
        force_predicted=np.round(found.forces.ravel()[known], 6).tolist(),
        force_std=std,
    )


@dataclass(frozen=True)
class Resampling:
    """Bootstrap samples of the ``A`` ancestors of ``B`` structures, or of the structures themselves."""

    rows: NDArray[np.int64]
    """Indices of the samples ``(draws, A)``."""
    ancestor: NDArray[np.int64] | None
    """Of each structure ``(B,)``; None: each structure stands for itself."""

    @classmethod
    def of(cls, found: Residuals, seed: int, draws: int) -> Resampling:
        """Samples that depend on nothing but their size, so that two potentials get the same ones."""
        n = len(found.n_atoms) if found.ancestor is None else int(found.ancestor.max()) + 1
        return cls(generator(seed, "bootstrap", n, draws).integers(n, size=(draws, n)), found.ancestor)

    def ratio(self, numerator: Array, denominator: Array, least: float = 0.0) -> Estimate | None:
        """Σ numerator / Σ denominator of ``(B,)`` with its interval; None where nothing is known.

        An interval never goes below ``least``. One ancestor says nothing about others: no interval.
        """
        total = denominator.sum()
        if total == 0 or not np.isfinite(numerator).all():
            return None
        value = float(numerator.sum() / total)
        if self.ancestor is not None:
            numerator, denominator = (
                np.asarray(np.bincount(self.ancestor, one), dtype=float) for one in (numerator, denominator)
            )
        # ancestors, or structures, without such labels are no witnesses
        n = int(np.count_nonzero(denominator))
        below = denominator[self.rows].sum(1)
        found = numerator[self.rows].sum(1)[below > 0] / below[below > 0]
        if n < 2 or len(found) == 0:
            return Estimate(value=value)
        low, high = (float(end) for end in np.percentile(found, [2.5, 97.5]))
        if self.ancestor is not None:
            low, high = widened(value, low, high, n)
            low = max(low, least)
        return Estimate(value=value, low=low, high=high)


def _root(square: Estimate | None) -> Estimate | None:
    """The square root of a figure and its interval."""
    if square is None:
        return None
    ends = [None if end is None else float(np.sqrt(end)) for end in (square.low, square.high)]
    return Estimate(value=float(np.sqrt(square.value)), low=ends[0], high=ends[1])


def _estimate(value: float | None, interval: Sequence[float | None]) -> Estimate | None:
    return None if value is None else Estimate(value=value, low=interval[0], high=interval[1])


__all__ = [
    "Residuals",
    "forces_mae_difference",
    "plot_points",
    "residuals",
    "set_errors",
    "uncertainty_record",
]
