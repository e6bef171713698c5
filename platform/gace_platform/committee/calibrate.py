"""Novelty and error bars of a trained committee, from its training set and what its members left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from gace.potential.potential import Potential
from gace.structures.io import labels_of
from gace.training.dataset import without_weightless
from gace.uncertainty.committee import energy_spread, forces_spread
from gace.uncertainty.container import Uncertainty
from gace.uncertainty.novelty import Novelty
from gace_platform.committee.bags import MIN_HELD_OUT, Bags

Array = NDArray[np.float64]

MIN_ANCESTORS = 10
"""Trajectories from which on whole ones are held out to measure the edge of the training set."""


class HeldOut(NamedTuple):
    """Errors at structures that at least two members (or the only one) have not seen."""

    energy_residual: Array
    """eV/√atom ``(n,)``; NaN without label."""
    energy_spread: Array
    """eV/√atom ``(n,)``."""
    forces_residual: Array
    """eV/Å ``(N, 3)``."""
    forces_spread: Array
    """eV/Å ``(N,)``."""
    fewer: Array
    """1/k - 1/M of the k members averaged, for each structure ``(n,)``."""
    sizes: NDArray[np.int64]
    """Atoms of each structure ``(n,)``."""
    rows: NDArray[np.int64]
    """Which of the structures these are ``(n,)``."""

    @property
    def enough(self) -> bool:
        """Whether scales can be fitted."""
        return bool(
            np.isfinite(self.energy_residual).sum() >= MIN_HELD_OUT
            and np.isfinite(self.forces_residual).any()
        )

    def only(self, chosen: NDArray[np.bool_]) -> HeldOut:
        """Some of the structures ``(n,)``."""
        atoms = np.repeat(chosen, self.sizes)
        return HeldOut(
            self.energy_residual[chosen],
            self.energy_spread[chosen],
            self.forces_residual[atoms],
            self.forces_spread[atoms],
            self.fewer[chosen],
            self.sizes[chosen],
            self.rows[chosen],
        )


def fit_novelty(potential: Potential, structures: Sequence[Atoms], seed: int) -> Novelty:
    """The region of feature space that the training set fills, in the first member's features."""
    from gace.structures.neighbours import collate

    model, features, species = potential.members[0], [], []
    with torch.no_grad():
        for atoms in structures:
            one = potential.neighbourhood(atoms)
            graph = collate([one], potential.cutoff, potential.dtype, potential.device)
            features.append(model(graph).features.cpu().numpy())
            species.append(one.species)
    names = [str(atoms.info.get("ancestor", number)) for number, atoms in enumerate(structures)]
    if len(set(names)) < MIN_ANCESTORS:
        names = [str(number) for number in range(len(structures))]
    group = np.unique(names, return_inverse=True)[1]
    sizes = [len(atoms) for atoms in structures]
    return Novelty.fit(
        np.concatenate(features), np.concatenate(species), potential.elements, seed, np.repeat(group, sizes)
    )


