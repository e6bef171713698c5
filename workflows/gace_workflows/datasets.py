"""Small, recorded operations on data sets: each is an AiiDA calculation function with its provenance."""

from __future__ import annotations

import typing as t

from aiida import orm
from aiida.engine import calcfunction

from aiida_gace.data.dataset import DatasetData
from gace.randomness import derive_seed
from gace.structures.identity import structure_hash
from gace.structures.io import set_labels

if t.TYPE_CHECKING:
    from ase import Atoms


@calcfunction
def draw_exam(candidates: DatasetData, count: orm.Int, seed: orm.Int) -> DatasetData:
    """Exam structures drawn at random from trajectories that serve nothing else.

    The draw orders the candidates by a hash of their content, so it depends on nothing but them and the seed.
    """
    frames = _drawn(candidates.get_structures(), count.value, seed.value, "exam")
    for atoms in frames:
        atoms.info["purpose"] = "exam"
        atoms.info["origin"] = "exam"
    return DatasetData(frames)


@calcfunction
def with_teacher_labels(candidates: DatasetData, count: orm.Int, seed: orm.Int) -> DatasetData:
    """A random part of the teacher's frames with the teacher's own energies and forces as labels."""
    frames = []
    for atoms in _drawn(candidates.get_structures(), count.value, seed.value, "pretraining"):
        labelled = set_labels(
            atoms,
            energy=atoms.info.get("teacher_energy"),
            forces=atoms.arrays.get("teacher_forces"),
            stress=atoms.info.get("teacher_stress"),
        )
        frames.append(labelled)
    return DatasetData(frames)


@calcfunction
def together(first: DatasetData, second: DatasetData) -> DatasetData:
    """Two data sets as one; a structure that is in both counts once."""
    return DatasetData(_distinct([*first.get_structures(), *second.get_structures()]))


@calcfunction
def without_exam(labelled: DatasetData) -> DatasetData:
    """The labelled structures that may be trained on."""
    return DatasetData([atoms for atoms in labelled.get_structures() if atoms.info.get("purpose") != "exam"])


@calcfunction
def only_exam(labelled: DatasetData) -> DatasetData:
    """The labelled structures of the exam."""
    return DatasetData([atoms for atoms in labelled.get_structures() if atoms.info.get("purpose") == "exam"])


def _drawn(frames: list[Atoms], count: int, seed: int, purpose: str) -> list[Atoms]:
    """At most ``count`` distinct frames in an order that depends on their content and the seed alone."""
    frames = _distinct(frames)
    order = sorted(frames, key=lambda atoms: derive_seed(seed, purpose, structure_hash(atoms)))
    return order[:count]


def _distinct(frames: list[Atoms]) -> list[Atoms]:
    """Frames with each structure once, the first of its kind."""
    return list({structure_hash(atoms): atoms for atoms in reversed(frames)}.values())[::-1]


__all__ = [
    "draw_exam",
    "only_exam",
    "together",
    "with_teacher_labels",
    "without_exam",
]
