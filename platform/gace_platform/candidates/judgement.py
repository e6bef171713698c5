"""What the potential (or the teacher) thinks of each candidate, and what that rules out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.stats import rankdata

from gace.potential.potential import Potential
from gace.structures.io import labels_of
from gace_platform.candidates.config import SelectConfig
from gace_platform.candidates.pool import UNSTATED, Pool, Rejections

Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


@dataclass(frozen=True)
class Judgement:
    """One row per candidate ``(n,)``; NaN where unknown."""

    energy: Array
    """eV."""
    largest_force: Array
    """eV/Å."""
    gamma: Array
    """Largest γ of an atom."""
    energy_std: Array
    """eV."""
    forces_std: Array
    """Largest error bar of a force component, eV/Å."""

    def take(self, rows: Sequence[int] | np.ndarray) -> Judgement:
        """Those of the given rows (or of a mask)."""
        picked = np.asarray(rows)
        return Judgement(**{name: getattr(self, name)[picked] for name in self.__dataclass_fields__})

    @property
    def uncertainty(self) -> Array | None:
        """Combined measure for the shortlist, ``(n,)``: the higher of the ranks by error bar and by γ.

        Either alone misleads: error bars flatten far out, γ knows nothing of the labels.
        """
        ranks = [_ranks(values) for values in (self.forces_std, self.gamma) if not np.isnan(values).all()]
        return np.max(ranks, axis=0) if ranks else None


def judge(potential: Potential | None, structures: Sequence[Atoms], progress: Progress) -> Judgement:
    """Predictions where there is a potential, else what the exploration wrote beside the structures."""
    if potential is None:
        return Judgement(
            energy=_from_info(structures, "teacher_energy"),
            largest_force=np.array([_largest_teacher_force(atoms) for atoms in structures]),
            gamma=_from_info(structures, "gamma"),
            energy_std=_from_info(structures, "energy_std"),
            forces_std=_from_info(structures, "forces_std"),
        )
    rows = []
    predictions = potential.evaluated_for(structures).predictions(structures, uncertainty=True)
    for number, one in enumerate(predictions):
        rows.append(
            (
                one.energy,
                _largest_norm(one.forces),
                np.nan if one.gamma is None else float(one.gamma.max()),
                np.nan if one.energy_std is None else one.energy_std,
                np.nan if one.forces_std is None else float(one.forces_std.max()),
            )
        )
        progress("judging", number + 1, len(structures))
    return Judgement(*np.array(rows, dtype=float).reshape(-1, 5).T)


def drop_unknown_elements(pool: Pool, potential: Potential | None, rejections: Rejections) -> Pool:
    """Candidates the potential can evaluate at all."""
    if potential is None:
        return pool
    known = set(potential.elements)
    foreign = np.array([bool(set(atoms.get_chemical_symbols()) - known) for atoms in pool.structures], bool)
    rejections.add(
        "unknown_element",
        f"an element the potential does not know (it knows {', '.join(potential.elements)}); to add one, "
        "select without a potential",
        pool.names(foreign),
    )
    return pool.keep(~foreign)


def drop_unphysical(
    pool: Pool, judgement: Judgement, labelled: dict[str, float], config: SelectConfig, rejections: Rejections
) -> NDArray[np.bool_]:
    """Mask ``(n,)`` of candidates within the limits on force, γ and energy.

    Args:
        pool: the candidates.
        judgement: what is thought of them.
        labelled: lowest energy of a label by composition, eV/atom.
        config: the limits; one that is null limits nothing.
        rejections: told what falls out.
    """
    keep = np.ones(len(pool), dtype=bool)

    def drop(name: str, reason: str, bad: NDArray[np.bool_]) -> None:
        rejections.add(name, reason, pool.names(bad & keep))
        keep[bad] = False

    drop("prediction_not_finite", "the predicted force is infinite", np.isinf(judgement.largest_force))
    if config.forces_max is not None:
        reason = f"a force above {config.forces_max:g} eV/Å"
        drop("force_too_large", reason, judgement.largest_force > config.forces_max)
    if config.gamma_max is not None:
        # ∞ with finite forces is an element without training data: new, not broken
        beyond = (judgement.gamma > config.gamma_max) & np.isfinite(judgement.gamma)
        drop("gamma_too_large", f"γ above {config.gamma_max:g}: too far out to be physical", beyond)
    if config.energy_max_per_atom is not None:
        # of those within the other limits: a hole of the potential would make all others look too high
        within, energies = pool.keep(keep), judgement.take(keep).energy
        reference = reference_energies(within, energies, labelled, config.energy_max_per_atom)
        above = energy_above(pool, judgement, reference)
        reason = f"more than {config.energy_max_per_atom:g} eV/atom above the lowest of the same composition"
        drop("energy_too_high", reason, above > config.energy_max_per_atom)
    return keep


def reference_energies(
    pool: Pool, energies: Array, labelled: dict[str, float], limit: float
) -> dict[str, float]:
    """The energy by composition, eV/atom, above which others are measured: the lowest that is believed.

    Where there are labels, that is the lowest energy which is not more than ``limit`` below the lowest
    label: what lies deeper is a hole of the potential rather than a ground state. Where there are none, it is
    the lowest with a witness, a candidate of another trajectory within ``limit`` above it (frames of one walk
    into a hole are poor ones for each other); if nothing has one, of its own; else the lowest.

    Args:
        pool: candidates within all other limits.
        energies: theirs, eV; NaN where unknown.
        labelled: lowest energy of a label by composition, eV/atom.
        limit: eV/atom.
    """
    reference = dict(labelled)
    walks: dict[str, list[tuple[float, str]]] = {}
    trajectories = zip(pool.structures, energies, pool.trajectories, pool.hashes, strict=True)
    for atoms, energy, walk, identity in trajectories:
        if np.isfinite(energy):
            own = identity if walk == UNSTATED else walk
            walks.setdefault(_composition(atoms), []).append((float(energy) / len(atoms), own))
    for name, found in walks.items():
        if name in labelled:
            believed = [value for value, _ in found if value >= labelled[name] - limit]
            reference[name] = min([labelled[name], *believed])
        else:
            reference[name] = _lowest_with_witness(sorted(found), limit)
    return reference


def _lowest_with_witness(ladder: list[tuple[float, str]], limit: float) -> float:
    """The lowest energy that another trajectory, else any other candidate, has one within ``limit`` above.

    Args:
        ladder: energies, ascending, each with its trajectory.
        limit: in their unit.
    """
    other = 0
    for value, walk in ladder:
        # the next of another trajectory lies no earlier for the later ones
        while other < len(ladder) and (ladder[other][1] == walk or ladder[other][0] < value):
            other += 1
        if other < len(ladder) and ladder[other][0] - value <= limit:
            return value
    for (value, _), (above, _) in itertools.pairwise(ladder):
        if above - value <= limit:
            return value
    return ladder[0][0]


def lowest_energies(structures: Sequence[Atoms], energies: Array) -> dict[str, float]:
    """Lowest energy by composition, eV/atom, of structures with their total energies (eV)."""
    return {name: min(values) for name, values in _energies_per_atom(structures, energies).items()}


def _energies_per_atom(structures: Sequence[Atoms], energies: Array) -> dict[str, list[float]]:
    """Finite energies by composition, eV/atom."""
    found: dict[str, list[float]] = {}
    for atoms, energy in zip(structures, energies, strict=True):
        if np.isfinite(energy):
            found.setdefault(_composition(atoms), []).append(float(energy) / len(atoms))
    return found


def energy_above(pool: Pool, judgement: Judgement, reference: dict[str, float]) -> Array:
    """Energy above that of reference of the same composition, eV/atom ``(n,)``; NaN where unknown."""
    sizes = np.array([len(atoms) for atoms in pool.structures])
    base = np.array([reference.get(_composition(atoms), np.nan) for atoms in pool.structures])
    return np.asarray(judgement.energy / sizes - base)


def labelled_energies(known: Sequence[Atoms], potential: Potential | None) -> Array:
    """Labels of the training set, eV ``(n,)``; NaN without a potential: then energies are a teacher's."""
    energies = [labels_of(atoms).energy for atoms in known]
    return np.array([np.nan if potential is None or one is None else one for one in energies], dtype=float)


def _composition(atoms: Atoms) -> str:
    return str(atoms.symbols.formula.reduce()[0].format("hill"))


def _from_info(structures: Sequence[Atoms], name: str) -> Array:
    return np.array([float(atoms.info.get(name, np.nan)) for atoms in structures])


def _largest_teacher_force(atoms: Atoms) -> float:
    forces = atoms.arrays.get("teacher_forces")
    return float("nan") if forces is None else _largest_norm(np.asarray(forces, dtype=float))


def _largest_norm(forces: NDArray[np.float64]) -> float:
    """Largest length of a row; infinite where a component is not finite."""
    return float(np.linalg.norm(np.nan_to_num(forces, nan=np.inf), axis=1).max(initial=0.0))


def _ranks(values: Array) -> Array:
    """Average ranks ``(n,)``; NaN in the middle."""
    known = ~np.isnan(values)
    filled = np.where(known, values, np.median(values[known]))
    return np.asarray(rankdata(filled), dtype=float)