def held_out(potential: Potential, structures: Sequence[Atoms], in_bag: NDArray[np.bool_]) -> HeldOut | None:
    """Residuals and spreads where they are held out; None where there are none.

    Args:
        potential: The committee, ``M`` members.
        structures: Labelled structures, ``n`` of them.
        in_bag: Whether a member trained on a structure ``(M, n)``.
    """
    members, unseen = len(potential.members), ~in_bag
    rows = np.flatnonzero(unseen.sum(0) >= min(2, members)).tolist()
    if not rows:
        return None
    predictions: list[dict[int, Any]] = []
    for number, member in enumerate(potential.members):
        single = Potential([member], isolated_atom_energies=potential.isolated_atom_energies)
        own = [row for row in rows if unseen[number, row]]
        predictions.append(dict(zip(own, single.predict([structures[row] for row in own]), strict=True)))
    parts: list[tuple[float, float, Array, Array, float]] = []
    for row in rows:
        atoms, seen_by = structures[row], [one[row] for one in predictions if row in one]
        energy = np.array([[one.energy] for one in seen_by])  # (k, 1)
        forces = np.array([one.forces for one in seen_by])  # (k, N, 3)
        # what a weight of zero keeps out of training is no measure of its errors either
        (labels,) = without_weightless([atoms], [labels_of(atoms)])
        root = np.sqrt(len(atoms))
        energy_error = np.nan if labels.energy is None else (energy.mean() - labels.energy) / root
        forces_error = np.full(forces.shape[1:], np.nan)
        if labels.forces is not None:
            forces_error = forces.mean(0) - labels.forces
        spread = float(energy_spread(energy, np.array([len(atoms)]))[0])
        fewer = 1 / len(seen_by) - 1 / members
        parts.append((float(energy_error), spread, forces_error, forces_spread(forces), fewer))
    return HeldOut(
        np.array([part[0] for part in parts]),
        np.array([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
        np.array([part[4] for part in parts]),
        np.array([len(structures[row]) for row in rows]),
        np.array(rows),
    )


def fewer_members_factor(residual: Array, spread: Array, fewer: Array) -> float:
    """What to multiply residuals of the mean of k members with, to resemble those of the mean of all M.

    The mean of k members errs by bias² + v/k, that of M by bias² + v/M, where v is the squared
    spread: on average (1/k - 1/M) v too much.

    Args:
        residual: ``(n,)`` or ``(n, 3)``, NaN where there is no label.
        spread: ``(n,)``.
        fewer: 1/k - 1/M, ``(n,)``.
    """
    squared = np.square(residual).reshape(len(residual), -1).mean(1)
    known = np.isfinite(squared)
    if not known.any() or not squared[known].any():
        return 1.0
    excess = float((fewer[known] * np.square(spread[known])).mean() / squared[known].mean())
    # the variance cannot be all of the error: with noisy spreads an estimate near 1 is no estimate
    return float(np.sqrt(max(1 - excess, 0.25)))


def calibrate(
    potential: Potential,
    train: Sequence[Atoms],
    bags: Bags,
    validation: Sequence[Atoms],
    seed: int,
) -> tuple[Uncertainty, HeldOut | None]:
    """Fit novelty and, where enough structures are held out, the error bars' scales.

    They are fitted to the random reserve alone where enough of it is held out, be it by two members or for
    validation; else to all that is. What is returned beside them is all that is held out.

    Args:
        potential: The committee, without uncertainty.
        train: The training set, ``n`` structures, without what is replayed.
        bags: Which member trained on which of them.
        validation: Structures that no member trained on.
        seed: Of the committee.
    """
    uncertainty = Uncertainty(novelty=fit_novelty(potential, train, seed))
    none_saw = np.zeros((len(bags.in_bag), len(validation)), dtype=bool)
    structures = [*train, *validation]
    found = held_out(potential, structures, np.concatenate([bags.in_bag, none_saw], axis=1))
    if found is None or not found.enough:
        return uncertainty, found
    fitted, source = _evidence(found, structures, len(train))
    atoms_fewer = np.repeat(fitted.fewer, fitted.sizes)
    energy = fewer_members_factor(fitted.energy_residual, fitted.energy_spread, fitted.fewer)
    forces = fewer_members_factor(fitted.forces_residual, fitted.forces_spread, atoms_fewer)
    scaled = uncertainty.calibrated(
        energy * fitted.energy_residual,
        fitted.energy_spread,
        forces * fitted.forces_residual,
        fitted.forces_spread,
        source,
    )
    return scaled, found


def _evidence(found: HeldOut, structures: Sequence[Atoms], n_train: int) -> tuple[HeldOut, str]:
    """What the scales are fitted to, and the name of where it comes from."""
    reserve = found.only(
        np.array([structures[row].info.get("origin") == "reserve" for row in found.rows.tolist()])
    )
    if reserve.enough:
        return reserve, "reserve"
    return found, "validation" if (found.rows >= n_train).all() else "out-of-bag"
