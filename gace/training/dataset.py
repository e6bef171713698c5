"""Labelled structures: reading, checking and splitting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms

from gace.errors import InputError
from gace.randomness import derive_seed
from gace.structures.identity import structure_hash
from gace.structures.io import Labels, labels_of, read_structures
from gace.structures.neighbours import complete_cell

SOURCE = "gace_source"
"""Key of ``info`` that says where a structure was read."""

LARGEST_LABEL = 1e12
"""eV, eV/Å, eV/Å³: what is larger is no label, and its square soon more than single precision holds."""


class Split(NamedTuple):
    """Structures for training and for validation, each in an order that depends on content only."""

    train: list[Atoms]
    validation: list[Atoms]
    warnings: list[str]


def read_labelled(paths: Path | Sequence[Path]) -> list[Atoms]:
    """All structures of one or several files.

    Raises:
        InputError: a file is missing, unreadable, or holds no structures.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if not files:
        raise InputError("data.train names no file")
    structures = []
    for path in files:
        for index, atoms in enumerate(read_structures(path)):
            atoms.info[SOURCE] = f"{path.name}, frame {index}"
            structures.append(atoms)
    return structures


def is_isolated_atom(atoms: Atoms) -> bool:
    """Whether a structure is a reference energy rather than training data: one atom in empty space."""
    return len(atoms) == 1 and not atoms.pbc.any()


def canonical(structures: Sequence[Atoms]) -> list[Atoms]:
    """Structures in an order that depends on their content only."""
    return sorted(structures, key=structure_hash)


def split(structures: Sequence[Atoms], validation: float | int, seed: int) -> Split:
    """Set structures aside for validation: whole ancestors (trajectories) where they are named.

    Ancestors are taken while they fit. Where none does, frames are taken one by one, and a warning says so.

    Args:
        structures: labelled structures.
        validation: a fraction below 1, or a number of structures.
        seed: which ones are drawn derives from it and from the structures themselves.

    Raises:
        InputError: nothing would be left to train on.
    """
    ordered = canonical(structures)
    if isinstance(validation, float):
        # a share of few structures is one of them, where that leaves any to train on
        count = round(validation * len(ordered)) or int(validation > 0 and len(ordered) > 1)
    else:
        count = validation
    if count == 0:
        return Split(ordered, [], [])
    if count >= len(ordered):
        raise InputError(f"data.validation takes {count} of {len(ordered)} structures: none left to train on")
    chosen = _by_ancestor(ordered, count, seed)
    warnings = []
    if not chosen:
        if any("ancestor" in atoms.info for atoms in ordered):
            warnings.append("too few ancestors to validate on a separate one: validation is by frame")
        keys = [derive_seed(seed, "validation", structure_hash(atoms)) for atoms in ordered]
        chosen = set(np.argsort(keys, kind="stable")[:count].tolist())
    rest = {symbol for index, atoms in enumerate(ordered) if index not in chosen for symbol in atoms.symbols}
    rare = {index for index in chosen if not rest.issuperset(ordered[index].symbols)}
    if rare:
        chosen -= rare
        warnings.append(f"{len(rare)} structures with elements of their own are learnt, not validated on")
    train = [atoms for index, atoms in enumerate(ordered) if index not in chosen]
    return Split(train, [ordered[index] for index in sorted(chosen)], warnings)


def _by_ancestor(structures: Sequence[Atoms], count: int, seed: int) -> set[int]:
    """Indices of whole ancestors that together hold at most ``count`` structures; may be empty."""
    groups: dict[str, list[int]] = {}
    for index, atoms in enumerate(structures):
        if "ancestor" not in atoms.info:
            return set()
        groups.setdefault(str(atoms.info["ancestor"]), []).append(index)
    chosen: set[int] = set()
    for ancestor in sorted(groups, key=lambda name: derive_seed(seed, "validation", name)):
        if len(chosen) + len(groups[ancestor]) <= count:
            chosen.update(groups[ancestor])
    return chosen


def checked_labels(structures: Sequence[Atoms], what: str) -> list[Labels]:
    """The labels of every structure.

    Raises:
        InputError: a structure without energy and forces, with an impossible label, weight, position or
            cell; the message names it.
    """
    found = []
    for index, atoms in enumerate(structures):
        try:
            labels = labels_of(atoms)
            weights_of(atoms)
            complete_cell(atoms)
            if not np.isfinite(atoms.positions).all():
                raise InputError("a position is NaN or infinite")
        except InputError as error:
            raise InputError(f"{what}: {describe(atoms, index)}: {error}") from None
        if labels.energy is None and labels.forces is None:
            raise InputError(f"{what}: {describe(atoms, index)} has neither REF_energy nor REF_forces")
        for name, value in zip(labels._fields, labels, strict=True):
            if value is not None and (largest := np.nanmax(np.abs(value))) > LARGEST_LABEL:
                size = f"of {largest:.3g}" if np.isfinite(largest) else "that is infinite"
                raise InputError(f"{what}: {describe(atoms, index)} has a label of its {name} {size}")
        found.append(labels)
    return found


def weights_of(atoms: Atoms) -> tuple[float, float, float]:
    """Weights of a structure's energy, forces and stress in the loss.

    ``info["weight"]`` times ``info["energy_weight"]``, ``info["forces_weight"]``, ``info["stress_weight"]``;
    each 1 where absent. A label of weight zero teaches nothing.

    Raises:
        InputError: a weight is negative or not a finite number.
    """
    values = []
    for key in ("weight", "energy_weight", "forces_weight", "stress_weight"):
        try:
            value = float(atoms.info.get(key, 1.0))
        except (TypeError, ValueError):
            value = np.nan
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"{key} must be a number, zero or larger (got {atoms.info[key]!r})")
        values.append(value)
    common, energy, forces, stress = values
    return common * energy, common * forces, common * stress


def without_weightless(structures: Sequence[Atoms], labels: Sequence[Labels]) -> list[Labels]:
    """The labels without those of weight zero: they count neither in the loss nor in its means."""
    found = []
    for atoms, label in zip(structures, labels, strict=True):
        energy, forces, stress = weights_of(atoms)
        found.append(
            Labels(
                label.energy if energy else None,
                label.forces if forces else None,
                label.stress if stress else None,
            )
        )
    return found


def describe(atoms: Atoms, index: int) -> str:
    """A structure's name for messages: its identifier where it has one, else where it stands in its file."""
    name = atoms.info.get("structure_id", atoms.info.get("label_key"))
    place = f"structure '{name}'" if name is not None else atoms.info.get(SOURCE, f"structure {index}")
    return f"{place} ({atoms.get_chemical_formula()})"
