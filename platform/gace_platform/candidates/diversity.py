"""The diverse part of a batch: copies out, a shortlist, and picks that stand for many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gace.potential.potential import Potential
from gace.selection import (
    deduplicate,
    distance_histogram,
    farthest_points,
    gradient_sketch,
    largest_cluster_maximum_distance,
    shortlist,
)
from gace.structures.neighbours import collate
from gace_platform.candidates.config import SelectConfig
from gace_platform.candidates.crystals import same_crystal
from gace_platform.candidates.judgement import Array, Judgement, Progress
from gace_platform.candidates.pool import Pool, Rejections
from gace_platform.candidates.reasons import Pick, explain_diverse


def pick_diverse(
    pool: Pool,
    judgement: Judgement,
    known: list[Atoms],
    potential: Potential | None,
    count: int,
    config: SelectConfig,
    rejections: Rejections,
    progress: Progress,
) -> tuple[list[Pick], dict[str, int]]:
    """Picks in the order of choice, and how many candidates were left after each stage.

    Args:
        pool: physical candidates.
        judgement: what is thought of them.
        known: labelled structures and the reserve: what the picks shall differ from.
        potential: gives the features; None: geometry does.
        count: how many to pick.
        config: strategy and tolerances.
        rejections: told what falls out.
        progress: told how far the gradients are.
    """
    if len(pool) == 0:
        return [], {"distinct": 0, "shortlisted": 0}
    histograms = scaled(distance_histogram([*known, *pool.structures], _elements([*known, *pool.structures])))
    unique = _unique_rows(pool, known, histograms, config, rejections)
    short = _shortlisted_rows(pool, judgement, unique, config, rejections)
    candidates = pool.take(short)
    if potential is None:
        centres, features = histograms[: len(known)], histograms[len(known) :][short]
    else:
        sketch = _sketch(potential, [*known, *candidates.structures], config, progress)
        centres, features = sketch[: len(known)], sketch[len(known) :]
    choose = largest_cluster_maximum_distance if config.strategy == "lcmd" else farthest_points
    found = choose(features, centres, count)
    picks = []
    for number, row in enumerate(short[found.row]):
        reason = explain_diverse(config.strategy, found, number, potential is not None, judgement.take([row]))
        picks.append(Pick.of(pool, judgement, int(row), config.strategy, reason))
    rejections.add(
        "not_chosen",
        "shortlisted, but the picks stand for it: a pick or a labelled structure is close enough",
        candidates.names(~np.isin(np.arange(len(candidates)), found.row)),
    )
    return picks, {"distinct": len(unique), "shortlisted": len(short)}


def scaled(features: Array) -> Array:
    """Features ``(n, D)`` divided by the mean length of a row, so that distances are relative."""
    length = float(np.linalg.norm(features, axis=1).mean()) if len(features) else 0.0
    return features / length if length > 0 else features


def _unique_rows(
    pool: Pool, known: list[Atoms], histograms: Array, config: SelectConfig, rejections: Rejections
) -> NDArray[np.int64]:
    """Rows of candidates that repeat neither a known structure nor an earlier candidate."""
    if config.duplicate_tolerance == 0:
        return np.arange(len(pool))
    same = same_crystal([*known, *pool.structures], config.crystal_tolerance)
    repeats = deduplicate(
        histograms[len(known) :], histograms[: len(known)], config.duplicate_tolerance, same
    )
    limit = f"descriptors within {config.duplicate_tolerance:g} of each other"
    of_known = (repeats >= 0) & (repeats < len(known))
    reason = f"nearly the same as a labelled or reserve structure: {limit}"
    rejections.add("copy_of_known", reason, pool.names(of_known))
    of_pool = repeats >= len(known)
    rejections.add("near_copy", f"nearly the same as another candidate: {limit}", pool.names(of_pool))
    return np.flatnonzero(repeats < 0)


def _shortlisted_rows(
    pool: Pool,
    judgement: Judgement,
    unique: NDArray[np.int64],
    config: SelectConfig,
    rejections: Rejections,
) -> NDArray[np.int64]:
    """Rows of the candidates that reach the diversity step."""
    within, uncertainty = pool.take(unique), judgement.take(unique).uncertainty
    short = unique[
        shortlist(within.hashes, uncertainty, within.trajectories, config.n_shortlist, config.seed)
    ]
    left_out = np.zeros(len(pool), dtype=bool)
    left_out[np.setdiff1d(unique, short)] = True
    reason = "not drawn for the diversity step; the draw favours uncertain candidates and spreads over walks"
    rejections.add("not_shortlisted", reason, pool.names(left_out))
    return short


def _sketch(
    potential: Potential, structures: Sequence[Atoms], config: SelectConfig, progress: Progress
) -> Array:
    """Sketched gradients of the first member, relative ``(n, gradient_dimensions)``."""
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress("comparing", done, len(structures))

    graphs = (
        collate([potential.neighbourhood(atoms)], potential.cutoff, potential.dtype, potential.device)
        for atoms in structures
    )
    return scaled(
        gradient_sketch(potential.members[0], graphs, config.seed, config.gradient_dimensions, tell)
    )


def _elements(structures: Sequence[Atoms]) -> list[str]:
    """All elements that occur, by atomic number."""
    symbols = {symbol for atoms in structures for symbol in set(atoms.get_chemical_symbols())}
    return sorted(symbols, key=lambda symbol: atomic_numbers[symbol])
