"""One potential out of several: the mean of all their members."""

from __future__ import annotations

from collections.abc import Sequence

from gace.errors import InputError
from gace.potential.potential import Potential

ENERGY_TOLERANCE = 1e-6
"""Isolated-atom energies that differ by less are the same, eV."""


def combine(potentials: Sequence[Potential]) -> Potential:
    """The mean of all members of several potentials for the same labels.

    The error of a mean is smaller the less the members' errors have in common: trainings from several
    seeds, each from scratch, or another kind of model, such as a linear ACE beside a graph ACE. Error
    bars and novelty measures of the single potentials do not hold for the mean and are left behind; its
    own spread is not calibrated.

    Args:
        potentials: at least two, with the same elements in the same order and the same cutoff. Device and
            precision are those of the first.

    Raises:
        InputError: fewer than two, or potentials that differ in elements, cutoff, isolated-atom energies or
            level of theory.
    """
    if len(potentials) < 2:
        raise InputError("combining takes two potentials or more")
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
    )


__all__ = ["combine"]
