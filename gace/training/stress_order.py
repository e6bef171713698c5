"""Whether the stresses of training data fit their energies and forces, and what to do where they do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms

from gace.linear.config import PRESETS, LeastSquares
from gace.linear.fit import fit
from gace.linear.model import LinearACE
from gace.potential.potential import Potential
from gace.structures.io import Labels, config_type_of, labels_of, set_labels
from gace.structures.stress_order import FEWEST, Reordered, put_right, reordered_stresses
from gace.training.batches import Packed
from gace.training.statistics import bonding_energies, fit_isolated_atoms

if TYPE_CHECKING:
    from gace.potential.potential import StructurePrediction

PER_KIND = 15
"""Structures of each kind that are looked at, fewer where there are many kinds."""
AT_ALL = 150
"""Structures that are looked at, about."""
LARGEST = 500
"""Atoms beyond which a structure is not looked at."""
ENERGIES_AND_FORCES = LeastSquares(stress_weight=0.0, anchors=0, smoothness=1.0, order_decay=0.1)
"""What the judge is fitted to. It needs no fine prior: other orders are off by factors."""
COEFFICIENTS = 400
"""Of all elements together; per element no fewer than :data:`FEWEST_COEFFICIENTS`."""
FEWEST_COEFFICIENTS = 50
REMEDY = "data.stress_order: corrected puts them right"


def judged_by_energies_and_forces(
    structures: Sequence[Atoms],
    labels: Sequence[Labels],
    elements: Sequence[str],
    isolated_atoms: dict[str, float],
) -> list[Reordered]:
    """Kinds whose stresses stand in another order, by a small linear ACE that has seen no stress.

    Args:
        structures: of the training data.
        labels: theirs.
        elements: of the data.
        isolated_atoms: energies, eV, by element.
    """
    sample = _sample(structures, labels)
    if not sample:
        return []
    chosen = [structures[index] for index in sample]
    known = [labels[index] for index in sample]
    size = max(FEWEST_COEFFICIENTS, COEFFICIENTS // len(elements))
    model = LinearACE(**{**PRESETS["linear-small"], "size": size}, elements=elements)
    model.set_shift(bonding_energies(chosen, known, isolated_atoms))
    packed = Packed(
        chosen,
        [label._replace(stress=None) for label in known],
        elements=list(elements),
        cutoff=model.cutoff,
        isolated_atoms=isolated_atoms,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    fit(model, packed, ENERGIES_AND_FORCES)
    potential = Potential([model], isolated_atom_energies=isolated_atoms)
    return _compared(chosen, known, potential.predict(chosen))


def in_order(structures: Sequence[Atoms]) -> tuple[list[Atoms], list[Reordered]]:
    """Structures with their shear stresses put right where those are in another order, and what was found."""
    labels = [labels_of(atoms) for atoms in structures]
    elements = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    isolated, _ = fit_isolated_atoms(structures, labels, elements)
    found = judged_by_energies_and_forces(structures, labels, elements, isolated)
    return corrected(structures, labels, found)[0], found


def judged_by(potential: Potential, structures: Sequence[Atoms], labels: Sequence[Labels]) -> list[Reordered]:
    """The same by a potential at hand.

    One that has learnt wrong stresses still tells, as a rule: it cannot have them without giving up forces.
    """
    sample = _sample(structures, labels)
    chosen = [structures[index] for index in sample]
    if not chosen:
        return []
    return _compared(chosen, [labels[index] for index in sample], potential.predict(chosen))


def corrected(
    structures: Sequence[Atoms], labels: Sequence[Labels], found: Sequence[Reordered]
) -> tuple[list[Atoms], list[Labels]]:
    """Structures and labels with the shear components of the kinds in ``found`` put right."""
    by_kind = {one.config_type: one for one in found}
    new_structures, new_labels = [], []
    for atoms, label in zip(structures, labels, strict=True):
        order = by_kind.get(config_type_of(atoms))
        if order is not None and label.stress is not None:
            stress = put_right(label.stress, order)
            label = label._replace(stress=stress)
            atoms = set_labels(atoms, *label)
        new_structures.append(atoms)
        new_labels.append(label)
    return new_structures, new_labels


def _compared(
    structures: Sequence[Atoms], labels: Sequence[Labels], predictions: Sequence[StructurePrediction]
) -> list[Reordered]:
    return reordered_stresses(
        [label.stress for label in labels],
        [one.stress for one in predictions],
        [config_type_of(atoms) for atoms in structures],
    )


def _sample(structures: Sequence[Atoms], labels: Sequence[Labels]) -> list[int]:
    """Up to so many structures of each kind that have all labels, evenly spread; nothing without shear."""
    kinds: dict[str, list[int]] = defaultdict(list)
    for index, (atoms, label) in enumerate(zip(structures, labels, strict=True)):
        complete = label.energy is not None and label.forces is not None and label.stress is not None
        if complete and len(atoms) <= LARGEST:
            kinds[config_type_of(atoms)].append(index)
    chosen: list[int] = []
    each = max(FEWEST, min(PER_KIND, AT_ALL // max(1, len(kinds))))
    for members in kinds.values():
        places = np.linspace(0, len(members) - 1, min(each, len(members))).round().astype(int)
        chosen += [members[place] for place in places]
    return sorted(chosen)
