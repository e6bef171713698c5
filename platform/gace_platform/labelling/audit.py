"""The audit of many labels at once: what one label alone cannot show.

A committee knows roughly what a label should be; a label that departs from it far more than the others do is
a suspect. So are two labels of the same structure that differ. Pure functions on arrays.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.structures.io import config_type_of, labels_of
from gace.structures.stress_order import reordered_stresses

Array = NDArray[np.float64]

NORMAL = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""

SMALLEST_FORCE = 0.1
"""Predicted forces (root mean square, eV/Å) below which their ratio to the label's says nothing."""

SMALLEST_CORRELATION = 0.7
"""Correlation of a label's forces with the predicted ones below which their ratio says nothing: a change of
units or sign keeps it, a potential that does not know the structure loses it."""

WITHIN_ERROR_BARS = 1.5
"""Error of the predicted forces in units of their error bars (both root mean squares) up to which their ratio
says nothing: a committee of a few labels underrates all forces, and knows that it may be wrong by so much."""

USUAL_SCATTER = 0.4
"""Scatter of the logarithm of a structure's force error among structures of a campaign's batch."""

USUAL_WEIGHT = 20
"""How many labels that expectation counts for."""

SMALLEST_GROUP = 8
"""Structures of one composition from which the median of the energy residuals is taken."""


class Prediction(NamedTuple):
    """What a potential (better: a committee) expects of one structure."""

    energy: float
    """eV."""
    forces: Array
    """eV/Å ``(N, 3)``."""
    stress: Array | None = None
    """eV/Å³ ``(3, 3)``."""
    energy_std: float = 0.0
    """eV; 0: unknown."""
    forces_std: Array | None = None
    """eV/Å ``(N, 3)``."""


class Limits(NamedTuple):
    """From where on a label is a suspect."""

    energy: float = 6.0
    """Robust standard deviations of the energy residual."""
    forces: float = 4.0
    """Robust standard deviations of the logarithm of the force error."""
    ratio: tuple[float, float] = (0.6, 1.7)
    """Slope of the label's forces against the predicted ones."""
    duplicate: float = 0.001
    """Difference of two labels of the same structure, eV/atom."""


def audit(
    structures: Sequence[Atoms], predictions: Sequence[Prediction], limits: Limits | None = None
) -> list[str | None]:
    """Why each label is a suspect, or None.

    Args:
        structures: labelled, all at one level of theory.
        predictions: for each; their errors need not be small, but alike.
        limits: from where on a label is a suspect.

    Returns:
        One reason or None per structure, in their order.
    """
    limits = limits or Limits()
    reasons: list[str | None] = []
    energies = energy_deviations(structures, predictions)
    errors = force_deviations(structures, predictions)
    twins = contradicted(structures, limits.duplicate, energies)
    kinds = [config_type_of(atoms) for atoms in structures]
    stresses = [labels_of(atoms).stress for atoms in structures]
    turned = {
        one.config_type: f"stress_order: {one}"
        for one in reordered_stresses(stresses, [one.stress for one in predictions], kinds)
    }
    for number, (atoms, expected) in enumerate(zip(structures, predictions, strict=True)):
        reasons.append(
            _ratio_of_forces(atoms, expected, limits)
            or _ratio_of_stress(atoms, expected)
            or (None if stresses[number] is None else turned.get(kinds[number]))
            or _far("energy", energies[number], limits.energy)
            or _far("force error", errors[number], limits.forces)
            or twins.get(number)
        )
    return reasons


