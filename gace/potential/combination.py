"""One potential out of several: the mean of all their members, weighted if it is to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.optimize import minimize

from gace.errors import InputError
from gace.potential.potential import Potential
from gace.structures.io import labels_of

ENERGY_TOLERANCE = 1e-6
"""Isolated-atom energies that differ by less are the same, eV."""


LEAST_WEIGHT = 0.01
"""A potential that would have less is given this much: it is there to be evaluated."""


def combine(potentials: Sequence[Potential], weights: Sequence[float] | None = None) -> Potential:
    """The mean of all members of several potentials for the same labels.

    The error of a mean is smaller the less the members' errors have in common: trainings from several
    seeds, each from scratch, or another kind of model, such as a linear ACE beside a graph ACE. Error
    bars and novelty measures of the single potentials do not hold for the mean and are left behind; its
    own spread is not calibrated.

    Args:
        potentials: at least two, with the same elements in the same order and the same cutoff. Device and
            precision are those of the first.
        weights: of the potentials, each shared by its members; None weighs all members alike. See
            :func:`fitted_weights`.

    Raises:
        InputError: fewer than two, an exported file, not one positive weight for each, or potentials that
            differ in elements, cutoff, isolated-atom energies or level of theory.
    """
    if len(potentials) < 2:
        raise InputError("combining takes two potentials or more")
    for one in potentials:
        one.models("combined")
    first = potentials[0]
    for number, one in enumerate(potentials[1:], start=2):
        if one.elements != first.elements or one.cutoff != first.cutoff:
            raise InputError(
                f"potential {number} has elements {', '.join(one.elements)} and cutoff {one.cutoff:g} Å, "
                f"the first has {', '.join(first.elements)} and {first.cutoff:g} Å: "
                "they must be the same, in order"
            )
        for element, energy in first.isolated_atom_energies.items():
            other = one.isolated_atom_energies[element]
            if abs(other - energy) > ENERGY_TOLERANCE:
                raise InputError(
                    f"the isolated-atom energy of {element} is {energy:.6f} eV in the first potential and "
                    f"{other:.6f} eV in potential {number}: they learnt from different labels"
                )
        if one.level_of_theory != first.level_of_theory:
            raise InputError(
                f"potential {number} is of level of theory {one.level_of_theory}, the first of "
                f"{first.level_of_theory}: their mean would be of neither"
            )
    return Potential(
        [member for one in potentials for member in one.to(device=first.device, dtype=first.dtype).members],
        isolated_atom_energies=first.isolated_atom_energies,
        level_of_theory=first.level_of_theory,
        metadata={"combined": [one.metadata for one in potentials]},
        weights=None if weights is None else _of_members(potentials, weights),
    )


def _of_members(potentials: Sequence[Potential], weights: Sequence[float]) -> list[float]:
    if len(weights) != len(potentials):
        raise InputError(f"{len(potentials)} potentials need as many weights (got {len(weights)})")
    return [weight * own for weight, one in zip(weights, potentials, strict=True) for own in one.weights]


def fitted_weights(potentials: Sequence[Potential], structures: Sequence[Atoms]) -> list[float]:
    """Weights with which the mean of several potentials errs least on structures none of them has seen.

    Mean squares of energy per atom, forces and stress count equally, each in units of the best single
    potential's; weights are not negative and sum to one [stacking; Breiman, Machine Learning 24, 49 (1996)].

    Args:
        potentials: trained without ``structures``. What is to be used later are their like, trained on
            everything, with these weights.
        structures: labelled, held out from all of them.

    Raises:
        InputError: no label at all.
    """
    found = [residuals(one, structures) for one in potentials]
    products: NDArray[np.float64] = np.zeros((len(potentials), len(potentials)))
    for kind in zip(*found, strict=True):
        several = np.array(kind)
        squares = several @ several.T
        if (known := squares.diagonal()[squares.diagonal() > 0]).size:
            products += squares / known.min()
    if not products.any():
        raise InputError("the structures have no labels to fit the weights to")
    n = len(potentials)
    least = minimize(
        lambda w: float(w @ products @ w),
        np.full(n, 1.0 / n),
        jac=lambda w: 2.0 * products @ w,
        bounds=[(LEAST_WEIGHT, 1.0)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(n)},
    )
    return [round(float(one), 4) for one in least.x]


def residuals(potential: Potential, structures: Sequence[Atoms]) -> list[NDArray[np.float64]]:
    """Predictions less labels, where there are any: energies per atom (eV), forces (eV/Å), stress (eV/Å³)."""
    energy: list[NDArray[np.float64]] = []
    forces: list[NDArray[np.float64]] = []
    stress: list[NDArray[np.float64]] = []
    for found, atoms in zip(potential.predict(structures), structures, strict=True):
        label = labels_of(atoms)
        if label.energy is not None:
            energy.append(np.array([(found.energy - label.energy) / len(atoms)]))
        if label.forces is not None:
            rest = (found.forces - label.forces).ravel()
            forces.append(rest[np.isfinite(rest)])
        if label.stress is not None and found.stress is not None:
            stress.append((found.stress - label.stress).ravel())
    return [np.concatenate(one) if one else np.zeros(0) for one in (energy, forces, stress)]


__all__ = ["combine", "fitted_weights", "residuals"]
