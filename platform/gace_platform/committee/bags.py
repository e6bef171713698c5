"""Which structures each member leaves out.

The held-out errors that scale the error bars must come with a spread that is held out too: at a
structure that three of four members have learnt by heart, the spread says how well they remember,
not how little they know. So every structure that is left out is left out by two members at least,
and its spread is taken among those. The blocks go round: block b is left out by members b and
b + 1, and no two members see the same data. Two members would both leave out everything that either
does, and nobody would learn it: they leave out nothing.
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

Kind = Literal["reserve", "reserve-ancestor", "ancestor", "structure", "nothing"]


class Bags(NamedTuple):
    """The members' shares of the training set."""

    in_bag: NDArray[np.bool_]
    """Whether a member trains on a structure ``(M, n)``."""
    by: Kind
    """What was left out: random reserve, the same with the rest of its ancestors, whole ancestors, single
    structures of any origin, or nothing."""


def draw_bags(structures: Sequence[Atoms], members: int, subsample: float, seed: int) -> Bags:
    """Assign structures to members; depends on content, not on the order of the structures.

    The random reserve of the selection (``info["origin"] == "reserve"``) is left out where it is large
    enough: it is the only sample of what exploration meets that no model has biased. The other frames of
    its ancestors (trajectories) are left out with it where that takes no more than twice the share that was
    asked for and costs no more than half of the held-out reserve. Without a reserve whole ancestors are
    left out where there are enough small ones, since frames of one trajectory resemble each other; else
    single structures. Where too few would be held out to learn from, nothing is.

    Args:
        structures: The training set, ``n`` structures.
        members: Number of members ``M``; one or two train on everything.
        subsample: Share of the structures each member trains on.
        seed: Of the committee.
    """
    count = len(structures)
    in_bag = np.ones((members, count), dtype=bool)
    if members < 3 or subsample >= 1 or count < 4 * members:
        return Bags(in_bag, "nothing")
    size = max(1, round(count * (1 - subsample) / 2))
    if members * size < MIN_HELD_OUT:
        return Bags(in_bag, "nothing")
    by, blocks = _choose_blocks(structures, members, size, seed)
    for block, left_out in enumerate(blocks):
        for member in (block, (block + 1) % members):
            in_bag[member, left_out] = False
    return Bags(in_bag, by)


def _choose_blocks(
    structures: Sequence[Atoms], members: int, size: int, seed: int
) -> tuple[Kind, list[list[int]]]:
    """What is left out, by block, and its kind."""
    hashes = [structure_hash(atoms) for atoms in structures]
    reserve = [index for index, atoms in enumerate(structures) if atoms.info.get("origin") == "reserve"]
    if len({hashes[index] for index in reserve}) >= MIN_HELD_OUT:
        return _reserve_blocks(structures, hashes, reserve, members, size, seed)
    ancestors = _groups([str(atoms.info.get("ancestor", "")) for atoms in structures])
    few_or_long = len(ancestors) < 4 * members or len(structures) / len(ancestors) > 1.5 * size
    if "" in ancestors or few_or_long:
        return "structure", _deal(_groups(hashes), members, size, seed)
    return "ancestor", _deal(ancestors, members, size, seed)


def _reserve_blocks(
    structures: Sequence[Atoms], hashes: list[str], reserve: list[int], members: int, size: int, seed: int
) -> tuple[Kind, list[list[int]]]:
    """The reserve dealt to blocks, with the rest of its ancestors where these are small enough."""
    single = _groups(hashes)
    names = [
        str(atoms.info.get("ancestor", "")) or one for atoms, one in zip(structures, hashes, strict=True)
    ]
    ancestors = _groups(names)
    alone = {hashes[index]: single[hashes[index]] for index in reserve}
    whole: dict[str, list[int]] = {}
    for index in reserve:
        kin = {hashes[other] for other in ancestors[names[index]]}
        # one that has no siblings is dealt as it is alone, by its content
        whole[names[index] if len(kin) > 1 else hashes[index]] = [row for one in kin for row in single[one]]

    def dealt(groups: dict[str, list[int]]) -> list[list[int]]:
        count = len({hashes[row] for rows in groups.values() for row in rows})
        return _deal(groups, members, min(size, -(-count // members)), seed)

    def held(blocks: list[list[int]]) -> int:
        return len({hashes[row] for rows in blocks for row in rows} & alone.keys())

    frames = dealt(alone)
    if whole.keys() == alone.keys():
        return "reserve", frames
    kept = dealt(whole)
    fits = max(len(rows) for rows in kept) <= 2 * size
    if fits and held(kept) >= max(MIN_HELD_OUT, held(frames) / 2):
        return "reserve-ancestor", kept
    return "reserve", frames


def _deal(groups: dict[str, list[int]], members: int, size: int, seed: int) -> list[list[int]]:
    """Groups drawn for each block until it has ``size`` structures."""
    queue = sorted(groups, key=lambda name: derive_seed(seed, "bag", name))
    blocks: list[list[int]] = []
    dealt: set[int] = set()  # walks may share a frame, their start for instance
    for _ in range(members):
        left_out: list[int] = []
        while queue and len(left_out) < size:
            left_out += [row for row in groups[queue.pop()] if row not in dealt]
            dealt.update(left_out)
        blocks.append(left_out)
    return blocks


def _groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Indices by name."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return groups
