"""Which structures each member leaves out.

The held-out errors that scale the error bars must come with a spread that is held out too: at a
structure that three of four members have learnt by heart, the spread says how well they remember,
not how little they know. So every structure that is left out is left out by two members at least,
and its spread is taken among those. The blocks go round: block b is left out by members b and
b + 1, and no two members see the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gace.randomness import derive_seed
from gace.structures.identity import structure_hash

MIN_HELD_OUT = 4
"""Held-out structures below which no error bar is scaled: then none are held out for it."""


class Bags(NamedTuple):
    """The members' shares of the training set."""

    in_bag: NDArray[np.bool_]
    """Whether a member trains on a structure ``(M, n)``."""
    by: Literal["reserve", "ancestor", "structure", "nothing"]
    """What was left out: random reserve, whole ancestors, single structures of any origin, or nothing."""


def draw_bags(structures: Sequence[Atoms], members: int, subsample: float, seed: int) -> Bags:
    """Assign structures to members; depends on content, not on the order of the structures.

    The random reserve of the selection (``info["origin"] == "reserve"``) is left out where it is large
    enough: it is the only sample of what exploration meets that no model has biased. Else whole
    ancestors (trajectories) where there are enough small ones, since frames of one trajectory
    resemble each other; else single structures. Where too few would be held out to learn from, nothing is.

    Args:
        structures: The training set, ``n`` structures.
        members: Number of members ``M``; a single one trains on everything.
        subsample: Share of the structures each member trains on.
        seed: Of the committee.
    """
    count = len(structures)
    in_bag = np.ones((members, count), dtype=bool)
    if members < 2 or subsample >= 1 or count < 4 * members:
        return Bags(in_bag, "nothing")
    size = max(1, round(count * (1 - subsample) / 2))
    if members * size < MIN_HELD_OUT:
        return Bags(in_bag, "nothing")
    by, groups = _choose_groups(structures, members, size)
    if by == "reserve":
        size = min(size, -(-len(groups) // members))
    queue = sorted(groups, key=lambda name: derive_seed(seed, "bag", name))
    for block in range(members):
        left_out: list[int] = []
        while queue and len(left_out) < size:
            left_out += groups[queue.pop()]
        for member in (block, (block + 1) % members):
            in_bag[member, left_out] = False
    return Bags(in_bag, by)


def _choose_groups(
    structures: Sequence[Atoms], members: int, size: int
) -> tuple[Literal["reserve", "ancestor", "structure"], dict[str, list[int]]]:
    """What may be left out as a whole, and its kind."""
    hashes = [structure_hash(atoms) for atoms in structures]
    reserve = [index for index, atoms in enumerate(structures) if atoms.info.get("origin") == "reserve"]
    single = _groups(hashes)
    if len({hashes[index] for index in reserve}) >= MIN_HELD_OUT:
        return "reserve", {hashes[index]: single[hashes[index]] for index in reserve}
    ancestors = _groups([str(atoms.info.get("ancestor", "")) for atoms in structures])
    few_or_long = len(ancestors) < 4 * members or len(structures) / len(ancestors) > 1.5 * size
    if "" in ancestors or few_or_long:
        return "structure", single
    return "ancestor", ancestors


def _groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Indices by name."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return groups
