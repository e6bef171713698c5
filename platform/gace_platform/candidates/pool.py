"""The candidates: read, brought into an order of their own, and judged by what needs no potential."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from gace.errors import InputError
from gace.structures.identity import structure_hash
from gace.structures.io import read_structures
from gace.structures.neighbours import complete_cell
from gace_platform.candidates.config import SelectConfig
from gace_platform.exploration.geometry import shortest_distance
from gace_platform.ledger.canonical import canonical_hash

KEY_DIGITS = 16
"""Digits of the structure's hash in a label key."""

UNSTATED = "/"
"""Trajectory of candidates that state neither ancestor nor walker."""


@dataclass
class Rejections:
    """Why candidates fell out: a count, a sentence and some examples for each class."""

    classes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, reason: str, candidates: Iterable[str]) -> None:
        """Count candidates (named by id) under a class."""
        names = list(candidates)
        if not names:
            return
        entry = self.classes.setdefault(name, {"class": name, "reason": reason, "count": 0, "examples": []})
        entry["count"] += len(names)
        entry["examples"] = sorted([*entry["examples"], *names])[:3]

    def as_list(self) -> list[dict[str, Any]]:
        """JSON-able, in the order of the pipeline."""
        return list(self.classes.values())


@dataclass(frozen=True)
class Pool:
    """Candidates in the order of their hashes, so that nothing depends on the files' order."""

    structures: list[Atoms]
    hashes: list[str]

    def __len__(self) -> int:
        return len(self.structures)

    def keep(self, mask: Sequence[bool] | np.ndarray) -> Pool:
        """Those for which ``mask`` ``(n,)`` is true."""
        rows = np.flatnonzero(np.asarray(mask, dtype=bool))
        return self.take(rows)

    def take(self, rows: Sequence[int] | np.ndarray) -> Pool:
        """Those of the given rows, in that order."""
        return Pool([self.structures[row] for row in rows], [self.hashes[row] for row in rows])

    def names(self, mask: Sequence[bool] | np.ndarray) -> list[str]:
        """Ids of those for which ``mask`` is true."""
        return [name_of(self.structures[row], self.hashes[row]) for row in np.flatnonzero(mask)]

    @property
    def trajectories(self) -> list[str]:
        """Where each candidate comes from: ancestor and walker as far as stated (:data:`UNSTATED`)."""
        return [f"{one.info.get('ancestor', '')}/{one.info.get('walker', '')}" for one in self.structures]


def name_of(atoms: Atoms, identity: str) -> str:
    """The structure's own id, else the beginning of its hash."""
    return str(atoms.info.get("structure_id") or identity[:KEY_DIGITS])


def read_all(files: Iterable[Path]) -> list[Atoms]:
    """Structures of several files.

    Raises:
        InputError: a file is missing or holds no structures.
    """
    return [atoms for path in files for atoms in read_structures(path)]


def gather_pool(structures: Sequence[Atoms], rejections: Rejections) -> Pool:
    """Sound candidates, each once, ordered by hash."""
    sound: list[Atoms] = []
    broken: list[Atoms] = []
    for atoms in structures:
        (sound if is_sound(atoms) else broken).append(atoms)
    rejections.add(
        "not_finite",
        "a coordinate is NaN or infinite, or the cell has no volume",
        (str(atoms.info.get("structure_id", "unnamed")) for atoms in broken),
    )
    # the tie-break sees everything a candidate says of itself: two frames with equal geometry
    # must not swap roles because the files were listed in another order
    keyed = sorted(
        ((structure_hash(atoms), _details(atoms), atoms) for atoms in sound), key=lambda entry: entry[:2]
    )
    first = [number for number, entry in enumerate(keyed) if not number or entry[0] != keyed[number - 1][0]]
    kept = set(first)
    rejections.add(
        "exact_copy",
        "another candidate has the very same atoms in the same places",
        (name_of(entry[2], entry[0]) for number, entry in enumerate(keyed) if number not in kept),
    )
    return Pool([keyed[number][2] for number in first], [keyed[number][0] for number in first])


def is_sound(atoms: Atoms) -> bool:
    """Whether coordinates are finite and the cell, where periodic, has a volume."""
    try:
        complete_cell(atoms)
    except InputError:
        return False
    return bool(np.isfinite(atoms.positions).all())


def drop_known(pool: Pool, known: Sequence[Atoms], config: SelectConfig, rejections: Rejections) -> Pool:
    """Candidates that nobody has labelled or excluded yet, compared by hash.

    By that of the canonical form too, as label keys are: moved, turned, with atoms in other cells or in
    another order a structure has the same label, and one of the exam gives its answer away.
    """
    labelled, excluded = _names(known), _names(read_all(config.exclude))
    excluded |= {key.partition("-")[0][:KEY_DIGITS] for key in config.exclude_keys}
    own = [
        _names([atoms]) if labelled or excluded else {one}
        for atoms, one in zip(pool.structures, pool.hashes, strict=True)
    ]
    is_labelled = np.array([bool(names & labelled) for names in own], dtype=bool)
    is_excluded = np.array([bool(names & excluded) for names in own], dtype=bool) & ~is_labelled
    rejections.add("already_labelled", "this very structure is in the training set", pool.names(is_labelled))
    rejections.add("excluded", "named by exclude or exclude_keys", pool.names(is_excluded))
    return pool.keep(~(is_labelled | is_excluded))


def _names(structures: Iterable[Atoms]) -> set[str]:
    """Hashes by which structures are known: as they are, and of their canonical form."""
    return {made(atoms)[:KEY_DIGITS] for atoms in structures for made in (structure_hash, canonical_hash)}


def drop_collided(pool: Pool, config: SelectConfig, rejections: Rejections) -> Pool:
    """Candidates without atoms on top of each other."""
    shortest = np.array([shortest_distance(atoms) for atoms in pool.structures])
    collided = shortest < config.distance_min
    worst = f", down to {shortest.min():.2f}" if collided.any() else ""
    rejections.add(
        "too_close",
        f"two atoms nearer than {config.distance_min:g} of the sum of their covalent radii{worst}",
        pool.names(collided),
    )
    return pool.keep(~collided)


def _details(atoms: Atoms) -> str:
    """What a frame says of itself, as text to order by."""
    return json.dumps({str(key): repr(value) for key, value in atoms.info.items()}, sort_keys=True)