def energy_deviations(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> Array:
    """Energy residuals per √atom in robust standard deviations, each with its expected error counted in.

    The median of each composition is taken out where there are enough of it: a committee may be off by a
    constant that its training set did not fix.
    """
    residual = np.array(
        [
            (float(labels_of(atoms).energy or np.nan) - expected.energy) / np.sqrt(len(atoms))
            for atoms, expected in zip(structures, predictions, strict=True)
        ]
    )
    groups: dict[str, list[int]] = defaultdict(list)
    for number, atoms in enumerate(structures):
        groups[atoms.get_chemical_formula()].append(number)
    for members in groups.values():
        if len(members) >= SMALLEST_GROUP:
            residual[members] -= np.nanmedian(residual[members])
    expected_error = np.array(
        [one.energy_std / np.sqrt(len(atoms)) for atoms, one in zip(structures, predictions, strict=True)]
    )
    width = np.hypot(NORMAL * _median_size(residual), expected_error)
    return np.abs(residual) / np.maximum(width, 1e-12)


def force_deviations(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> Array:
    """Logarithm of each structure's force error over its expected error, in robust standard deviations.

    Negative where the error is smaller than usual.
    """
    errors, expectations = [], []
    for atoms, expected in zip(structures, predictions, strict=True):
        forces = labels_of(atoms).forces
        difference = np.nan if forces is None else forces - expected.forces
        errors.append(np.sqrt(np.mean(np.square(difference))))
        std = expected.forces_std
        expectations.append(0.0 if std is None else np.sqrt(np.mean(np.square(std))))
    error, expectation = np.array(errors), np.array(expectations)
    typical = max(float(np.nanmedian(error)), 1e-9)
    logarithm = np.log(np.maximum(error, 1e-12) / np.hypot(expectation, typical))
    logarithm -= np.nanmedian(logarithm)
    # a few labels may lie close together by chance: their scatter is averaged with what is usual
    count, scatter = len(logarithm), NORMAL * _median_size(logarithm)
    width = np.sqrt((count * scatter**2 + USUAL_WEIGHT * USUAL_SCATTER**2) / (count + USUAL_WEIGHT))
    return logarithm / width


def contradicted(
    structures: Sequence[Atoms], tolerance: float, deviations: Array | None = None
) -> dict[int, str]:
    """Structures whose twin (by rotation, translation, reflection, or order of atoms) has another label.

    Of two that contradict each other the one that departs far more from its expectation is accused, both
    where that does not tell.

    Args:
        structures: labelled.
        tolerance: of the difference of two labels, eV/atom.
        deviations: of each energy from its expectation (see :func:`energy_deviations`).
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, atoms in enumerate(structures):
        groups[_fingerprint(atoms)].append(number)
    found: dict[int, str] = {}
    for members in groups.values():
        for first, second in itertools.combinations(members, 2):
            energies = [labels_of(structures[one]).energy for one in (first, second)]
            if energies[0] is None or energies[1] is None:
                continue
            gap = abs(energies[0] - energies[1]) / len(structures[first])
            if gap <= tolerance or not _same_distances(structures[first], structures[second]):
                continue
            for accused, other in ((first, second), (second, first)):
                innocent = deviations is not None and 3 * deviations[accused] < deviations[other]
                if not innocent:
                    text = f"its twin has another label: {1000 * gap:.1f} meV/atom apart"
                    found.setdefault(accused, text)
    return found


def _ratio_of_forces(atoms: Atoms, expected: Prediction, limits: Limits) -> str | None:
    """Forces that are the expected ones but for a factor: another unit or the wrong sign."""
    forces = labels_of(atoms).forces
    size = float(np.sum(np.square(expected.forces)))
    if forces is None or size < 3 * len(atoms) * SMALLEST_FORCE**2:
        return None
    product = float(np.sum(forces * expected.forces))
    if abs(product) < SMALLEST_CORRELATION * np.sqrt(size * np.sum(np.square(forces))):
        return None
    if expected.forces_std is not None:
        error = float(np.sqrt(np.mean(np.square(forces - expected.forces))))
        if error < WITHIN_ERROR_BARS * float(np.sqrt(np.mean(np.square(expected.forces_std)))):
            return None
    slope = product / size
    if slope < -limits.ratio[0]:
        return f"forces have the opposite sign of the expected ones (slope {slope:.2f})"
    if not limits.ratio[0] < slope < limits.ratio[1]:
        return f"forces are {slope:.3g} times the expected ones: other units?"
    return None


def _ratio_of_stress(atoms: Atoms, expected: Prediction) -> str | None:
    stress = labels_of(atoms).stress
    if stress is None or expected.stress is None:
        return None
    size = float(np.sum(np.square(expected.stress)))
    # 0.005 eV/Å³ is 0.8 GPa: below it the stress is too small to tell its sign
    if np.sqrt(size / 9) < 0.005:
        return None
    product = float(np.sum(stress * expected.stress))
    if abs(product) < SMALLEST_CORRELATION * np.sqrt(size * np.sum(np.square(stress))):
        return None
    slope = product / size
    if slope < 0:
        return f"the stress has the opposite sign of the expected one (slope {slope:.2f})"
    if not 0.2 < slope < 5:
        return f"the stress is {slope:.3g} times the expected one: other units?"
    return None


def _far(what: str, deviation: float, limit: float) -> str | None:
    if not np.isfinite(deviation):
        return f"{what} is not finite"
    if deviation <= limit:
        return None
    return f"{what} is {deviation:.1f} robust standard deviations from the committee's expectation"


def _fingerprint(atoms: Atoms) -> tuple[object, ...]:
    """Composition, volume and a short histogram of distances: equal for equal structures, to 10⁻³ Å or so."""
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    numbers = atoms.numbers
    weights = np.outer(numbers, numbers)[np.triu_indices(len(atoms), 1)]
    lengths = distances[np.triu_indices(len(atoms), 1)]
    moments = (float(np.sum(weights * lengths)), float(np.sum(weights * lengths**2)))
    total = max(float(np.sum(weights)), 1.0)
    volume = float(atoms.get_volume()) if all(atoms.pbc) else 0.0
    state = (atoms.info.get("charge", 0), atoms.info.get("spin", 0))
    return (
        atoms.get_chemical_formula(),
        tuple(bool(one) for one in atoms.pbc),
        round(volume / len(atoms), 4),
        *(round(moment / total, 4) for moment in moments),
        *state,
    )


def _same_distances(first: Atoms, second: Atoms) -> bool:
    """Whether two structures of one composition have the same distances between atoms of the same kinds."""
    profiles = []
    for atoms in (first, second):
        upper = np.triu_indices(len(atoms), 1)
        lengths = atoms.get_all_distances(mic=bool(atoms.pbc.any()))[upper]
        kinds = np.sort(np.stack([atoms.numbers[upper[0]], atoms.numbers[upper[1]]]), axis=0)
        profiles.append(lengths[np.lexsort((lengths, kinds[0], kinds[1]))])
    # the fingerprint rounds at 10⁻⁴ Å; two geometries closer than this differ by no label worth naming
    return bool(np.abs(profiles[0] - profiles[1]).max(initial=0.0) < 1e-3)


def _median_size(values: Array) -> float:
    return float(np.nanmedian(np.abs(values)))
